"""Attention for tokens of many requests in one call, each over the pages of its own request.

An attention kernel rounds by the shape it is given. Here the shapes that matter follow from a token's own
position: which spans of keys it attends to, and how many keys of each are shown (engine/spans.py). With query
rows in multiples of `LEAST_ROWS`, a token's result is then the same bits whether it comes in a prompt of a
thousand tokens, behind a cached prefix, or alone while decoding, and whatever other requests share the call.
Requests that stand behind the same pages attend to them together. The heads of a group share their keys and
values, so they are rows of one product.

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

from axolotl_cache.engine.merging import Batch, Merge
from axolotl_cache.engine.pool import KVPool
from axolotl_cache.engine.spans import LEAST_ROWS, Piece, Rows, ordinal, pieces, slices

_NAME: Final = "axolotl_cache_pages"
_CHANGES_RESULTS: Final = ("position_bias", "softcap", "s_aux", "sinks")
_MANY_TOKENS: Final = 64
"""A piece with at least so many tokens is a batch of its own: its queries and keys are then read in place."""
_FEW_TOKENS: Final = 8
"""Pieces with up to so many tokens share a batch, filled up to the longest: more batches take longer."""

_MOST_SPANS: Final = 8192
"""Results of spans that are held at once, counted by token: 512 tokens with 16 spans each. Each result takes
heads * value_dim numbers in float32."""

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""transformers' form of a mask: (batch, head, query, key) -> whether that query sees that key."""


@dataclass(slots=True)
class Tiles:
    """Pieces with equally many keys, filled up to equally many tokens, so that they are one batch of B."""

    keys: int
    """Keys shown, N."""
    tokens: int
    """Of each piece, R; shorter pieces repeat their last one."""
    masked: bool
    queries: torch.Tensor | slice
    """Which rows of the call, (B * R,)."""
    direct: tuple[torch.Tensor | slice, torch.Tensor | slice] | None
    """Of the B * R results those whose token sees nothing else, and the rows of the call they belong to."""
    batch: Batch
    """Where the others belong."""
    begins: torch.Tensor
    """The pieces' first keys, (B, 1, 1)."""
    positions: torch.Tensor
    """Of the tokens, (B, R, 1)."""
    places: torch.Tensor
    """The pages with the keys, (B, N / block_size)."""
    in_a_row: int | None
    """The first page's place where all the pages lie behind one another."""
    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    gathers: dict[int, torch.Tensor] = field(default_factory=dict)


