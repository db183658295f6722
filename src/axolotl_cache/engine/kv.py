"""Keys and values: where a running request keeps them, and how blocks of them are copied in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from axolotl_cache.engine.attention import tile_end

_GROWTH_TOKENS = 256
_serials = count(1)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers whose keys and values have one shape, so that they live in one tensor."""

    layers: tuple[int, ...]
    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a model's keys and values, read off the model itself."""

    groups: tuple[LayerGroup, ...]
    dtype: torch.dtype
    device: torch.device

    def nbytes(self, tokens: int) -> int:
        """Return the bytes that `tokens` tokens take in all layers."""
        numbers = sum(len(g.layers) * g.kv_heads * (g.key_dim + g.value_dim) for g in self.groups)
        return numbers * tokens * self.dtype.itemsize

    def allocate(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """Return uninitialised keys and values for `tokens` tokens, two tensors a group.

        Each is (layers, kv_heads, tokens, dim), on the model's device.
        """
        return tuple(
            torch.empty(len(g.layers), g.kv_heads, tokens, dim, dtype=self.dtype, device=self.device)
            for g in self.groups
            for dim in (g.key_dim, g.value_dim)
        )


@dataclass(frozen=True, eq=False, slots=True)
class KVBlock:
    """The keys and values of one block of tokens, in every layer. Never written to once made."""

    tensors: tuple[torch.Tensor, ...]
    serial: int
    """Unique in this process; lets a slot know a block again without keeping it alive."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors)


class Slot:
    """The contiguous working memory of one running request, (layers, kv_heads, capacity, dim) a tensor.

    It remembers which cached blocks its leading tokens came from: when the next request starts with the
    same prefix, nothing needs to be copied.
    """

    def __init__(self, layout: KVLayout) -> None:
        self.layout = layout
        self.length_tokens = 0
        """Tokens whose keys and values are valid."""
        self.capacity_tokens = 0
        self.in_tiles = False
        """Whether the attention that runs now wants keys up to the end of a tile."""
        self._tensors: tuple[torch.Tensor, ...] = layout.allocate(0)
        self._resident: list[int] = []

    def begin(self, blocks: Sequence[KVBlock], block_size: int, capacity_tokens: int) -> int:
        """Start a request behind cached blocks; return how many of them had to be copied.

        Cost: one copy for each block that is not here from the request before.
        Changes: everything behind the prefix is given up.
        """
        self._reserve(capacity_tokens)
        here = 0
        for serial, block in zip(self._resident, blocks, strict=False):
            if serial != block.serial:
                break
            here += 1
        # What follows is overwritten: an interruption must not leave it named as the old blocks.
        self._resident = self._resident[:here]
        for index in range(here, len(blocks)):
            at = index * block_size
            for mine, theirs in zip(self._tensors, blocks[index].tensors, strict=True):
                mine[:, :, at : at + block_size].copy_(theirs)
        self.length_tokens = len(blocks) * block_size
        self._resident = [b.serial for b in blocks]
        return len(blocks) - here

    def block(self, index: int, block_size: int) -> KVBlock:
        """Return a copy of one whole block of this slot's tokens."""
        at = index * block_size
        if at + block_size > self.length_tokens:
            raise ValueError(f"block {index} ends behind the slot's {self.length_tokens} tokens")
        copies = tuple(
            t[:, :, at : at + block_size].clone(memory_format=torch.contiguous_format) for t in self._tensors
        )
        return KVBlock(copies, next(_serials))

    def remember(self, blocks: Sequence[KVBlock]) -> None:
        """Note that the leading tokens equal these cached blocks, so that `begin` need not copy them."""
        self._resident = [b.serial for b in blocks]

    def seen_tokens(self, new_tokens: int) -> int:
        """Return how many keys the attention is shown when `new_tokens` come in."""
        stop = self.length_tokens + new_tokens
        return tile_end(stop) if self.in_tiles else stop

    def clear_tail(self, stop: int) -> None:
        """Zero what the last tile holds behind `stop`: it is masked, but must be finite."""
        for tensor in self._tensors:
            tensor[:, :, stop : tile_end(stop)] = 0

    def layer_tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each layer's keys and values, (kv_heads, capacity, dim) views of the slot."""
        views: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for number, group in enumerate(self.layout.groups):
            keys, values = self._tensors[2 * number : 2 * number + 2]
            for row, layer in enumerate(group.layers):
                views[layer] = (keys[row], values[row])
        return [views[layer] for layer in sorted(views)]

    def _reserve(self, tokens: int) -> None:
        if tokens <= self.capacity_tokens:
            return
        # The old memory goes first, and the capacity is set last: a failed allocation leaves an empty slot.
        self.capacity_tokens, self.length_tokens, self._resident = 0, 0, []
        self._tensors = self.layout.allocate(0)
        capacity = -(-tokens // _GROWTH_TOKENS) * _GROWTH_TOKENS  # whole tiles, too
        self._tensors = self.layout.allocate(capacity)
        self.capacity_tokens = capacity


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """One layer of a slot, as transformers' attention wants to see it."""

    is_sliding = False  # the slot keeps every token; a sliding window is the attention mask's business
    is_compileable = False

    def __init__(self, slot: Slot, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._slot = slot
        self.keys, self.values = keys.unsqueeze(0), values.unsqueeze(0)
        self.is_initialized = True

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Do nothing: the slot's memory is there already."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values (1, kv_heads, new, dim) behind the old ones; return all of them."""
        start = self._slot.length_tokens
        stop = start + key_states.shape[-2]
        self.keys[:, :, start:stop].copy_(key_states)
        self.values[:, :, start:stop].copy_(value_states)
        seen = self._slot.seen_tokens(stop - start)
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def get_seq_length(self) -> int:
        return self._slot.length_tokens

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        """Return (keys' length, offset); `query` is a length, or positions in older transformers."""
        new = query if isinstance(query, int) else query.shape[0]
        return self._slot.seen_tokens(new), 0

    def get_max_length(self) -> int:
        return -1  # transformers' word for "no limit"

    def get_max_cache_shape(self) -> int:
        return -1

    def reset(self) -> None:
        """Do nothing: the engine begins the slot anew."""


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A slot as a transformers cache. The slot's length moves when the engine says so, not per layer."""

    def __init__(self, slot: Slot) -> None:
        super().__init__(layers=[_SlotLayer(slot, k, v) for k, v in slot.layer_tensors()])


def read_layout(model: Any, device: torch.device) -> KVLayout | None:
    """Run one token and read the shape of the keys and values off the cache that the model made.

    Returns:
        None when the model keeps anything but keys and values of every token (recurrent state, for one):
        such a model can't reuse a prefix this way.
    """
    with torch.inference_mode():
        made = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=True)
    layers = getattr(getattr(made, "past_key_values", None), "layers", None)
    if not layers:
        return None
    shapes: dict[tuple[int, int, int], list[int]] = {}
    dtypes: set[torch.dtype] = set()
    devices: set[torch.device] = set()
    for index, layer in enumerate(layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if type(layer).__name__ not in {"DynamicLayer", "DynamicSlidingWindowLayer"}:
            return None
        if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor) or keys.dim() != 4:
            return None
        shapes.setdefault((keys.shape[1], keys.shape[3], values.shape[3]), []).append(index)
        dtypes |= {keys.dtype, values.dtype}
        devices.add(keys.device)
    if len(dtypes) != 1 or len(devices) != 1:
        return None
    groups = tuple(LayerGroup(tuple(ls), *shape) for shape, ls in shapes.items())
    return KVLayout(groups, dtypes.pop(), devices.pop())
