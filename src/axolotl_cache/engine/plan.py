"""Into which calls of the model the waiting tokens are cut. Pure arithmetic.

Where results do not depend on how many tokens are computed together ("invariant"), any cut will do, and
the tokens of many requests share a call. Where they do ("grid"), a prompt is computed alone, in calls that
start and end at fixed places, so that hit and miss make the same ones. See docs/design/exactness.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from axolotl_cache.namespace import BLOCK_SIZE_TOKENS


@dataclass(frozen=True, slots=True)
class Layout:
    """How prompts are cut into blocks and calls."""

    block_size: int
    """Tokens in a block: prefixes are reused in multiples of it."""
    row_multiple: int = 1
    """Every call is filled up with padding to a multiple of this many tokens."""
    grid_tokens: int = 0
    """0 where any cut will do; else a prompt's calls start at multiples of this."""
    tiled: bool = True
    """Whether attention is ours, see engine/attention.py; if not, each request is computed alone."""
    whole: bool = False
    """Whether a prompt is computed in one call, as transformers' `generate` does (engine/as_generate.py)."""

    def __post_init__(self) -> None:
        if self.grid_tokens % self.block_size:
            raise ValueError(f"{self}: blocks must fill the grid")


def invariant(row_multiple: int) -> Layout:
    """Return the layout for results that do not depend on what else is computed in the same call."""
    return Layout(BLOCK_SIZE_TOKENS, row_multiple)


GRID: Final = Layout(block_size=128, grid_tokens=128)
"""Prompts alone, in calls on a fixed grid; attention in tiles."""

ALONE: Final = Layout(block_size=128, grid_tokens=128, tiled=False)
"""The same with the model's own attention: one request in a call, always."""

AS_GENERATE: Final = Layout(BLOCK_SIZE_TOKENS, tiled=False, whole=True)
"""The calls that `generate` makes: a prompt whole, from where reuse ends, and then one token at a time."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one running request waits for."""

    start: int
    """Tokens whose keys and values are there."""
    stop: int
    """Tokens that are known; those between are to be computed."""
    prompt_tokens: int
    drafted: int = 0
    """Tokens that are computed behind the one sampled last, on the chance that they are right."""
    adapter: Hashable = None
    """What computes it: only what is computed with the very same shares a call."""

    @property
    def pending(self) -> int:
        """Tokens to compute."""
        return self.stop - self.start

    @property
    def is_decode(self) -> bool:
        """Whether all that waits is the token sampled last."""
        return self.pending == 1 and self.start >= self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Part:
    """One request's share of a call: how many of its waiting and drafted tokens are computed."""

    request: int
    """Its place in the list of running requests."""
    tokens: int


Call = tuple[Part, ...]
"""One call of the model."""


def next_calls(
    running: Sequence[Work], layout: Layout, budget_tokens: int, *, strict: bool = False
) -> list[Call]:
    """Return the calls of one step, in which every running request that decodes goes one token forward.

    Prompts get what the decoding ones leave of the budget: half of it the oldest, so that it comes to an
    end, the rest the shortest first, so that a long prompt does not hold up short ones. However many decode,
    a block is left for prompts.

    Args:
        running: the requests, oldest first.
        layout: how to cut.
        budget_tokens: tokens that a step computes at the most, those excepted that always go on; at least 1.
        strict: compute each request alone where a call's company could change its results.
    """
    decodes = [Part(i, 1 + work.drafted) for i, work in enumerate(running) if work.is_decode]
    prefills = [i for i, work in enumerate(running) if work.pending and not work.is_decode]
    if layout.whole:
        parts = [*decodes, *(Part(i, running[i].pending) for i in prefills[:1])]
        return [(part,) for part in parts]
    left = max(budget_tokens - sum(part.tokens for part in decodes), min(layout.block_size, budget_tokens))
    if layout.grid_tokens:
        alone = strict or not layout.tiled
        calls: list[Call] = [(part,) for part in decodes] if alone else _by_adapter(decodes, running)
        for index in _oldest_then_shortest(prefills, running):
            work = running[index]
            end = min((work.start // layout.grid_tokens + 1) * layout.grid_tokens, work.stop)
            calls.append((Part(index, end - work.start),))
            left -= end - work.start
            if left <= 0:
                break
        return calls
    parts = decodes
    for place, index in enumerate(_oldest_then_shortest(prefills, running)):
        share = left if place else max((left + 1) // 2, left - _others(prefills, running))
        tokens = min(running[index].pending, share)
        if tokens > 0:
            parts.append(Part(index, tokens))
            left -= tokens
    return _by_adapter(parts, running)


def _others(prefills: Sequence[int], running: Sequence[Work]) -> int:
    return sum(running[i].pending for i in prefills[1:])


def _oldest_then_shortest(prefills: Sequence[int], running: Sequence[Work]) -> Iterable[int]:
    return [*prefills[:1], *sorted(prefills[1:], key=lambda i: running[i].pending)]


def _by_adapter(parts: Sequence[Part], running: Sequence[Work]) -> list[Call]:
    calls: dict[Hashable, list[Part]] = {}
    for part in parts:
        calls.setdefault(running[part.request].adapter, []).append(part)
    return [tuple(call) for call in calls.values()]
