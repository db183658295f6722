"""Questions in other words, through the whole pipeline: what is served, to whom, and what becomes of it."""

import random
from dataclasses import replace

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.errors import NotCached
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.pipeline.semantic import NOT_ASKED, OFF, SHADOW, open_semantic
from axolotl_cache.pipeline.writing import Writing
from axolotl_cache.request import CacheControl, Message, Request, Sampling, Served

FIRST = "How do I delete my account?"
AGAIN = "hi, how do i delete my account please"
THIRD = "Hello how do I delete my account"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def answers(monkeypatch):
    """What the model says from now on, under "now": the small one says nothing sensible."""
    said = {}

    text = property(lambda self: said.get("now", "Go to the settings."))
    monkeypatch.setattr(Writing, "text", text)
    monkeypatch.setattr(Writing, "finish_reason", "stop")
    return said


@pytest.fixture
def make(loaded, engine, clock, bag_of_words, answers, tmp_path):
    engine.clear()
    made = []

    def make(folder=None, key=None, cache=None, **options):
        renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        if cache is None:
            cache = SmartInferenceCache(100, 60, folder, clock=clock, encryption_key=key)
        settings = {"max_error_rate": 0.3, "check_share": 0.0} | options
        semantic = open_semantic(cache, embedder=bag_of_words, clock=clock, rng=random.Random(1), **settings)
        pipeline = Pipeline(engine, renderer, loaded.namespace, cache, semantic=semantic, clock=clock)
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        pipeline.semantic.close()
        pipeline.response.close()


DEFAULT_CONTROL = CacheControl()


def ask(text=FIRST, *before, system="You help.", control=DEFAULT_CONTROL, **options) -> Request:
    sampling = options.pop("sampling", Sampling(max_new_tokens=2))
    said = [Message("user" if n % 2 == 0 else "assistant", each) for n, each in enumerate(before)]
    messages = (Message("system", system), *said, Message("user", text))
    return Request(messages=messages, sampling=sampling, cache_control=control, **options)


def test_a_question_in_other_words_gets_the_stored_answer(make, clock):
    pipeline = make()
    first = pipeline.answer(ask())
    assert first.served is not Served.HIT_SEMANTIC
    assert "no question is stored" in first.semantic_miss.reason
    clock.advance(5)
    answer = pipeline.answer(ask(AGAIN))
    assert answer.served is Served.HIT_SEMANTIC
    assert answer.text == first.text
    assert (answer.match.question, answer.match.key) == (FIRST, first.key)
    assert 0.75 < answer.match.probability < 1
    assert answer.age_seconds == 5
    assert answer.key != first.key
    assert answer.usage.cached_tokens == answer.usage.prompt_tokens > 0
    assert answer.saved.tokens > 0
    assert answer.response_miss is not None
    assert pipeline.totals.served[Served.HIT_SEMANTIC] == 1
    assert pipeline.answer(ask()).served is Served.HIT_EXACT
    # What was served from another question is stored under no question of its own.
    assert pipeline.answer(ask(AGAIN)).served is Served.HIT_SEMANTIC
    assert len(pipeline.response) == 1


