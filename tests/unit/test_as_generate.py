"""The calls of `generate`: what may be reused behind them, and a check that sees where it may not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine import as_generate
from axolotl_cache.engine.as_generate import (
    own_fence,
    probe_as_generate,
    reusable_tokens,
    shared_tokens,
    with_filler,
)
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.plan import AS_GENERATE, Part, Work, next_calls
from axolotl_cache.engine.pool import KVPool, read_layout

lengths = st.integers(1, 5000)


@given(prompt=lengths, found=lengths)
def test_whole_blocks_are_reused_and_enough_is_left_to_compute(prompt, found):
    reused = reusable_tokens(prompt, found, 32)
    assert reused % 32 == 0
    assert reused <= found
    assert reused == 0 or prompt - reused >= 16


@given(prompt=st.integers(64, 5000))
def test_little_is_given_back(prompt):
    """The worst case: a prompt that ends with a row of its own needs a call that does."""
    assert prompt - reusable_tokens(prompt, prompt, 32) <= 256


@pytest.mark.parametrize(
    ("prompt", "found", "reused"),
    [
        (600, 512, 512),
        (544, 512, 512),
        (513, 512, 480),  # ends with a piece of one row: so must the rest, and one row alone is too few
        (611, 608, 384),  # ends with 35 rows; the rest would with 3 behind all that is nearer
        (20, 0, 0),
        (40, 32, 0),  # 8 rows would be left
    ],
)
def test_the_rest_ends_as_the_whole_does(prompt, found, reused):
    assert reusable_tokens(prompt, found, 32) == reused


@given(prompt=lengths)
def test_the_fence_stands_behind_what_is_shared(prompt):
    fences = own_fence(prompt)
    assert [fence.position_tokens for fence in fences] == ([shared_tokens(prompt)] if prompt % 512 else [])
    assert all(fence.name != other.name for fence in fences for other in own_fence(prompt + 1))


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=1500))
def test_the_filler_makes_a_beginning_as_long_as_to_be_shared(tokens):
    filled = with_filler(tokens)
    assert filled[: len(tokens)] == tokens
    assert shared_tokens(len(filled)) == len(filled)


def test_a_prompt_is_one_call_whatever_the_budget():
    running = [Work(0, 3000, 3000), Work(10, 11, 8), Work(32, 700, 700)]
    assert next_calls(running, AS_GENERATE, 512) == [(Part(1, 1),), (Part(0, 3000),)]


@pytest.fixture
def forward(tiny_model):
    return Forward(tiny_model, KVPool(read_layout(tiny_model, tiny_model.device), 32), 2048)


def test_the_check_passes_and_is_remembered(forward, tmp_path):
    said = []
    first = probe_as_generate(forward, tmp_path, said.append)
    assert (first.mode, first.differences) == ("generate", 0)
    assert first.comparisons >= 15
    assert probe_as_generate(forward, tmp_path, said.append) == first
    assert len(said) == 1
    assert forward.pool.used_bytes == 0


@pytest.mark.parametrize("where", ["a cached block", "the rest's call"])
def test_the_check_sees_one_bit(forward, monkeypatch, where):
    """The control: with a bit that reuse changes, the answer is no."""
    fill, run = forward.pool.fill, forward.run

    def damaged_fill(page, tensors):
        tensors[-1].view(torch.int32)[-1, 0, 5, 3] ^= 1
        fill(page, tensors)

    def damaged_run(chunks, layout):
        logits = run(chunks, layout)
        if chunks[0].start and len(chunks[0].tokens) > 1:
            logits[0].view(torch.int32)[0, 7] ^= 1
        return logits

    if where == "a cached block":
        monkeypatch.setattr(forward.pool, "fill", damaged_fill)
    else:
        monkeypatch.setattr(forward, "run", damaged_run)
    said = []
    assert probe_as_generate(forward, None, said.append) is None
    assert "round in another way" in said[-1]


def test_reuse_that_ends_anywhere_is_seen(forward, monkeypatch):
    """The rule about the last piece is needed: without it, bits differ."""
    monkeypatch.setattr(as_generate, "reusable_tokens", lambda prompt, found, size: found // size * size)
    assert probe_as_generate(forward, None) is None


def test_models_that_a_few_prompts_say_nothing_about_are_refused(forward, tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model.config, "sliding_window", 64, raising=False)
    said = []
    assert probe_as_generate(forward, None, said.append) is None
    assert "sliding window" in said[-1]