class View:
    """What rows of a call see in the layers that have one window.

    Args:
        parts: the requests' tokens, in the order of the call's rows.
        block_size: tokens in a page.
        window: keys that a token sees at the most; None for all.
        first_row: the call's row of the first token.
        device: where the keys are.
    """

    def __init__(
        self,
        parts: Sequence[Rows],
        block_size: int,
        window: int | None,
        first_row: int,
        device: torch.device,
    ) -> None:
        self._window, self._device = window, device
        batches: dict[tuple[int, int, bool, int], list[Piece]] = {}
        for number, piece in enumerate(pieces(parts, block_size, window, first_row)):
            alone = number if len(piece.rows) >= _MANY_TOKENS else -1
            tokens = piece.padded_tokens if piece.padded_tokens > _FEW_TOKENS else _FEW_TOKENS
            batches.setdefault((piece.keys, tokens, piece.masked, alone), []).append(piece)
        rows = enumerate((at for part in parts for at in range(part.start, part.stop)), first_row)
        several = {row for row, at in rows if ordinal(at, at, window)}  # its own segment is not its first
        self._several = sorted(several)
        self.tiles = [self._tiles(batch, several) for batch in batches.values()]
        self._merges: dict[tuple[int, int, int], Merge] = {}

    def _tiles(self, batch: list[Piece], several: set[int]) -> Tiles:
        tokens = max(piece.padded_tokens for piece in batch)
        queries: list[int] = []
        positions: list[int] = []
        results: list[int] = []
        ordinals: list[int] = []
        for piece in batch:
            missing = tokens - len(piece.rows)
            results += range(len(queries), len(queries) + len(piece.rows))
            ordinals += [ordinal(piece.begin, at, self._window) for at in piece.positions]
            queries += piece.rows + piece.rows[-1:] * missing
            positions += piece.positions + piece.positions[-1:] * missing
        direct = [result for result in results if queries[result] not in several]
        targets = [queries[result] for result in results]
        places = [place for piece in batch for place in piece.places]
        return Tiles(
            keys=batch[0].keys,
            tokens=tokens,
            masked=batch[0].masked,
            queries=self._rows(queries),
            direct=(self._rows(direct), self._rows([queries[r] for r in direct])) if direct else None,
            batch=Batch(len(batch), tokens, *map(self._tensor, (targets, results, ordinals))),
            begins=self._tensor([piece.begin for piece in batch]).view(-1, 1, 1),
            positions=self._tensor(positions).view(len(batch), tokens, 1),
            places=self._tensor(places).view(len(batch), -1),
            in_a_row=places[0] if _is_a_row(places) else None,
        )

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._device)

    def _rows(self, indices: list[int]) -> torch.Tensor | slice:
        if _is_a_row(indices):
            return slice(indices[0], indices[0] + len(indices))
        return self._tensor(indices)

    def mask(self, tiles: Tiles, group: int, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what to add to the scores, (B, 1, R * group, N), or (B, 1, 1, N); None where all is seen."""
        if not tiles.masked:
            return None
        known = tiles.masks.get(group)
        if known is None:
            at = tiles.begins + torch.arange(tiles.keys, device=self._device)
            hidden = at > tiles.positions
            if self._window is not None:
                hidden |= at <= tiles.positions - self._window
            if tiles.tokens > 1:
                hidden = hidden.repeat_interleave(group, dim=1)
            known = torch.zeros(hidden.shape, dtype=dtype, device=self._device)
            known = tiles.masks[group] = known.masked_fill_(hidden, -torch.inf).unsqueeze(1)
        return known

    def merge(self, kv_heads: int, group: int, value_dim: int) -> Merge | None:
        """Return what merges the results of rows that see several spans; None where none does."""
        if not self._several:
            return None
        shape = (kv_heads, group, value_dim)
        if shape not in self._merges:
            self._merges[shape] = Merge(
                [tiles.batch for tiles in self.tiles],
                self._tensor(self._several),
                kv_heads=kv_heads,
                group=group,
                value_dim=value_dim,
            )
        return self._merges[shape]


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
        self._parts = parts
        self._views: dict[int | None, list[View]] = {}
        self._room = torch.empty(0, device=pool.layout.device)
        self._results: dict[tuple[int, ...], torch.Tensor] = {}
        self._new: tuple[torch.Tensor, torch.Tensor] | None = None
        self._attended = True
        block = pool.block_size
        slots = [
            part.pages[at // block].index * block + at % block
            for part in parts
            for at in range(part.start, part.stop)
        ]
        self.real_rows = len(slots)
        self._slots = torch.tensor(slots, device=pool.layout.device)

    def views(self, window: int | None = None) -> list[View]:
        """Return what the rows see in layers with this window, slice after slice; None is no window."""
        if window is not None:
            self.windows.add(window)
            if window >= max((part.stop for part in self._parts), default=0):
                window = None  # it leaves nothing out
        if window not in self._views:
            self._views[window] = views = []
            row = 0
            for parts in slices(self._parts, _MOST_SPANS, window):
                views.append(View(parts, self.pool.block_size, window, row, self.pool.layout.device))
                row += sum(part.stop - part.start for part in parts)
        return self._views[window]

    def room(self, shape: tuple[int, int]) -> torch.Tensor:
        """Return uninitialised memory in float32, the same in every layer."""
        numbers = shape[0] * shape[1]
        if self._room.numel() < numbers:
            self._room = torch.empty(numbers, device=self.pool.layout.device)
        return self._room[:numbers].view(shape)

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new keys and values, (1, kv_heads, rows, dim), where they belong in this layer.

        Padding's are put nowhere: what is masked must be finite, and padding need not be.

        Raises:
            ValueError: nobody has attended to the ones before.
        """
        self.check_attended()
        for new, held in zip((keys, values), self.pool.tensors(self.layer), strict=True):
            held.flatten(1, 2).index_copy_(1, self._slots, new[0, :, : self.real_rows])
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

    def read(self, tiles: Tiles) -> Iterator[torch.Tensor]:
        """Yield this layer's keys and then its values for these tiles, (B, kv_heads, N, dim)."""
        for which, held in enumerate(self.pool.tensors(self.layer)):
            heads, pages, block, dim = held.shape
            count, each = tiles.places.shape
            if tiles.in_a_row is not None:
                found = held[:, tiles.in_a_row : tiles.in_a_row + count * each]
                yield found.view(heads, count, each * block, dim).transpose(0, 1)
                continue
            if heads not in tiles.gathers:
                of_head = torch.arange(heads, device=held.device) * pages
                tiles.gathers[heads] = (of_head[None, :, None] + tiles.places[:, None, :]).flatten()
            found = self.pool.scratch(which, len(tiles.gathers[heads]), block * dim)
            torch.index_select(held.view(heads * pages, block * dim), 0, tiles.gathers[heads], out=found)
            yield found.view(count, heads, each * block, dim)

    def results(self, kv_heads: int, group: int, value_dim: int, dtype: torch.dtype) -> torch.Tensor:
        """Return room for a layer's results, (kv_heads, rows, group, value_dim); padding's are zero."""
        shape = (kv_heads, self.rows, group, value_dim)
        if shape not in self._results:
            self._results[shape] = torch.zeros(shape, dtype=dtype, device=self.pool.layout.device)
        return self._results[shape]


def _is_a_row(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


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
    kv_heads, group = key.shape[1], query.shape[1] // key.shape[1]
    # (kv_heads, rows, group, key_dim): the tokens of a piece, and the heads of a token, behind one another
    rows = query[0].view(kv_heads, group, plan.rows, -1).transpose(1, 2).contiguous()
    out = plan.results(kv_heads, group, value.shape[-1], query.dtype)
    for view in plan.views(sliding_window):
        merge = view.merge(kv_heads, group, value.shape[-1])
        room = plan.room(merge.room) if merge else None
        for number, tiles in enumerate(view.tiles):
            asked = _asked(rows, tiles)
            keys, values = plan.read(tiles)
            means, weights = _partial(asked, keys, values, view.mask(tiles, group, query.dtype), scaling)
            if tiles.direct:
                real = means[:, :, : tiles.tokens * group].transpose(0, 1)
                results, targets = tiles.direct
                out[:, targets] = real.reshape(kv_heads, -1, group, value.shape[-1])[:, results]
            if merge and room is not None:
                merge.put(room, number, means, weights)
        if merge and room is not None:
            out[:, merge.rows] = merge.merged(room).to(out.dtype)
    return out.transpose(0, 1).flatten(1, 2).unsqueeze(0), None


def _asked(rows: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    """Return the queries of these tiles, (B, kv_heads, query rows, key_dim)."""
    kv_heads, _, group, dim = rows.shape
    chosen = rows[:, tiles.queries].reshape(kv_heads, -1, tiles.tokens * group, dim)
    missing = -chosen.shape[2] % LEAST_ROWS
    if missing:
        chosen = torch.nn.functional.pad(chosen, (0, 0, 0, missing))
    return chosen.transpose(0, 1)


def _partial(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention over some keys, (B, heads, rows, value_dim), and the log-sum-exp of its scores.

    These are the kernels that `scaled_dot_product_attention` takes, asked for their log-sum-exp as well.
    """
    key_dim, value_dim = query.shape[-1], values.shape[-1]
    scaling = key_dim**-0.5 if scaling is None else scaling
    if query.device.type == "cuda":
        bias = None if mask is None else mask.expand(*query.shape[:-1], keys.shape[2])
        found, weights, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, keys, values, bias, True, scale=scaling
        )
        return found, weights[..., : query.shape[2]]
    if key_dim != value_dim:  # the kernel knows one width only; zeros change no score and no mean
        width = max(key_dim, value_dim)
        query, keys = (torch.nn.functional.pad(t, (0, width - key_dim)) for t in (query, keys))
        values = torch.nn.functional.pad(values, (0, width - value_dim))
    found, weights = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, attn_mask=mask, scale=scaling
    )
    return found[..., :value_dim], weights


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