def test_a_miss_says_which_guard_forbade_it(make):
    pipeline = make()
    pipeline.answer(ask("Where is my order 48213?"))
    answer = pipeline.answer(ask("Where is my order 48231?"))
    assert answer.served is not Served.HIT_SEMANTIC
    assert "the guard for numbers: 48231 / 48213" in answer.semantic_miss.reason
    pipeline.answer(ask("Where can I buy bread?"))
    far = pipeline.answer(ask("Who can buy bread in Peru?"))
    assert "question kind" in far.semantic_miss.reason or "is needed" in far.semantic_miss.reason


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "another"},
        {"principal": "somebody"},
        {"system": "You are rude."},
        {"sampling": Sampling(max_new_tokens=3)},
        {"entities": ("order 4711",)},
        {"control": CacheControl(namespace="another")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_never_across(make, change):
    pipeline = make()
    pipeline.answer(ask())
    assert pipeline.answer(ask(AGAIN, **change)).served is not Served.HIT_SEMANTIC
    assert pipeline.answer(ask(THIRD)).served is Served.HIT_SEMANTIC  # the control
    assert pipeline.answer(ask(THIRD, **change)).served is Served.HIT_SEMANTIC  # and within its own


@pytest.mark.parametrize(
    ("reason", "request_"),
    [
        ("tools", ask(AGAIN, tools=({"type": "function", "function": {"name": "f"}},))),
        ("sampled", ask(AGAIN, sampling=Sampling(max_new_tokens=2, temperature=0.7))),
        ("logprobs", ask(AGAIN, sampling=Sampling(max_new_tokens=2, logprobs=0))),
        ("prompt", Request(prompt=AGAIN, sampling=Sampling(max_new_tokens=2))),
        ("last", Request(messages=(Message("user", AGAIN), Message("assistant", "Well")))),
        ("long", ask(AGAIN * 1000)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_looked_up_says_so_and_is_not_found_either(make, reason, request_, monkeypatch):
    pipeline = make()
    monkeypatch.setattr(pipeline, "_generate", lambda *_: pytest.skip("not computed here"))
    found = pipeline.semantic.find(request_, _Asked(), pipeline.namespace, ())
    assert (found.asked, found.miss.reason) == (None, NOT_ASKED[reason])
    assert pipeline.semantic.to_store(found) == (None, ())


class _Asked:
    key, not_served = "k", None


def test_a_message_that_leans_on_its_session_stays_in_it(make):
    pipeline = make()
    talk = ("I want to leave.", "Shall I delete your account?")
    pipeline.answer(ask("yes please", *talk, session="one"))
    assert pipeline.answer(ask("yes, please", *talk, session="two")).served is not Served.HIT_SEMANTIC
    assert pipeline.answer(ask("yes please!", *talk, session="one")).served is Served.HIT_SEMANTIC
    pipeline.answer(ask(FIRST, session="one"))
    assert pipeline.answer(ask(AGAIN, session="two")).served is Served.HIT_SEMANTIC


def test_cache_control_is_heeded(make, clock):
    pipeline = make()
    with pytest.raises(NotCached):
        pipeline.answer(ask(AGAIN, control=CacheControl(only_if_cached=True)))
    pipeline.answer(ask())
    served = pipeline.answer(ask(AGAIN, control=CacheControl(only_if_cached=True)))
    assert served.served is Served.HIT_SEMANTIC
    clock.advance(30)
    old = pipeline.answer(ask(AGAIN, control=CacheControl(max_age_seconds=20, no_store=True)))
    assert "max-age" in old.semantic_miss.reason
    wants_none = pipeline.answer(ask(AGAIN, control=CacheControl(semantic=False, no_store=True)))
    assert wants_none.semantic_miss.reason == OFF
    assert pipeline.answer(ask(AGAIN)).served is Served.HIT_SEMANTIC
    anew = pipeline.answer(ask(AGAIN, control=CacheControl(no_cache=True)))
    assert anew.served is not Served.HIT_SEMANTIC
    assert pipeline.answer(ask(AGAIN)).served is Served.HIT_EXACT  # stored by then, under its own key


def test_the_kill_switch(make):
    pipeline = make()
    pipeline.answer(ask())
    pipeline.semantic.enabled = False
    answer = pipeline.answer(ask(AGAIN, control=CacheControl(no_store=True)))
    assert (answer.served is Served.HIT_SEMANTIC, answer.semantic_miss) == (False, None)
    pipeline.semantic.enabled = True
    assert pipeline.answer(ask(AGAIN)).served is Served.HIT_SEMANTIC


@pytest.mark.parametrize(
    "how", ["expired", "evicted", "invalidated", "erased", "wrong", "cleared", "replaced"]
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_gone_from_the_exact_tier_is_gone_here(make, clock, tmp_path, how, on_disk):
    pipeline = make(tmp_path / "cache" if on_disk else None)
    first = pipeline.answer(ask(principal="ann", session="s"))
    held = pipeline.semantic.tier
    assert held.stats().questions == 1
    cache = pipeline.response
    {
        "expired": lambda: (clock.advance(61), len(cache)),
        "evicted": lambda: [cache.set(f"k{n}", "x") for n in range(100)],
        "invalidated": lambda: cache.invalidate(user="ann"),
        "erased": lambda: pipeline.erase(user="ann"),
        "wrong": lambda: pipeline.report_wrong(first),
        "cleared": lambda: cache.cache_clear(),
        "replaced": lambda: cache.set(first.key, "something else"),
    }[how]()
    assert held.stats().questions == (how == "replaced")
    if how != "replaced":
        assert pipeline.answer(ask(AGAIN, principal="ann")).served is not Served.HIT_SEMANTIC


def test_a_restart_finds_what_was_stored_and_another_process_does(make, clock, tmp_path):
    pipeline = make(tmp_path)
    pipeline.answer(ask())
    other = make(tmp_path)
    assert other.answer(ask(AGAIN)).served is Served.HIT_SEMANTIC
    pipeline.answer(ask("Where is my order 48213?"))
    clock.advance(2)
    assert other.answer(ask("where is my order 48213")).served is Served.HIT_SEMANTIC
    pipeline.response.invalidate(key=pipeline.answer(ask()).key)
    clock.advance(2)
    assert other.answer(ask(THIRD)).served is not Served.HIT_SEMANTIC


def test_nothing_of_an_erased_user_is_left_in_any_file(make, tmp_path):
    pipeline = make(tmp_path)
    pipeline.answer(ask("How do I feed my pet canary-bird in Quux?", principal="ann"))
    pipeline.answer(ask(FIRST, principal="bob"))
    near = ask("how do i feed my pet canary-bird in Quux please", principal="ann")
    pipeline.semantic.report_wrong(pipeline.answer(near).match, "k", {"text": "t", "finish_reason": "stop"})
    digest = pipeline.semantic.tier._log.digest(pipeline.answer(ask(FIRST, principal="bob")).key).encode()
    assert digest not in everything(tmp_path)
    assert b"canary-bird" in everything(tmp_path)  # the control
    pipeline.erase(user="ann")
    content = everything(tmp_path)
    assert b"canary-bird" not in content
    assert b" n 0" not in content
    assert pipeline.answer(ask(AGAIN, principal="bob")).served is Served.HIT_SEMANTIC


def test_encrypted_no_byte_tells_of_a_question(make, tmp_path):
    pytest.importorskip("cryptography")
    pipeline = make(tmp_path, key=bytes(range(32)))
    pipeline.answer(ask("How do I feed my pet canary-bird in Quux?"))
    assert b"canary-bird" not in everything(tmp_path)
    other = make(tmp_path, key=bytes(range(32)))
    found = other.answer(ask("how do i feed my pet canary-bird in Quux please"))
    assert found.served is Served.HIT_SEMANTIC


def everything(folder) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_wrong_hit_that_was_reported_is_remembered(make, tmp_path):
    pipeline = make(tmp_path)
    pipeline.answer(ask())
    wrong = pipeline.answer(ask(AGAIN))
    assert pipeline.report_wrong(wrong)
    assert pipeline.answer(ask()).served is Served.HIT_EXACT  # right for its own question
    for each in (pipeline, make(tmp_path)):
        again = each.answer(ask(AGAIN, control=CacheControl(no_store=True)))
        assert "wrong before" in again.semantic_miss.reason
        each.semantic.tier._items.clear()  # even so
        again = each.answer(ask(AGAIN, control=CacheControl(no_store=True)))
        assert "reported as wrong for this question" in again.semantic_miss.reason
        assert each.answer(ask(THIRD)).served is Served.HIT_SEMANTIC


def test_a_share_of_the_hits_is_computed_and_compared(make, answers):
    pipeline = make(check_share=1.0)
    pipeline.answer(ask())
    answers["now"] = "Accounts can't be deleted."
    hit = pipeline.answer(ask(AGAIN))
    assert hit.served is Served.HIT_SEMANTIC
    pipeline.semantic.background.wait()
    assert (pipeline.semantic.tier.stats().checked, pipeline.semantic.tier.stats().checked_wrong) == (1, 1)
    assert pipeline.totals.requests == 2  # a check is nobody's request
    fresh = pipeline.answer(ask(AGAIN))
    assert (fresh.served, fresh.text) == (Served.HIT_EXACT, "Accounts can't be deleted.")
    no_store = pipeline.answer(ask(THIRD, control=CacheControl(no_store=True)))
    pipeline.semantic.background.wait()
    assert pipeline.semantic.tier.stats().checked == 1
    assert no_store.not_stored or no_store.match


def test_the_alarm_ends_serving(make, answers):
    pipeline = make(check_share=1.0, max_error_rate=0.2)
    for number in range(2, 9):
        answers["now"] = "Yes."
        pipeline.answer(ask(f"How do I delete my account number {number}?"))
        answers["now"] = "No."
        pipeline.answer(ask(f"how do i delete my account number {number}"))
        pipeline.semantic.background.wait()
    assert pipeline.semantic.tier.stats().alarms == 1
    pipeline.answer(ask("What is the capital of Peru?"))
    answer = pipeline.answer(ask("what is the capital of peru"))
    assert "more wrong hits than max_error_rate" in answer.semantic_miss.reason


def test_shadow_serves_nothing_and_says_what_it_would_have(make, answers):
    pipeline = make(mode="shadow")
    pipeline.answer(ask())
    for text, said in ((AGAIN, "Go to the settings."), (THIRD, "Something else.")):
        answers["now"] = said
        answer = pipeline.answer(ask(text))
        assert answer.served is not Served.HIT_SEMANTIC
        assert answer.semantic_miss.reason == SHADOW
        pipeline.semantic.background.wait()
    seen = pipeline.semantic.tier.observations
    assert [(each.would_serve, each.right) for each in seen] == [(True, True), (True, False)]


def test_streams_and_equal_requests_take_the_same_way(make):
    pipeline = make()
    whole = pipeline.answer(ask())
    delta, answer = pipeline.stream(ask(AGAIN))
    assert delta.text == answer.text == whole.text
    assert replace(answer, match=None).served is Served.HIT_SEMANTIC
