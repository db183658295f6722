"""A request's way: which tier serves it, what is stored, what is explained."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from axolotl_cache import SmartInferenceCache, assembly
from axolotl_cache.clock import ManualClock, wall_clock
from axolotl_cache.config import load_settings
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.lower import LowerTier, open_lower_store
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.engine.sampling import Choice
from axolotl_cache.errors import CapacityError, RequestError
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import Answer, CacheControl, Delta, Message, Request, Sampling, Served

SYSTEM = "You help the customers of a bank. " * 12
GREEDY = Sampling(max_new_tokens=6)
CUT_OFF = CacheControl(truncated=True)  # the small model's answers have no end of their own


@pytest.fixture(scope="module")
def loaded(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


def build(loaded, memo, response=None, clock=None, **options) -> Pipeline:
    engine = Engine(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        memo=memo,
        **({"max_cache_bytes": 10**8} | options),
    )
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    return Pipeline(engine, renderer, loaded.namespace, response, clock=clock or wall_clock)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def pipeline(loaded, memo, clock):
    return build(loaded, memo, SmartInferenceCache(capacity=100, timeout=60, clock=clock), clock)


def ask(text: str, **options) -> Request:
    messages = (Message("system", SYSTEM), Message("user", text))
    return Request(messages=messages, **({"sampling": GREEDY, "cache_control": CUT_OFF} | options))


def test_first_computed_then_from_the_response_cache(pipeline, clock):
    first = pipeline.answer(ask("Hello?"))
    clock.advance(10)
    again = pipeline.answer(ask("Hello?"))
    assert first.served is Served.MISS
    assert again.served is Served.HIT_EXACT
    assert (again.text, again.finish_reason) == (first.text, first.finish_reason)
    assert again.age_seconds == 10
    assert again.usage.cached_tokens == again.usage.prompt_tokens == first.usage.prompt_tokens
    assert again.saved.seconds > 0
    assert again.response_miss is None


def test_another_question_behind_the_same_prompt_is_a_prefix_hit(pipeline):
    pipeline.answer(ask("Hello? " * 40))
    answer = pipeline.answer(ask("Where is my card? " * 40))
    assert answer.served is Served.HIT_PREFIX
    assert answer.usage.cached_tokens > 0
    assert answer.usage.cached_tokens + answer.usage.computed_tokens == answer.usage.prompt_tokens
    assert answer.prefix_miss.first_difference_tokens >= answer.usage.cached_tokens
    assert "Where" in answer.prefix_miss.found_text
    assert "Hello" in answer.prefix_miss.expected_text
    assert answer.response_miss.reason


def test_says_where_what_is_cached_of_a_prompt_ends(pipeline):
    pipeline.answer(ask("Hello?"))
    answer = pipeline.answer(ask("Where?"))
    assert answer.prefix_miss.first_difference_tokens == answer.usage.cached_tokens
    assert "ends here" in answer.prefix_miss.reason


def test_streamed_pieces_add_up_to_the_answer(pipeline):
    *deltas, answer = pipeline.stream(ask("Hello?"))
    assert isinstance(answer, Answer)
    assert all(isinstance(d, Delta) for d in deltas)
    assert "".join(d.text for d in deltas) == answer.text
    assert answer.text == pipeline.renderer.decode(pipeline.renderer.tokens(answer.text, is_plain=False))


def test_answers_without_cache_are_the_same(pipeline, loaded, memo):
    plain = build(loaded, memo)
    plain.prefix_enabled = False
    for text in ("Hello?", "Where is my card?", "Hello?", "Where is my money?"):
        assert pipeline.answer(ask(text)).text == plain.answer(ask(text)).text
    assert plain.engine.prefix_stats.held_blocks == 0


def test_sampled_answers_without_a_seed_are_not_served_again_and_say_why(pipeline):
    sampled = replace(GREEDY, temperature=1.0)
    for _ in range(2):
        answer = pipeline.answer(ask("Hello?", sampling=sampled))
        assert answer.served is not Served.HIT_EXACT
        assert "without a seed" in answer.not_stored
    assert len(pipeline.response) == 0
    assert sum(pipeline.totals.not_stored.values()) == 2


def test_sampled_answers_are_served_again_if_the_user_says_so(pipeline):
    sampled = replace(GREEDY, temperature=1.0)
    control = CacheControl(sampled=True, truncated=True)
    first, again = (pipeline.answer(ask("Hello?", sampling=sampled, cache_control=control)) for _ in range(2))
    assert first.not_stored is None
    assert again.served is Served.HIT_EXACT
    assert again.text == first.text


def test_a_stop_text_that_is_a_special_token_ends_the_answer(pipeline):
    eos = pipeline.renderer.special_token("<|im_end|>")
    assert eos in pipeline.engine.end_tokens
    assert pipeline.renderer.special_token("hello") is None
    pipeline.engine.end_tokens = frozenset()
    first = pipeline.renderer.tokens(pipeline.answer(ask("Hello?")).text, is_plain=False)
    special = "<|endoftext|>"
    token = pipeline.renderer.special_token(special)
    forced = iter([first[0], token, first[1]])

    class Forced:
        def choose(self, logits):
            return Choice(next(forced))

    import axolotl_cache.engine.engine as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Sampler", lambda *_: Forced())
        answer = pipeline.answer(ask("Again?", sampling=replace(GREEDY, stop=(special,))))
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens == 1


def test_sampled_answers_with_a_seed_are(pipeline):
    seeded = replace(GREEDY, temperature=1.0, seed=7)
    first, again = (pipeline.answer(ask("Hello?", sampling=seeded)) for _ in range(2))
    assert again.served is Served.HIT_EXACT
    assert again.text == first.text
    other = pipeline.answer(ask("Hello?", sampling=replace(seeded, seed=8)))
    assert other.served is not Served.HIT_EXACT


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": replace(GREEDY, max_new_tokens=7)},
        {"sampling": replace(GREEDY, stop=("x",))},
        {"sampling": replace(GREEDY, repetition_penalty=1.2)},
        {"tenant": "other"},
    ],
)
def test_what_can_change_the_answer_is_in_the_key(pipeline, change):
    pipeline.answer(ask("Hello?"))
    assert pipeline.answer(ask("Hello?", **change)).served is not Served.HIT_EXACT


def test_what_can_not_change_a_greedy_answer_is_not(pipeline):
    pipeline.answer(ask("Hello?"))
    same = replace(GREEDY, seed=3, top_p=0.5)
    assert pipeline.answer(ask("Hello?", sampling=same)).served is Served.HIT_EXACT


def test_tenants_share_neither_answers_nor_prefixes(pipeline):
    pipeline.answer(ask("Hello?", tenant="a"))
    answer = pipeline.answer(ask("Hello?", tenant="b"))
    assert answer.served is Served.MISS
    assert answer.usage.cached_tokens == 0
    assert pipeline.answer(ask("Hello?", tenant="a")).served is Served.HIT_EXACT


def test_answers_expire(pipeline, clock):
    pipeline.answer(ask("Hello?"))
    clock.advance(61)
    answer = pipeline.answer(ask("Hello?"))
    assert answer.served is Served.HIT_PREFIX
    assert "expired" in answer.response_miss.reason


def test_requests_say_how_they_want_to_be_cached(pipeline, clock):
    pipeline.answer(ask("Hello?", cache_control=CacheControl(no_store=True)))
    assert len(pipeline.response) == 0
    pipeline.answer(ask("Hello?", cache_control=CacheControl(ttl_seconds=5, truncated=True)))
    clock.advance(4)
    assert pipeline.answer(ask("Hello?")).served is Served.HIT_EXACT
    too_old = CacheControl(max_age_seconds=3)
    assert pipeline.answer(ask("Hello?", cache_control=too_old)).served is Served.HIT_PREFIX
    assert pipeline.answer(ask("Hello?", cache_control=CacheControl(no_cache=True))).age_seconds == 0


def test_tiers_can_be_switched_off_while_running(pipeline):
    pipeline.answer(ask("Hello?"))
    pipeline.response_enabled = False
    assert pipeline.answer(ask("Hello?")).served is Served.HIT_PREFIX
    pipeline.prefix_enabled = False
    assert pipeline.answer(ask("Hello?")).served is Served.MISS
    pipeline.response_enabled = pipeline.prefix_enabled = True
    assert pipeline.answer(ask("Hello?")).served is Served.HIT_EXACT


def test_an_answer_that_is_not_read_to_its_end_is_not_stored(pipeline):
    stream = pipeline.stream(ask("Hello?"))
    next(stream)
    stream.close()
    assert len(pipeline.response) == 0
    assert pipeline.answer(ask("Hello?")).served is not Served.HIT_EXACT


def test_an_error_while_computing_is_not_stored(pipeline, monkeypatch):
    def breaks(*_):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.engine._forward, "run", breaks)
        with pytest.raises(RuntimeError, match="out of luck"):
            pipeline.answer(ask("Hello?"))
    assert len(pipeline.response) == 0
    assert pipeline.answer(ask("Hello?")).text
    pipeline.engine._cache.tree.check_invariants()


def test_stop_strings_end_the_answer(pipeline):
    full = pipeline.answer(ask("Hello?")).text
    stop = full[3:5]
    answer = pipeline.answer(ask("Hello?", sampling=replace(GREEDY, stop=(stop,))))
    assert answer.text == full[: full.index(stop)]
    assert answer.finish_reason == "stop"


def test_tokens_behind_a_stop_string_are_not_counted_whoever_computes(pipeline, monkeypatch):
    pipeline.response_enabled = False
    long = replace(GREEDY, max_new_tokens=60)
    full = pipeline.answer(ask("Hello?", sampling=long)).text
    stopped = ask("Hello?", sampling=replace(long, stop=(full[6:9],)))
    wanted = pipeline.answer(stopped)
    assert wanted.usage.completion_tokens < 30
    pipeline.response_enabled = True
    decode = pipeline.renderer.decode
    # A reader that is much slower than the thread that computes
    monkeypatch.setattr(pipeline.renderer, "decode", lambda tokens: (time.sleep(0.02), decode(tokens))[1])
    with pipeline.engine.in_background():
        answers = [pipeline.answer(stopped) for _ in range(2)]
    assert [answer.served is Served.HIT_EXACT for answer in answers] == [False, True]
    for answer in answers:
        assert (answer.text, answer.usage) == (
            wanted.text,
            replace(answer.usage, completion_tokens=wanted.usage.completion_tokens),
        )


def answers_of_three_threads(pipeline):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(pipeline.answer(ask("Hello?")))) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def computations(pipeline, monkeypatch, seconds=0.0):
    """Count what the engine is asked for; each of its calls takes so much longer."""
    asked, generate, run = [], pipeline.engine.generate, pipeline.engine._forward.run
    monkeypatch.setattr(
        pipeline.engine, "generate", lambda *a, **more: (asked.append(1), generate(*a, **more))[1]
    )
    monkeypatch.setattr(pipeline.engine._forward, "run", lambda *a: (time.sleep(seconds), run(*a))[1])
    return asked


def test_equal_requests_are_computed_once_however_long_that_takes(pipeline, monkeypatch):
    asked = computations(pipeline, monkeypatch, seconds=0.05)
    answers = answers_of_three_threads(pipeline)
    assert sorted(a.served for a in answers) == [Served.HIT_EXACT, Served.HIT_EXACT, Served.MISS]
    assert len(asked) == 1
    assert len({a.text for a in answers}) == 1
    assert pipeline.totals.requests == 3
    assert pipeline.totals.served[Served.HIT_EXACT] == 2


def test_who_waits_has_the_answer_as_it_comes(pipeline, monkeypatch):
    asked = computations(pipeline, monkeypatch)
    first, second = pipeline.stream(ask("Hello?")), pipeline.stream(ask("Hello?"))
    begun = [next(first), next(first)]
    assert [next(second), next(second)] == begun
    (*rest, answer), (*rest_too, answer_too) = list(first), list(second)
    assert rest == rest_too
    assert "".join(part.text for part in begun + rest) == answer.text == answer_too.text
    assert (answer.served, answer_too.served) == (Served.MISS, Served.HIT_EXACT)
    assert answer_too.usage.cached_tokens == answer.usage.prompt_tokens
    assert answer_too.ttft_seconds <= answer_too.total_seconds
    assert len(asked) == 1


def test_a_reader_that_stops_does_not_hold_up_equal_requests(pipeline, monkeypatch):
    asked = computations(pipeline, monkeypatch)
    lazy = pipeline.stream(ask("Hello?"))
    first = next(lazy)
    answers = answers_of_three_threads(pipeline)
    assert [a.served for a in answers] == [Served.HIT_EXACT] * 3
    *rest, answer = lazy
    assert "".join(part.text for part in [first, *rest]) == answer.text == answers[0].text
    assert len(asked) == 1
    assert not pipeline._under_way._streams


def test_when_the_first_of_equal_requests_fails_another_is_computed(pipeline, monkeypatch):
    expected = pipeline.answer(ask("Hello?")).text
    pipeline.response.cache_clear()
    run, calls = pipeline.engine._forward.run, []

    def breaks_once(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of luck")
        return run(*arguments)

    monkeypatch.setattr(pipeline.engine._forward, "run", breaks_once)
    pipeline.engine.draft_tokens = 0
    first, second = pipeline.stream(ask("Hello?")), pipeline.stream(ask("Hello?"))
    begun = next(first)
    assert next(second) == begun
    with pytest.raises(RuntimeError, match="out of luck"):
        list(first)
    *rest, answer = second
    assert "".join(part.text for part in [begun, *rest]) == answer.text == expected
    assert answer.served is not Served.HIT_EXACT


def test_the_control_requests_that_may_not_be_shared_are_each_computed(pipeline, monkeypatch):
    asked = computations(pipeline, monkeypatch)
    request = ask("Hello?", sampling=replace(GREEDY, temperature=1.0))
    first, second = pipeline.stream(request), pipeline.stream(request)
    next(first), next(second)
    list(first), list(second)
    assert len(asked) == 2


def test_plain_prompts_are_not_templated_and_never_mixed_up_with_rendered_ones(pipeline):
    rendered = pipeline.renderer.text(ask("Hello?"))
    chat = pipeline.answer(ask("Hello?"))
    plain = pipeline.answer(Request(prompt=rendered, sampling=GREEDY, cache_control=CUT_OFF))
    assert plain.served is not Served.HIT_EXACT
    assert chat.usage.prompt_tokens > 0


def test_system_prompts_are_pinned_before_the_first_request(pipeline):
    (pinned,) = pipeline.precompute([SYSTEM], 64)
    assert pinned == 64
    assert pipeline.engine.prefix_stats.pinned_bytes > 0
    assert pipeline.answer(ask("Hello?")).usage.cached_tokens == 64


def test_pins_that_do_not_fit_leave_what_is_on_disk(loaded, memo, tmp_path):
    def lower(layout, block_size):
        store = open_lower_store(tmp_path, layout=layout, block_size=block_size, max_bytes=10**9)
        return [LowerTier(store, layout=layout, block_size=block_size)]

    before = build(loaded, memo, lower=lower)
    before.answer(ask("Where is my card? " * 20))
    before.close()
    room = 3 * before.engine.block_size * before.engine.kv_bytes_per_token
    after = build(loaded, memo, lower=lower, max_cache_bytes=room)
    (tier,) = after.engine._cache._lower
    stored = tier.held_blocks
    assert stored > 3
    with pytest.raises(CapacityError, match="fit below the bound"):
        after.precompute(["Be brief. " * 8, SYSTEM * 3], 1000)
    tier.flush()
    assert tier.held_blocks >= stored
    assert (after.engine.prefix_stats.held_bytes, after.engine.prefix_stats.pinned_bytes) == (0, 0)
    after.close()


@pytest.mark.parametrize(("size", "cached_share"), [("1MB", None), ("1000GB", 0.5)])
def test_the_share_of_memory_is_for_reuse_and_running_requests_together(loaded, tmp_path, size, cached_share):
    path = tmp_path / "c.yaml"
    path.write_text(f"base_model: x\nmodel_config: {{max_cache_size: {size}}}\nmax_memory_usage: 0.1\n")
    settings, lines = load_settings(path, environ={}), []
    made = assembly.open_pipeline(settings, loaded, lines.append, response=None, use_prefix_cache=True)
    share = int(assembly.total_memory_bytes(loaded.device) * 0.1)
    cached, running = made.engine._cache._max_bytes, made.engine.running_max_bytes
    answers = share // 32 + share // 64  # kept for the response cache; and for what sessions are about
    assert cached + running + answers == share
    bounds = made.engine._budget.bounds()
    assert set(bounds) == {"prefix cache", "sessions"}
    assert sum(bounds.values()) == cached
    assert made.session.sessions.max_bytes == share // 128
    assert cached == (10**6 if cached_share is None else int(share * cached_share))
    assert any("max_memory_usage" in line for line in lines) is (cached_share is not None)
    made.close()
    off = assembly.open_pipeline(settings, loaded, lines.append, response=None, use_prefix_cache=False)
    assert off.engine.running_max_bytes == share - answers
    off.close()


@pytest.mark.parametrize("policy", ["lru", "lfu", "adaptive"])
def test_the_yaml_says_what_the_response_cache_evicts_first(policy, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"base_model: x\ninference_settings: {{cache_policy: {policy}}}\n")
    with assembly.open_response_cache(load_settings(path, environ={})) as cache:
        stores = (cache._tiers._memory._policy, cache._tiers._disk._ranks._policy)
        assert [store.scale.partition(" ")[0] for store in stores] == [policy] * 2
        assert stores[0] is not stores[1]


def test_without_system_prompts_the_templates_own_message_is_considered(pipeline):
    assert pipeline.precompute([], 128) == (0,)  # SmolLM2's own message is shorter than a block


def test_a_request_needs_either_messages_or_a_prompt(pipeline):
    with pytest.raises(RequestError, match="either"):
        pipeline.answer(Request())
    with pytest.raises(RequestError, match="either"):
        pipeline.answer(Request(messages=(Message("user", "x"),), prompt="x"))


def test_what_the_template_refuses_is_the_requests_fault(loaded, memo):
    template = "{{ raise_exception('roles must alternate') }}"
    pipeline = build(loaded, memo)
    pipeline.renderer = PromptRenderer(loaded.tokenizer, template)
    with pytest.raises(RequestError, match="roles must alternate"):
        pipeline.answer(ask("Hello?"))


def test_persistence_serves_another_process_life_but_not_another_model(loaded, memo, tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as response:
        first = build(loaded, memo, response).answer(ask("Hello?"))
    with SmartInferenceCache(persistence_path=tmp_path) as response:
        assert build(loaded, memo, response).answer(ask("Hello?")).served is Served.HIT_EXACT
        other = build(loaded, memo, response)
        other.namespace = replace(other.namespace, adapter="retrained")
        answer = other.answer(ask("Hello?"))
        assert answer.served is not Served.HIT_EXACT
        assert answer.text == first.text


def test_totals_add_up(pipeline):
    for text in ("one", "two", "one", "three", "two"):
        pipeline.answer(ask(text))
    totals = pipeline.totals
    assert totals.requests == 5
    assert sum(totals.served.values()) == 5
    assert totals.served[Served.HIT_EXACT] == 2
    assert totals.cached_tokens <= totals.prompt_tokens
    assert torch.is_tensor(next(pipeline.engine._forward.model.parameters()))
