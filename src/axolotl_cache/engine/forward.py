"""The only place that calls the model: tokens of one request or of many, over the pages of each."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from axolotl_cache.engine.attention import MaskFunction, Plan, paged_attention
from axolotl_cache.engine.plan import Layout
from axolotl_cache.engine.pool import KVPool, Page
from axolotl_cache.engine.spans import Rows

_PADDING_TOKEN = 0  # any id will do: nothing real attends to it


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one request that stand behind one another and are computed in one call."""

    pages: Sequence[Page]
    """The request's, up to the chunk's end at least; those the chunk writes to are its own."""
    start: int
    """Tokens before the chunk; their keys and values are in the pages."""
    tokens: Sequence[int]
    wanted: int = 1
    """Behind how many of the tokens, the last ones, logits are wanted."""


class Forward:
    """A causal language model over the pages of a pool.

    Args:
        model: a Hugging Face causal LM in eval mode.
        pool: where its keys and values are.
        context_length_tokens: positions it knows.
    """

    def __init__(self, model: Any, pool: KVPool, context_length_tokens: int) -> None:
        self.model = model
        self.pool = pool
        self.context_length_tokens = context_length_tokens
        wanted = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
        self._keeps_logits = "logits_to_keep" in wanted
        takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in wanted.values())
        self._takes_positions = takes_more or "position_ids" in wanted  # else the model counts by itself
        self.windows_seen: set[int] = set()
        """The sliding windows that the model's layers asked for so far."""
        self.masks_seen: dict[int | None, MaskFunction] = {}
        """The masks that the model wanted to make so far, by their window."""
        self._paged = _PoolCache([_PagedLayer() for _ in range(1 + max(pool.layers))])

    @property
    def last_logits(self) -> dict[str, int]:
        """The argument that asks the model for the logits behind the last token alone, if it knows one."""
        return {"logits_to_keep": 1} if self._keeps_logits else {}

    @torch.inference_mode()
    def plain(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits behind the last token, (vocabulary,), as the model gives them without pages."""
        named = self._positions(range(len(tokens))) | self.last_logits
        ids = torch.tensor([list(tokens)], device=self.pool.layout.device)
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False, **named).logits
        return logits[0, -1]

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], layout: Layout) -> list[torch.Tensor]:
        """Compute chunks of different requests in one call, each blind to the others.

        Args:
            chunks: at least one; exactly one where `layout.tiled` is False.
            layout: how rows are padded, and whose attention is used.

        Returns:
            For each chunk the logits behind its last tokens, (wanted, vocabulary).
        """
        real = sum(len(chunk.tokens) for chunk in chunks)
        rows = -(-real // layout.row_multiple) * layout.row_multiple
        if not layout.tiled:
            return self._run_alone(chunks[0])
        parts = [Rows(c.pages, c.start, c.start + len(c.tokens)) for c in chunks]
        plan = Plan(self.pool, parts, rows)
        ids = [token for chunk in chunks for token in chunk.tokens] + [_PADDING_TOKEN] * (rows - real)
        positions = [p for part in parts for p in range(part.start, part.stop)] + [0] * (rows - real)
        wanted: list[int] = []
        row = 0
        for chunk in chunks:
            row += len(chunk.tokens)
            wanted += range(row - chunk.wanted, row)
        self._paged.plan = plan
        with paged_attention(self.model.config, plan):
            logits = self._call(ids, positions, wanted or [0], layout.row_multiple, self._paged)
        plan.check_attended()
        self.windows_seen |= plan.windows
        self.masks_seen = plan.masks | self.masks_seen
        return list(torch.split(logits[: len(wanted)], [chunk.wanted for chunk in chunks]))

    def _run_alone(self, chunk: Chunk) -> list[torch.Tensor]:
        """Compute one request's chunk with the model's own attention and masks."""
        positions = list(range(chunk.start, chunk.start + len(chunk.tokens)))
        cache = _PoolCache([_GatheredLayer(self.pool, layer, chunk) for layer in self.pool.layers])
        wanted = range(len(chunk.tokens) - chunk.wanted, len(chunk.tokens))
        logits = self._call(list(chunk.tokens), positions, list(wanted) or [0], 1, cache)
        return [logits[: chunk.wanted]]

    def _call(
        self, ids: list[int], positions: list[int], wanted: list[int], row_multiple: int, cache: Cache
    ) -> torch.Tensor:
        device = self.pool.layout.device
        # The output layer is a product of matrices like all others: its rows are padded, too.
        kept = wanted + wanted[-1:] * (-len(wanted) % row_multiple)
        out = self.model(
            input_ids=torch.tensor([ids], device=device),
            past_key_values=cache,
            use_cache=True,
            **self._positions(positions),
            **({"logits_to_keep": torch.tensor(kept, device=device)} if self._keeps_logits else {}),
        )
        logits: torch.Tensor = out.logits[0]
        return logits[: len(wanted)] if self._keeps_logits else logits[wanted]

    def _positions(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        if not self._takes_positions:
            return {}
        return {"position_ids": torch.tensor([list(positions)], device=self.pool.layout.device)}


class _PoolLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """What transformers asks of a cache's layer and does not matter here."""

    is_sliding = False  # a page keeps every token; a sliding window is the attention's business
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized = True

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Do nothing: the memory is there already."""

    def get_max_length(self) -> int:
        return -1  # transformers' word for "no limit"

    def get_max_cache_shape(self) -> int:
        return -1

    def reset(self) -> None:
        """Do nothing: the pool is the engine's."""


class _PagedLayer(_PoolLayer):
    """For our attention, which reads the pool itself."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("the cache as a whole is updated, not a layer of it")

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        """Return (keys' length, offset); `query` is a length, or positions in older transformers."""
        return (query if isinstance(query, int) else query.shape[0]), 0


class _PoolCache(Cache):  # type: ignore[misc]  # transformers has no types
    """Pages as a transformers cache."""

    plan: Plan | None = None

    def __init__(self, layers: list[_PoolLayer]) -> None:
        super().__init__(layers=layers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new keys and values, (1, kv_heads, new, dim), into the pool; return what attention sees."""
        if self.plan is None:
            keys, values = self.layers[layer_idx].update(key_states, value_states, *more, **named)
            return keys, values
        self.plan.layer = layer_idx
        self.plan.write(key_states, value_states)
        return key_states, value_states


class _GatheredLayer(_PoolLayer):
    """For the model's own attention: one request's keys and values, copied together from its pages."""

    def __init__(self, pool: KVPool, layer: int, chunk: Chunk) -> None:
        super().__init__()
        self._pool, self._layer, self._start = pool, layer, chunk.start
        self._pages = chunk.pages

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values (1, kv_heads, new, dim) behind the old ones; return all of them."""
        stop = self._start + key_states.shape[-2]
        size = self._pool.block_size
        pages = [page.index for page in self._pages[: -(-stop // size)]]
        places = torch.tensor(pages, device=key_states.device)
        slots = (places[:, None] * size + torch.arange(size, device=places.device)).flatten()
        found: list[torch.Tensor] = []
        for new, held in zip((key_states, value_states), self._pool.tensors(self._layer), strict=True):
            held.flatten(1, 2).index_copy_(1, slots[self._start : stop], new[0])
            found.append(held.index_select(1, places).flatten(1, 2)[:, :stop].unsqueeze(0))
        return found[0], found[1]

    def get_seq_length(self) -> int:
        return self._start

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        """Return (keys' length, offset); `query` is a length, or positions in older transformers."""
        return self._start + (query if isinstance(query, int) else query.shape[0]), 0
