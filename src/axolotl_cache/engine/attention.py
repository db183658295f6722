"""Attention for tokens of many requests in one call, each over the pages of its own request.

An attention kernel rounds by the shape it is given. Here the shape that matters, the number of keys shown,
follows from a token's own position (the end of its key tile), and at least `LEAST_ROWS` query rows come at
once: with that, a token's result is the same bits whether it comes in a prompt of a thousand tokens, behind
a cached prefix, or alone while decoding, and whatever other requests share the call. The heads of a group
share their keys and values, so they are rows of one product.

What was measured, and on what it rests: docs/design/exactness.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from axolotl_cache.engine.plan import tile_end
from axolotl_cache.engine.pool import SCRAP, KVPool, Page

LEAST_ROWS: Final = 4
"""Products with fewer rows than this take another way through the kernels, and round otherwise."""

_NAME: Final = "axolotl_cache_pages"
_CHANGES_RESULTS: Final = ("position_bias", "softcap", "s_aux", "sinks")

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""transformers' form of a mask: (batch, head, query, key) -> whether that query sees that key."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of one request that a call computes: they stand at positions `start` to `stop`."""

    pages: Sequence[Page]
    """The request's, at least up to `stop`."""
    start: int
    stop: int


@dataclass(slots=True)
class _Tiles:
    """Pieces of requests that see equally many keys, so that they are one batch of B."""

    keys: int
    """Keys shown, N."""
    rows: int
    """Query rows of each piece, R; short pieces repeat their last one."""
    queries: torch.Tensor | slice
    """Which rows of the call, (B * R,)."""
    results: torch.Tensor | None
    """Which of the B * R results are real, in the order of `targets`; None for all."""
    targets: torch.Tensor | slice
    """Where in the call the real results belong."""
    positions: torch.Tensor
    """Of the query rows, (B, R)."""
    places: torch.Tensor
    """The pages with the keys, (B, N / block_size)."""
    in_a_row: int | None
    """The first page's place where a single piece's pages lie behind one another."""
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    gathers: dict[int, torch.Tensor] = field(default_factory=dict)


