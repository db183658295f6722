"""The bits of transformers' own `generate`, with reuse: what may be reused then, and a check that it holds.

`generate` computes a prompt in one call with the model's own attention, and then one token at a time. Behind
reused keys and values the same calls are shorter, and kernels round by the shape of a call. What was found
of torch's attention on a CPU (2.13, both dtypes, docs/design/exactness.md):

- It reads keys in blocks of 512, the last one shorter. A token's row depends on how many keys its own block
  has, so on the prompt's length if that is the last one. So what stands in the last, unfinished block is
  reused only for prompts of the very same length; whole blocks of 512 are the same for all.
- It takes rows in pieces of 32, 64 or 256, by their number. A piece with very few rows, the last one, is
  rounded in another way. So a call behind a prefix must end with such a piece where the whole prompt does.

Whether this is all there is to it on this machine and for this model is measured at start, on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import DynamicCache

from axolotl_cache.engine.exactness import (
    Exactness,
    fingerprint,
    random_tokens,
    read_memo,
    same_bits,
    seconds_per_token,
    write_memo,
)
from axolotl_cache.engine.forward import Chunk, Forward
from axolotl_cache.engine.plan import AS_GENERATE
from axolotl_cache.engine.pool import Page
from axolotl_cache.prefix import Fence

_VERSION: Final = 1
"""Another one measures anew."""

_KEYS_TOKENS: Final = 512
"""Keys that the kernel reads at once."""

_PIECES: Final = ((768, 256), (192, 64), (0, 32))
"""From so many rows on, the rows in a piece."""

_SAFE_PIECE_ROWS: Final = 4
"""From so many rows in a piece on, each is rounded in one way: pieces of 1, 2 and 3 were not."""

_SAFE_ROWS: Final = 16
"""From so many rows on, a linear layer rounds each in one way; up to 11 were seen that did not."""

_LENGTHS: Final = (1100, 708, 320, 193, 97)
"""Prompts of the check, each the beginning of the one before: several pieces and blocks, and small ends."""

_DECODED: Final = 2
"""Tokens that are decoded behind each of them."""


def shared_tokens(prompt_tokens: int) -> int:
    """Return how many leading tokens of a prompt are computed alike in all prompts with so many or more."""
    return prompt_tokens // _KEYS_TOKENS * _KEYS_TOKENS


def own_fence(prompt_tokens: int) -> tuple[Fence, ...]:
    """Return the fence behind which a prompt's blocks are only for prompts of the same length."""
    shared = shared_tokens(prompt_tokens)
    return (Fence(shared, f"prompts of {prompt_tokens} tokens"),) if shared < prompt_tokens else ()


