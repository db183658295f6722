"""Equal streams in several processes. Two caches over one folder keep each other out as two processes do."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Thread

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import Answer, CacheControl, Message, Request, Sampling, Served

REQUEST = Request(
    messages=(Message("user", "Hello?"),),
    sampling=Sampling(max_new_tokens=6),
    cache_control=CacheControl(truncated=True),  # the small model's answers have no end of their own
)


@pytest.fixture(scope="module")
def make(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    loaded = load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")
    memo = tmp_path_factory.mktemp("exactness")

    def make(folder):
        engine = Engine(
            loaded.model,
            device=loaded.device,
            context_length_tokens=loaded.context_length_tokens,
            end_tokens=loaded.end_tokens,
            memo=memo,
            max_cache_bytes=10**8,
        )
        renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        return Pipeline(engine, renderer, loaded.namespace, SmartInferenceCache(persistence_path=folder))

    return make


@pytest.fixture
def both(make, tmp_path):
    pipelines = make(tmp_path), make(tmp_path)
    yield pipelines
    for pipeline in pipelines:
        pipeline.close()


def whole_answer(parts) -> Answer:
    *_, answer = parts
    return answer


def streamed_by_both(both) -> list[Answer]:
    """Begin a stream here, ask for it there, and only then read on here."""
    one, other = both
    begun, answers = one.stream(REQUEST), []
    next(begun)
    there = Thread(target=lambda: answers.append(whole_answer(other.stream(REQUEST))))
    there.start()
    there.join(0.3)  # long enough to compute it, were it not kept out
    answers.insert(0, whole_answer(begun))
    there.join()
    return answers


def test_what_another_process_streams_is_waited_for_and_not_computed_again(both):
    here, there = streamed_by_both(both)
    assert here.text == there.text
    assert (here.served, there.served) == (Served.MISS, Served.HIT_EXACT)
    assert both[1].engine.stats.decode_tokens == 0


def test_control_without_the_lock_both_compute(both, monkeypatch):
    monkeypatch.setattr(SmartInferenceCache, "alone", lambda *_: nullcontext())
    assert all(answer.served is not Served.HIT_EXACT for answer in streamed_by_both(both))


def test_one_that_is_left_or_not_read_on_is_not_waited_for_without_end(both, monkeypatch):
    one, other = both
    abandoned = one.stream(REQUEST)
    next(abandoned)
    abandoned.close()
    assert whole_answer(other.stream(REQUEST)).served is not Served.HIT_EXACT
    for pipeline in both:
        pipeline.response.cache_clear()
    monkeypatch.setattr("axolotl_cache.response.flight.STREAM_WAIT_SECONDS", 0.05)
    slow = one.stream(REQUEST)
    next(slow)
    assert whole_answer(other.stream(REQUEST)).served is not Served.HIT_EXACT
    slow.close()