class Plan:
    """Where the rows of one call are written and what they see. Made once a call, used in every layer.

    Args:
        pool: where the keys and values are.
        parts: the requests' tokens, in the order of the call's rows.
        padded_rows: rows of the call, padding included.
    """

    def __init__(self, pool: KVPool, parts: Sequence[Rows], padded_rows: int) -> None:
        self.pool = pool
        self.layer = -1
        """The layer that runs now."""
        self.rows = padded_rows
        self.windows: set[int] = set()
        """The sliding windows that layers asked for."""
        self.masks: dict[int | None, MaskFunction] = {}
        """The masks that the model would have made, by their window; the first of each."""
        self._new: tuple[torch.Tensor, torch.Tensor] | None = None
        self._attended = True
        block, device = pool.block_size, pool.layout.device
        slots: list[int] = []
        pieces: dict[tuple[int, int], list[tuple[int, int, int, Rows]]] = {}
        for part in parts:
            first = len(slots) - part.start  # so that first + position is the row
            slots.extend(
                part.pages[at // block].index * block + at % block for at in range(part.start, part.stop)
            )
            begin = part.start
            while begin < part.stop:
                keys = tile_end(begin + 1)
                end = min(keys, part.stop)
                pieces.setdefault((keys, _round_up(end - begin)), []).append((first, begin, end, part))
                begin = end
        self.real_rows = len(slots)
        padding = [SCRAP * block + i % block for i in range(padded_rows - len(slots))]
        self.slots = torch.tensor(slots + padding, device=device)
        self.tiles = [self._tiles(keys, rows, found) for (keys, rows), found in pieces.items()]

    def _tiles(self, keys: int, rows: int, pieces: list[tuple[int, int, int, Rows]]) -> _Tiles:
        block, device = self.pool.block_size, self.pool.layout.device
        queries: list[int] = []
        positions: list[int] = []
        real: list[int] = []
        places: list[list[int]] = []
        for first, begin, end, part in pieces:
            real.extend(range(len(queries), len(queries) + end - begin))
            at = [*range(begin, end), *[end - 1] * (rows - end + begin)]
            positions += at
            queries += [first + position for position in at]
            mine = [page.index for page in part.pages[: -(-end // block)]]
            places.append(mine + [SCRAP] * (keys // block - len(mine)))
        targets = [queries[i] for i in real]
        whole = len(real) == len(queries)
        return _Tiles(
            keys=keys,
            rows=rows,
            queries=_slice_or_tensor(queries, device),
            results=None if whole else torch.tensor(real, device=device),
            targets=_slice_or_tensor(targets, device),
            positions=torch.tensor(positions, device=device).view(len(pieces), rows),
            places=torch.tensor(places, device=device),
            in_a_row=_first_of_row(places[0]) if len(places) == 1 else None,
        )

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new keys and values, (1, kv_heads, rows, dim), where they belong in this layer.

        Raises:
            ValueError: nobody has attended to the ones before.
        """
        self.check_attended()
        for new, held in zip((keys, values), self.pool.tensors(self.layer), strict=True):
            held.flatten(1, 2).index_copy_(1, self.slots, new[0])
        self._new, self._attended = (keys, values), False

    def attend_to(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Note that attention asks for these new keys and values, and for all that stand before them.

        Raises:
            ValueError: they are not what was written last: a model that makes something else of what it
                caches, or lets a layer see what another one cached.
        """
        if self._new is None or keys is not self._new[0] or values is not self._new[1]:
            raise ValueError("attention to other keys and values than the layer's own can't be paged")
        self._attended = True

    def check_attended(self) -> None:
        """Raise ValueError if a layer wrote keys and values and then attended in a way of its own."""
        if not self._attended:
            raise ValueError(f"layer {self.layer} attends in a way of its own, which can't be paged")

    def read(self, tiles: _Tiles) -> Iterator[torch.Tensor]:
        """Yield this layer's keys and then its values for these tiles, (B, kv_heads, N, dim)."""
        for which, held in enumerate(self.pool.tensors(self.layer)):
            heads, pages, block, dim = held.shape
            if tiles.in_a_row is not None:
                first = tiles.in_a_row
                yield held[:, first : first + tiles.keys // block].flatten(1, 2).unsqueeze(0)
                continue
            if heads not in tiles.gathers:
                of_head = torch.arange(heads, device=held.device) * pages
                tiles.gathers[heads] = (of_head[None, :, None] + tiles.places[:, None, :]).flatten()
            found = self.pool.scratch(which, len(tiles.gathers[heads]), block * dim)
            torch.index_select(held.view(heads * pages, block * dim), 0, tiles.gathers[heads], out=found)
            yield found.view(len(tiles.places), heads, tiles.keys, dim)

    def mask(self, tiles: _Tiles, group: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return what to add to the scores, (B, 1, group * R, N), or one row for all where they are equal.

        Args:
            tiles: the batch.
            group: heads that share keys and values.
            window: keys that a token sees at the most; None for all.
            dtype: of the scores.
        """
        if window is not None:
            self.windows.add(window)
        known = tiles.masks.get(window)
        if known is None:
            at = torch.arange(tiles.keys, device=tiles.positions.device)
            hidden = at > tiles.positions.unsqueeze(-1)
            if window is not None:
                hidden |= at <= tiles.positions.unsqueeze(-1) - window
            known = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            known = known.masked_fill_(hidden, -torch.inf).unsqueeze(1)
            known = known if tiles.rows == 1 else known.repeat(1, 1, group, 1)
            tiles.masks[window] = known
        return known


def _round_up(rows: int) -> int:
    # Few different sizes, so that the pieces of many requests are few batches.
    return 1 if rows == 1 else max(LEAST_ROWS, 1 << (rows - 1).bit_length())


def _slice_or_tensor(indices: list[int], device: torch.device) -> torch.Tensor | slice:
    if indices == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return torch.tensor(indices, device=device)


def _first_of_row(places: list[int]) -> int | None:
    return places[0] if places == list(range(places[0], places[0] + len(places))) else None


_PLAN: ContextVar[Plan] = ContextVar("axolotl_cache_plan")


@contextmanager
def paged_attention(config: Any, plan: Plan) -> Iterator[None]:
    """Make a model attend by `plan` inside this block.

    Args:
        config: the model's configuration, whose attention implementation is "sdpa".
        plan: where this call's rows are and what they see.
    """
    before = config._attn_implementation
    config._attn_implementation = _NAME
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)
        config._attn_implementation = before


def supports_pages(config: Any) -> bool:
    """Return whether a model's attention is the plain one that ours can stand in for."""
    return bool(config.get_text_config()._attn_implementation == "sdpa")


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of all rows of a call, (1, rows, heads, value_dim).

    Args:
        module: the layer.
        query: (1, heads, rows, key_dim).
        key: the new ones; they are in the pool already.
        value: likewise.
        attention_mask: not used: the plan knows what is seen.
        scaling: factor of the scores.
        sliding_window: keys that a token sees at the most; None for all.
        more: what other kinds of attention are given; what would change the result is refused.
    """
    unknown = [name for name in _CHANGES_RESULTS if more.get(name) is not None]
    if unknown or attention_mask is not None:
        raise ValueError(f"attention with {', '.join(unknown) or 'a mask of its own'} can't be paged")
    plan = _PLAN.get()
    plan.attend_to(key, value)
    heads, kv_heads = query.shape[1], key.shape[1]
    group = heads // kv_heads
    # (rows, kv_heads, group, key_dim)
    rows = query[0].transpose(0, 1).reshape(-1, kv_heads, group, query.shape[-1])
    out = torch.zeros(plan.rows, heads, value.shape[-1], dtype=query.dtype, device=query.device)
    for tiles in plan.tiles:
        keys, values = plan.read(tiles)
        many = len(tiles.places)
        # (B, kv_heads, group * R, key_dim)
        asked = rows[tiles.queries].view(many, tiles.rows, kv_heads, group, -1)
        asked = asked.permute(0, 2, 3, 1, 4).flatten(2, 3)
        missing = -asked.shape[2] % LEAST_ROWS if tiles.rows == 1 else 0
        if missing:
            asked = torch.nn.functional.pad(asked, (0, 0, 0, missing))
        result = torch.nn.functional.scaled_dot_product_attention(
            asked,
            keys,
            values,
            attn_mask=plan.mask(tiles, group, sliding_window, query.dtype),
            scale=scaling,
        )
        result = result[:, :, : group * tiles.rows].reshape(many, kv_heads, group, tiles.rows, -1)
        result = result.permute(0, 3, 1, 2, 4).reshape(many * tiles.rows, heads, -1)
        out[tiles.targets] = result if tiles.results is None else result[tiles.results]
    return out.unsqueeze(0), None


def _no_mask(
    *_: Any,
    mask_function: MaskFunction,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **__: Any,
) -> None:
    """Return no mask: the plan knows what is seen. Note which one it would have been.

    Args:
        mask_function: which keys a query sees.
        local_size: the window, or whatever else the mask is bounded by.
        allow_is_causal_skip: False where the model changes something about the usual mask.
    """
    if not allow_is_causal_skip:
        raise ValueError("attention with a mask of its own can't be paged")
    _PLAN.get().masks.setdefault(local_size, mask_function)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _no_mask)