def with_filler(tokens: Sequence[int]) -> list[int]:
    """Return the beginning of a prompt, which is `tokens`, that is as long as to be shared with others."""
    length = -(-len(tokens) // _KEYS_TOKENS) * _KEYS_TOKENS
    return [tokens[at % len(tokens)] for at in range(length)]


def reusable_tokens(prompt_tokens: int, found_tokens: int, block_size: int) -> int:
    """Return how many of the found leading tokens may be reused; a multiple of `block_size`, 0 at worst."""
    at_most = min(found_tokens, prompt_tokens - _SAFE_ROWS)
    whole = _last_piece(prompt_tokens)
    for reused in range(at_most // block_size * block_size, 0, -block_size):
        rest = _last_piece(prompt_tokens - reused)
        if rest == whole or min(rest, whole) >= _SAFE_PIECE_ROWS:
            return reused
    return 0


def _last_piece(rows: int) -> int:
    """Return the rows of the last piece that the kernel cuts so many rows into."""
    size = next(size for least, size in _PIECES if rows >= least)
    return (rows - 1) % size + 1


def probe_as_generate(
    forward: Forward, memo: Path | None, report: Callable[[str], None] = lambda line: None
) -> Exactness | None:
    """Return how the model is computed with the bits of `generate`; None where reuse would change them.

    Cost: about 6,000 tokens of prefill the first time; a small file read afterwards.

    Args:
        forward: the model, over a pool with blocks of this layout.
        memo: folder where results are remembered; None measures every time.
        report: is told before anything is measured, and why the answer is None.
    """
    numerics = f"{fingerprint(forward, adapters=False)}-generate-{_VERSION}"
    file = memo / f"exactness-{numerics}.json" if memo else None
    result = read_memo(file) if file else None
    if result is None:
        report("checking that reuse leaves generate's bits as they are (once for this model on this machine)")
        result = replace(_measure(forward), numerics=numerics)
        if file:
            write_memo(file, result)
    if result.mode == "generate":
        return result
    report(
        f"answers can differ in last bits from those of generate alone: {result.reason}. "
        "Where they must not, set enable_prefix_cache: false"
    )
    return None


def _measure(forward: Forward) -> Exactness:
    obstacle = _why_never(forward.model)
    if obstacle:
        return Exactness("none", obstacle)
    done = 0
    try:
        for same in _compare_all(forward):
            done += 1
            if not same:
                reason = "behind a reused prefix, this model's calls round in another way on this machine"
                return Exactness("none", reason, done, 1)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # A model whose calls are not what they seemed; the other check finds out what can be done with it.
        return Exactness("none", f"its calls can't be repeated with our pages ({error})", done)
    reason = "the calls of transformers' own generate, whose bits they give"
    seconds = seconds_per_token(forward, AS_GENERATE)
    return Exactness("generate", reason, done, prefill_seconds_per_token=seconds)


def _why_never(model: Any) -> str:
    """Return why a check on a few prompts would say nothing about others."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None):
        return "generate keeps keys and values of a sliding window, or of layers of other kinds"
    if any("expert" in name or "Expert" in type(module).__name__ for name, module in model.named_modules()):
        return "how many tokens meet in a mixture's expert depends on the others"
    if getattr(model, "is_loaded_in_8bit", False):
        return "8-bit weights round by all tokens of a call"
    return ""


def _compare_all(forward: Forward) -> Iterator[bool]:
    """Yield for each comparison whether all bits were those of the model called as `generate` does."""
    room, size = forward.context_length_tokens - _DECODED, forward.pool.block_size
    lengths = [length for length in _LENGTHS if length <= room] or [room]
    tokens = random_tokens(forward, lengths[0] + _DECODED)
    first: list[Page] = []
    try:
        for length in lengths:
            expected = _as_transformers(forward, tokens[: length + _DECODED], length)
            cold = _pages(forward, length)
            try:
                yield _same(forward, tokens, length, cold, 0, expected)
                self_found, others = (length - 1) // size * size, shared_tokens(length) if first else 0
                for known, found in ((cold, self_found), (cold, self_found // 2), (first, others)):
                    reused = reusable_tokens(length, found, size)
                    if reused:
                        yield _same_behind(forward, tokens, length, known, reused, expected)
            finally:
                if not first:
                    first, cold = cold, []
                forward.pool.release(cold)
    finally:
        forward.pool.release(first)


_Expected = tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]
"""Logits behind the prompt and behind each decoded token, (vocabulary,); keys and values by layer."""


@torch.inference_mode()
def _as_transformers(forward: Forward, tokens: Sequence[int], prompt_tokens: int) -> _Expected:
    cache, logits = DynamicCache(), []
    for start, stop in _calls(0, prompt_tokens):
        ids = torch.tensor([tokens[start:stop]], device=forward.pool.layout.device)
        out = forward.model(input_ids=ids, past_key_values=cache, use_cache=True, **forward.last_logits)
        logits.append(out.logits[0, -1].clone())
    return logits, [(cache.layers[n].keys[0], cache.layers[n].values[0]) for n in forward.pool.layers]


def _calls(reused: int, prompt_tokens: int) -> list[tuple[int, int]]:
    decoded = range(prompt_tokens, prompt_tokens + _DECODED)
    return [(reused, prompt_tokens), *((at, at + 1) for at in decoded)]


def _pages(forward: Forward, prompt_tokens: int) -> list[Page]:
    return forward.pool.allocate(-(-(prompt_tokens + _DECODED) // forward.pool.block_size))


def _same_behind(
    forward: Forward,
    tokens: Sequence[int],
    prompt_tokens: int,
    known: Sequence[Page],
    reused: int,
    expected: _Expected,
) -> bool:
    pages = _pages(forward, prompt_tokens)
    try:
        for page, other in zip(pages[: reused // forward.pool.block_size], known, strict=False):
            forward.pool.fill(page, forward.pool.read(other))
        return _same(forward, tokens, prompt_tokens, pages, reused, expected)
    finally:
        forward.pool.release(pages)


def _same(
    forward: Forward,
    tokens: Sequence[int],
    prompt_tokens: int,
    pages: Sequence[Page],
    reused: int,
    expected: _Expected,
) -> bool:
    """Compute what is behind the reused tokens into `pages`; return whether logits, keys and values agree."""
    logits, layers = expected
    for (start, stop), wanted in zip(_calls(reused, prompt_tokens), logits, strict=True):
        (last,) = forward.run([Chunk(pages, start, tokens[start:stop])], AS_GENERATE)
        if not same_bits(last[0], wanted):
            return False
    places = torch.tensor([page.index for page in pages], device=forward.pool.layout.device)
    length = prompt_tokens + _DECODED
    return all(
        same_bits(held.index_select(1, places).flatten(1, 2)[:, :length], other)
        for layer, both in zip(forward.pool.layers, layers, strict=True)
        for held, other in zip(forward.pool.tensors(layer), both, strict=True)
    )
