"""The block pool: every key and value that the engine holds, in pages that requests and cache share.

A page is one block of tokens in every layer. A running request is a list of pages (its block table), a
block of the prefix tree is one page, and a page may be held by any number of them: it is free again when
the last one lets go. Only whole blocks are ever shared, and only the page that a request is filling is
ever written to, which is its own: so nothing is copied, neither for a hit nor for keeping an answer.

Source: PagedAttention (Kwon et al., vLLM, 2023).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch

_FIRST_PAGES: Final = 64
_STEP_BYTES: Final = 64 * 2**20
"""Pools smaller than this double when they grow; larger ones take this, or a quarter where that is more."""
SCRAP: Final = 0
"""The page that padding is written to; nobody reads it."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers whose keys and values have one shape."""

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


@dataclass(eq=False, slots=True)
class Page:
    """One page. Its place in the pool may change when the pool shrinks, so it is held and not its index."""

    index: int
    nbytes: int
    references: int = 1


class KVPool:
    """Pages of keys and values, allocated as they are needed.

    Args:
        layout: the shape of the model's keys and values.
        block_size: tokens in a page.
    """

    def __init__(self, layout: KVLayout, block_size: int) -> None:
        self.layout = layout
        self.block_size = block_size
        self.page_bytes = layout.nbytes(block_size)
        self._shapes = {
            layer: (g.kv_heads, g.key_dim, g.value_dim) for g in layout.groups for layer in g.layers
        }
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {
            layer: self._empty(layer, 1) for layer in sorted(self._shapes)
        }
        self._scratch = [torch.empty(0, dtype=layout.dtype, device=layout.device) for _ in range(2)]
        self._free: list[int] = []  # a heap: low places first, so that a request's pages tend to lie in a row
        self._used: dict[int, Page] = {}
        self._capacity = 1  # the scrap page
        self._zero([SCRAP])

    @property
    def capacity_pages(self) -> int:
        """Pages that there is memory for now, the scrap page included."""
        return self._capacity

    @property
    def free_pages(self) -> int:
        """Pages that there is memory for, and that nobody holds."""
        return len(self._free)

    @property
    def used_pages(self) -> int:
        """Pages that somebody holds."""
        return len(self._used)

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that somebody holds."""
        return len(self._used) * self.page_bytes

    @property
    def layers(self) -> list[int]:
        """The model's layers that have keys and values."""
        return list(self._layers)

    def kv_heads(self, layer: int) -> int:
        """Return the number of key and value heads of a layer."""
        return self._shapes[layer][0]

    def tensors(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys and values, each (kv_heads, pages, block_size, dim), until pages move."""
        return self._layers[layer]

    def scratch(self, which: int, rows: int, columns: int) -> torch.Tensor:
        """Return uninitialised memory, (rows, columns), that is the same at every call with the same `which`.

        Memory that comes and goes with every layer costs more than what is done with it: the system takes
        it away, and clears it when it gives it back.
        """
        numbers = rows * columns
        if self._scratch[which].numel() < numbers:
            self._scratch[which] = torch.empty(numbers, dtype=self.layout.dtype, device=self.layout.device)
        return self._scratch[which][:numbers].view(rows, columns)

    def allocate(self, count: int) -> list[Page]:
        """Return new pages, filled with zeros, held once.

        Cost: grows the memory when too little is free, which copies all that is held: about five copies of a
        page at the most, however many are allocated one by one. Where there is no memory for such a step, it
        grows by what is missing.

        Raises:
            MemoryError: there is not so much memory; nothing is changed.
        """
        if not count:
            return []
        missing = count - len(self._free)
        if missing > 0:
            self._grow(missing)
        pages = [Page(heapq.heappop(self._free), self.page_bytes) for _ in range(count)]
        self._used.update((page.index, page) for page in pages)
        # What is masked must still be finite: another request's infinities must not come through.
        self._zero([page.index for page in pages])
        return pages

    def retain(self, page: Page) -> Page:
        """Hold a page once more; return it."""
        if page.references < 1:
            raise ValueError("this page was given back before")
        page.references += 1
        return page

    def release(self, pages: Iterable[Page]) -> None:
        """Let go of pages; those that nobody else holds are free."""
        for page in pages:
            if page.references < 1:
                raise ValueError("this page was given back before")
            page.references -= 1
            if not page.references:
                del self._used[page.index]
                heapq.heappush(self._free, page.index)

    def trim(self) -> int:
        """Give unused memory back to the system; return the bytes. Moves pages, copies what is held.

        Where there is no memory for the copy, nothing is changed.
        """
        before = self._capacity
        wanted = 1 + len(self._used)
        if wanted < before:
            with suppress(MemoryError):
                self._resize(wanted)
        return (before - self._capacity) * self.page_bytes

    def read(self, page: Page) -> tuple[torch.Tensor, ...]:
        """Return copies of a page, two tensors a layer group: (layers, kv_heads, block_size, dim)."""
        found: list[torch.Tensor] = []
        for group in self.layout.groups:
            for which in (0, 1):
                found.append(torch.stack([self._layers[n][which][:, page.index] for n in group.layers]))
        return tuple(found)

    def fill(self, page: Page, tensors: Sequence[torch.Tensor]) -> None:
        """Write what `read` gave into a page."""
        at = 0
        for group in self.layout.groups:
            for which in (0, 1):
                for row, layer in enumerate(group.layers):
                    self._layers[layer][which][:, page.index].copy_(tensors[at][row])
                at += 1

    def _empty(self, layer: int, pages: int) -> tuple[torch.Tensor, torch.Tensor]:
        heads, key_dim, value_dim = self._shapes[layer]
        keys, values = (
            torch.empty(
                heads, pages, self.block_size, dim, dtype=self.layout.dtype, device=self.layout.device
            )
            for dim in (key_dim, value_dim)
        )
        return keys, values

    def _zero(self, indices: list[int]) -> None:
        at = torch.tensor(indices, device=self.layout.device)
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor.index_fill_(1, at, 0)

    def _growth_pages(self) -> int:
        """Return by how many pages at the least to grow.

        Doubling a large pool may take far more than is needed. Growing by a fixed size would copy all that is
        held again and again: with a share of it, the copying stays in proportion to what is allocated.
        """
        step = max(_STEP_BYTES // self.page_bytes, self._capacity // 4)
        return max(min(step, self._capacity), _FIRST_PAGES - self._capacity)

    def _grow(self, missing: int) -> None:
        step = max(missing, self._growth_pages())
        try:
            self._resize(self._capacity + step)
        except MemoryError:
            if step == missing:
                raise
            self._resize(self._capacity + missing)

    def _resize(self, capacity: int) -> None:
        pages = [self._used[index] for index in sorted(self._used)]
        kept = [SCRAP, *(page.index for page in pages)] if capacity < self._capacity else None
        # All of it before anything moves, as all layers must have one capacity, with or without memory. On a
        # CPU this takes none yet, see `_move_into`; a GPU has to have room for old and new at once.
        new: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        try:
            for layer in self._layers:
                new[layer] = self._empty(layer, capacity)
            source = None if kept is None else torch.tensor(kept, device=self.layout.device)
        except (RuntimeError, torch.OutOfMemoryError) as error:  # torch's word for "no memory" on a CPU
            raise MemoryError(
                f"no memory for {capacity} pages of {self.page_bytes:,} bytes of keys and values"
            ) from error
        interrupt = self._move_into(new, source)
        if kept is not None:
            for place, page in enumerate(pages, start=1):
                page.index = place
        self._used = {page.index: page for page in pages}
        self._capacity = capacity
        self._free = [index for index in range(1, capacity) if index not in self._used]
        heapq.heapify(self._free)
        if interrupt is not None:
            raise interrupt

    def _move_into(
        self, new: dict[int, tuple[torch.Tensor, torch.Tensor]], source: torch.Tensor | None
    ) -> KeyboardInterrupt | None:
        """Copy these pages, or all, into new memory, to the end: half of it done, nothing would fit together.

        So nothing here takes memory that might not be there.

        Returns:
            What would have interrupted it, to be raised when all is in its place.
        """
        interrupt: KeyboardInterrupt | None = None
        waiting = list(self._layers)
        # Layer by layer, each old one given back before the next is copied: on a CPU, what nobody has written
        # to takes no memory, so that never more than one layer is there twice.
        while waiting:
            layer = waiting[-1]
            try:
                if self._layers[layer] is not new[layer]:
                    for old, now in zip(self._layers[layer], new[layer], strict=True):
                        if source is None:
                            now[:, : old.shape[1]] = old
                        else:
                            torch.index_select(old, 1, source, out=now)
                    self._layers[layer] = new[layer]
                waiting.pop()
            except KeyboardInterrupt as error:
                interrupt = error
        return interrupt

    def check_invariants(self) -> None:
        """Raise AssertionError if the pool contradicts itself. For tests: O(pages)."""
        everything = {SCRAP, *self._free, *self._used}
        _require(everything == set(range(self._capacity)), "pages are missing or from elsewhere")
        _require(1 + len(self._free) + len(self._used) == self._capacity, "a page is free and used at once")
        for index, page in self._used.items():
            _require(page.index == index, "a page does not know its place")
            _require(page.references > 0, "a page that nobody holds is not free")
        for keys, values in self._layers.values():
            _require(keys.shape[1] == values.shape[1] == self._capacity, "a layer has another capacity")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


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
        if keys.shape[2] != 1 or values.shape[2] != 1:  # some put vectors of their own before the prompt
            return None
        shapes.setdefault((keys.shape[1], keys.shape[3], values.shape[3]), []).append(index)
        dtypes |= {keys.dtype, values.dtype}
        devices.add(keys.device)
    if len(dtypes) != 1 or len(devices) != 1:
        return None
    groups = tuple(LayerGroup(tuple(ls), *shape) for shape, ls in shapes.items())
    return KVLayout(groups, dtypes.pop(), devices.pop())
