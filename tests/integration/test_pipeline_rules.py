"""What a pipeline stores, for how long, whose it is, what it saves; and what answers say of that."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.config import TtlRule, TtlRules
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.errors import NotCached, RequestError
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.pipeline.writing import Writing
from axolotl_cache.request import CacheControl, Message, Request, Sampling, Served
from axolotl_cache.response import storable
from axolotl_cache.response.prices import PriceTable

SYSTEM = "You help the customers of a bank. " * 12
CUT_OFF = CacheControl(truncated=True)  # the small model's answers have no end of their own


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make(loaded, engine, clock):
    engine.clear()

    def make(**options):
        renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        cache = SmartInferenceCache(capacity=100, timeout=60, clock=clock)
        return Pipeline(engine, renderer, loaded.namespace, cache, clock=clock, **options)

    return make


def ask(text="Hello?", control=CUT_OFF, **options) -> Request:
    sampling = options.pop("sampling", Sampling(max_new_tokens=4))
    messages = (Message("system", SYSTEM), Message("user", text))
    return Request(messages=messages, sampling=sampling, cache_control=control, **options)


def says(monkeypatch, text, finish_reason="stop"):
    """Let the model say this, whatever it computes."""
    monkeypatch.setattr(Writing, "text", text)
    monkeypatch.setattr(Writing, "finish_reason", finish_reason)


# What is stored


def test_cut_off_answers_are_not_stored_unless_asked(make):
    pipeline = make()
    for _ in range(2):
        answer = pipeline.answer(ask(control=CacheControl()))
        assert answer.finish_reason == "length"
        assert answer.served is not Served.HIT_EXACT
        assert answer.not_stored == storable.TRUNCATED
    assert pipeline.totals.not_stored == {storable.TRUNCATED: 2}
    pipeline.answer(ask())
    assert pipeline.answer(ask()).served is Served.HIT_EXACT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I'm sorry, but I can't help with that.", storable.READS_AS_REFUSAL),
        ("抱歉，我无法回答这个问题。", storable.READS_AS_REFUSAL),
        (" \n", storable.EMPTY),
        ("Your card arrives in five days.", None),
    ],
)
def test_refusals_and_empty_answers_are_not_stored(make, monkeypatch, text, reason):
    pipeline = make()
    says(monkeypatch, text)
    answer = pipeline.answer(ask(control=CacheControl()))
    assert (answer.text, answer.not_stored) == (text, reason)
    assert len(pipeline.response) == (reason is None)
    wanted = pipeline.answer(ask("Again?", CacheControl(refusals=True)))
    assert wanted.not_stored == (None if reason != storable.EMPTY else reason)


def test_streams_left_early_and_errors_are_counted(make, monkeypatch):
    pipeline = make()
    stream = pipeline.stream(ask())
    next(stream)
    stream.close()
    assert pipeline.totals.not_stored == {storable.ABORTED: 1}

    def breaks(*_):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.engine._forward, "run", breaks)
        with pytest.raises(RuntimeError, match="out of luck"):
            pipeline.answer(ask("Another?"))
    assert pipeline.totals.not_stored == {storable.ABORTED: 1, storable.FAILED: 1}
    assert len(pipeline.response) == 0


# For how long


def test_without_rules_it_is_the_entry_timeout(make):
    first, again = (make().answer(ask("What is the weather right now?")) for _ in range(2))
    assert (first.ttl.ttl_seconds, first.ttl.kind, first.ttl.why) == (60, "", "entry_timeout")
    assert first.not_stored is again.not_stored is None


def test_the_decision_travels_with_the_answer_and_with_the_hit(make, clock):
    pipeline = make(ttl_rules=TtlRules(rules=(TtlRule(tag="faq", kind="static"),)))
    first = pipeline.answer(ask(tags=("faq",)))
    clock.advance(47 * 3600)
    again = pipeline.answer(ask())
    assert again.served is Served.HIT_EXACT
    for answer in (first, again):
        assert (answer.ttl.ttl_seconds, answer.ttl.kind) == (48 * 3600, "static")
        assert answer.ttl.why == "rule 1 of ttl_rules: tag 'faq'"
    clock.advance(3600)
    assert "expired" in pipeline.answer(ask()).response_miss.reason
    kept = pipeline.totals.kept["static", first.ttl.why]
    assert (kept.count, kept.mean_ttl_seconds) == (1, 48 * 3600)


def test_what_is_for_the_moment_is_neither_stored_nor_served(make):
    pipeline = make(ttl_rules=TtlRules())
    weather = "What is the weather today?"
    pipeline.answer(ask(weather, replace(CUT_OFF, ttl_seconds=30)))  # the request's own ttl wins
    assert len(pipeline.response) == 1
    answer = pipeline.answer(ask(weather))
    assert answer.served is not Served.HIT_EXACT
    assert answer.response_miss.reason == answer.not_stored
    assert answer.not_stored.startswith("realtime, never stored (recognised: the question says 'what")
    assert answer.ttl.ttl_seconds == 0
    assert pipeline.answer(ask(weather, replace(CUT_OFF, ttl_seconds=30))).served is Served.HIT_EXACT


def test_a_request_may_ask_for_ever_and_for_not_at_all(make, clock):
    pipeline = make()
    assert pipeline.answer(ask(control=replace(CUT_OFF, ttl_seconds=math.inf))).ttl.ttl_seconds is None
    clock.advance(10**9)
    assert pipeline.answer(ask()).served is Served.HIT_EXACT
    none = pipeline.answer(ask("Else?", replace(CUT_OFF, ttl_seconds=0)))
    assert "never stored" in none.not_stored
    assert len(pipeline.response) == 1


@pytest.mark.parametrize(
    "about", [{"session": "s"}, {"principal": "ada"}, {"entities": ("order 1",)}, {"tools": ({"name": "f"},)}]
)
def test_what_is_personal_or_has_tools_is_dynamic(make, about):
    assert make(ttl_rules=TtlRules()).answer(ask(**about)).ttl.kind == "dynamic"


def test_rules_see_the_route_and_the_tools(make):
    rules = TtlRules(rules=(TtlRule(route="/v1/x", ttl=7.0), TtlRule(tool="search", ttl=8.0)))
    pipeline = make(ttl_rules=rules)
    tool = {"type": "function", "function": {"name": "search"}}
    assert pipeline.answer(ask(route="/v1/x")).ttl.ttl_seconds == 7
    assert pipeline.answer(ask("Else?", tools=(tool,))).ttl.ttl_seconds == 8


# Control and keys


def test_only_if_cached_computes_nothing(make):
    pipeline = make()
    wanted = ask(control=CacheControl(only_if_cached=True))
    with pytest.raises(NotCached, match="never seen"):
        pipeline.answer(wanted)
    pipeline.answer(ask())
    assert pipeline.answer(wanted).served is Served.HIT_EXACT
    with pytest.raises(NotCached, match="no-cache"):
        pipeline.answer(replace(wanted, cache_control=CacheControl(only_if_cached=True, no_cache=True)))
    pipeline.response_enabled = False
    with pytest.raises(NotCached, match="off"):
        pipeline.answer(wanted)


@pytest.mark.parametrize(
    "other", [{"control": replace(CUT_OFF, namespace="b")}, {"principal": "ada"}, {"tenant": "t"}]
)
def test_namespaces_of_requests_and_principals_share_no_answers(make, other):
    pipeline = make()
    pipeline.answer(ask())
    assert pipeline.answer(ask(**other)).served is not Served.HIT_EXACT
    assert pipeline.answer(ask(**other)).served is Served.HIT_EXACT
    assert pipeline.answer(ask()).served is Served.HIT_EXACT


def test_a_requests_namespace_is_joined_to_the_models_and_not_in_its_place(make):
    pipeline = make()
    request = ask(control=replace(CUT_OFF, namespace="b"))
    pipeline.answer(request)
    pipeline.namespace = replace(pipeline.namespace, adapter="retrained")
    assert pipeline.answer(request).served is not Served.HIT_EXACT


def test_keys_explain_themselves(make):
    pipeline = make()
    one, other = ask(), ask("Where?", sampling=Sampling(max_new_tokens=5), tenant="t")
    explained = pipeline.explain_key(one)
    assert explained.key == pipeline.answer(one).key
    assert explained.difference(pipeline.explain_key(other)) == ("max_new_tokens", "namespace", "prompt")
    assert explained.difference(pipeline.explain_key(replace(one, tags=("a",), session="s"))) == ()


def test_settings_that_are_left_out_of_the_key(make):
    seeded = [Sampling(max_new_tokens=4, temperature=1.0, seed=seed) for seed in (1, 2)]
    pipeline = make(leave_out=["seed"])
    assert pipeline.answer(ask(sampling=seeded[0])).served is not Served.HIT_EXACT
    assert pipeline.answer(ask(sampling=seeded[1])).served is Served.HIT_EXACT
    control = make()
    assert [control.answer(ask(sampling=s)).served is Served.HIT_EXACT for s in seeded] == [False, False]
    with pytest.raises(ValueError, match="sampling settings may be"):
        make(leave_out=["namespace"])


# Whose it is


@pytest.mark.parametrize(
    ("about", "condition"),
    [
        ({"session": "s"}, {"session": "s"}),
        ({"tenant": "t"}, {"tenant": "t"}),
        ({"principal": "ada"}, {"user": "ada"}),
        ({"entities": ("order 1", "order 2")}, {"entity": "order 2"}),
        ({"tags": ("faq",)}, {"tag": "faq"}),
    ],
)
def test_answers_are_removed_by_what_their_request_said(make, about, condition):
    pipeline = make()
    pipeline.answer(ask("Else?"))
    pipeline.answer(ask(**about))
    assert pipeline.response.invalidate(**condition) == 1
    assert pipeline.answer(ask("Else?")).served is Served.HIT_EXACT
    assert "invalidated" in pipeline.answer(ask(**about)).response_miss.reason


def test_answers_are_removed_by_what_computed_them(make):
    pipeline = make()
    weights = pipeline.namespace.weights
    pipeline.answer(ask())
    assert pipeline.response.invalidate(model="another") == 0
    assert pipeline.response.invalidate(model=weights) == 1
    pipeline.namespace = replace(pipeline.namespace, cache_version="2026-03")
    pipeline.answer(ask())
    assert pipeline.response.invalidate(version="2026-03") == 1


@pytest.mark.parametrize(
    "wrong", [{"tags": ("session:s",)}, {"entities": ("",)}, {"session": 5}, {"tags": (5,)}]
)
def test_impossible_labels_are_the_requests_fault_and_nothing_is_computed(make, wrong):
    pipeline = make()
    with pytest.raises(RequestError):
        pipeline.answer(ask(**wrong))
    with pytest.raises(RequestError):
        pipeline.check(ask(**wrong))
    assert pipeline.totals.requests == 0


def test_an_answer_that_was_reported_as_wrong_is_computed_and_never_stored_again(make):
    pipeline = make()
    answer = pipeline.answer(ask())
    assert pipeline.report_wrong(pipeline.answer(ask())) is True
    again = pipeline.answer(ask())
    assert (again.text, again.served) == (answer.text, Served.HIT_PREFIX)
    assert again.not_stored == "this same answer was reported as wrong"
    assert pipeline.report_wrong(again) is False
    pipeline.response_enabled = False
    with pytest.raises(RequestError, match="that was off"):
        pipeline.report_wrong(pipeline.answer(ask()))


def test_another_answer_may_take_its_place(make, monkeypatch):
    pipeline = make()
    pipeline.report_wrong(pipeline.answer(ask()))
    says(monkeypatch, "Another answer.")
    assert pipeline.answer(ask()).not_stored is None


# What it saves

PRICES = PriceTable.from_mapping(
    {"small": {"input_per_million": 2, "output_per_million": 10, "cached_input_per_million": "0.5"}}, "EUR"
)


def test_every_hit_knows_what_it_saved(make):
    pipeline = make(prices=PRICES, model_name="small")
    first, hit, behind = pipeline.answer(ask()), pipeline.answer(ask()), pipeline.answer(ask("Where is it?"))
    assert (first.served, first.saved.tokens, first.saved.money) == (Served.MISS, 0, 0)
    prompt, answer = first.usage.prompt_tokens, first.usage.completion_tokens
    assert hit.saved.tokens == prompt + answer
    assert hit.saved.money == Decimal(2 * prompt + 10 * answer) / 10**6
    assert 0 < hit.saved.seconds < first.total_seconds
    cached = behind.usage.cached_tokens
    assert cached
    assert (behind.saved.tokens, behind.saved.money) == (cached, cached * Decimal("1.5") / 10**6)
    assert behind.saved.seconds > 0
    # A stored answer that stood on a cached prefix was cheaper to compute, and so saves less.
    again = pipeline.answer(ask("Where is it?"))
    fresh = behind.usage.prompt_tokens - cached
    expected = 2 * fresh + Decimal("0.5") * cached + 10 * behind.usage.completion_tokens
    assert again.saved.money == expected / 10**6
    totals = pipeline.totals
    assert totals.saved_money == hit.saved.money + behind.saved.money + again.saved.money
    assert totals.saved_tokens == hit.saved.tokens + behind.saved.tokens + again.saved.tokens
    assert totals.currency == "EUR"


def test_without_a_price_there_is_no_money(make):
    pipeline = make(prices=PRICES, model_name="another")
    pipeline.answer(ask())
    assert pipeline.answer(ask()).saved.money is None
    assert pipeline.totals.saved_money is None


def test_an_entry_says_what_computing_its_answer_took_and_of_what_kind_it_is(make):
    pipeline = make()
    answer = pipeline.answer(ask())
    entry = pipeline.response.lookup(answer.key)
    assert entry.cost["completion_tokens"] == answer.usage.completion_tokens
    assert entry.cost["seconds"] == answer.total_seconds
    assert entry.kind == answer.ttl.kind
    assert pipeline.answer(ask()).ttl == answer.ttl


def test_tools_reach_the_chat_template(make):
    pipeline = make()
    template = "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.content }}{% endfor %}"
    pipeline.renderer = PromptRenderer(pipeline.renderer._tokenizer, template)
    tool = {"type": "function", "function": {"name": "search"}}
    assert "search" in pipeline.renderer.text(ask(tools=(tool,)))
    pipeline.answer(ask())
    assert pipeline.answer(ask(tools=(tool,))).served is not Served.HIT_EXACT
