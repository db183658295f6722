"""Nearest neighbours by cosine: exact in numpy for small indexes, usearch above."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
EXACT_LIMIT = 10_000
"""Entries up to which every vector is compared: 2 ms at most, and nothing is ever missed."""


class ExactIndex:
    """Compares with every vector. Not safe for several threads at once: `Index` locks.

    Args:
        dimensions: length of a vector.
    """

    def __init__(self, dimensions: int) -> None:
        self._vectors = np.zeros((64, dimensions), dtype=np.float32)
        self._ids: list[int] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, item: int, vector: npt.ArrayLike) -> None:
        """Add or replace an item. Cost: one copy of the vector, of all of them when space doubles."""
        place = self._places.get(item)
        if place is None:
            place = len(self._ids)
            if place == len(self._vectors):
                self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._ids.append(item)
            self._places[item] = place
        self._vectors[place] = vector

    def remove(self, item: int) -> None:
        """Remove an item, or do nothing. The last one takes its place."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._ids.pop()
        if last != item:
            self._ids[place] = last
            self._places[last] = place
            self._vectors[place] = self._vectors[len(self._ids)]

    def nearest(self, vector: npt.ArrayLike, count: int) -> list[tuple[int, float]]:
        """Return up to `count` (item, cosine), nearest first; equals by their numbers."""
        if not self._ids:
            return []
        cosines = self._vectors[: len(self._ids)] @ np.asarray(vector, dtype=np.float32)
        if len(self._ids) > count:
            places = np.argpartition(-cosines, count - 1)[:count]
        else:
            places = np.arange(len(self._ids))
        found = [(self._ids[place], float(cosines[place])) for place in places]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def items(self) -> list[tuple[int, Vectors]]:
        """Return every item and its vector."""
        return [(item, self._vectors[place]) for place, item in enumerate(self._ids)]


class UsearchIndex:
    """usearch's graph over half-precision vectors: approximate, 0.5 ms at 100,000 entries.

    usearch strands nodes when several threads add at once (its issue 735): each call here is made under
    the one lock of `Index`, with one thread.

    Raises:
        ImportError: usearch is not installed.
    """

    def __init__(self, dimensions: int) -> None:
        try:
            from usearch.index import Index as Graph
        except ImportError as error:
            raise ImportError(
                f"more than {EXACT_LIMIT:,} entries need usearch: pip install 'axolotl-cache[semantic-large]'"
            ) from error
        self._graph: Any = Graph(ndim=dimensions, metric="cos", dtype="f16")

    def __len__(self) -> int:
        return len(self._graph)

    def add(self, item: int, vector: npt.ArrayLike) -> None:
        """Add or replace an item."""
        if item in self._graph:
            self._graph.remove(item)
        self._graph.add(item, np.asarray(vector, dtype=np.float32), threads=1)

    def remove(self, item: int) -> None:
        """Remove an item, or do nothing."""
        if item in self._graph:
            self._graph.remove(item)

    def nearest(self, vector: npt.ArrayLike, count: int) -> list[tuple[int, float]]:
        """Return up to `count` (item, cosine), nearest first."""
        if not len(self._graph):
            return []
        matches = self._graph.search(np.asarray(vector, dtype=np.float32), count, threads=1)
        return [(int(match.key), 1.0 - float(match.distance)) for match in matches]


class Index:
    """Vectors of one partition, found by cosine. Safe for threads; one at a time.

    Exact up to `exact_limit` items. Above, usearch takes over if it is installed; if not, comparing goes on:
    right, and slower (about 20 ms for 100,000).

    Args:
        dimensions: length of a vector.
        exact_limit: where usearch takes over.
    """

    def __init__(self, dimensions: int, exact_limit: int = EXACT_LIMIT) -> None:
        self._dimensions = dimensions
        self._limit = exact_limit
        self._lock = threading.Lock()
        self._held: ExactIndex | UsearchIndex = ExactIndex(dimensions)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def exact(self) -> bool:
        """Whether every vector is compared."""
        return isinstance(self._held, ExactIndex)

    def add(self, item: int, vector: npt.ArrayLike) -> None:
        """Add or replace an item.

        Args:
            item: its number, not negative.
            vector: (dimensions,), of length 1.

        Raises:
            ValueError: the vector has another shape.
        """
        row = np.asarray(vector, dtype=np.float32)
        if row.shape != (self._dimensions,):
            raise ValueError(f"a vector of this index has the shape ({self._dimensions},), not {row.shape}")
        with self._lock:
            self._held.add(item, row)
            if isinstance(self._held, ExactIndex) and len(self._held) > self._limit:
                self._grow(self._held)

    def remove(self, items: Sequence[int]) -> None:
        """Remove items; those that are not there are passed over."""
        with self._lock:
            for item in items:
                self._held.remove(item)

    def nearest(self, vector: npt.ArrayLike, count: int = 5) -> list[tuple[int, float]]:
        """Return up to `count` (item, cosine), nearest first."""
        with self._lock:
            return self._held.nearest(vector, count)

    def _grow(self, small: ExactIndex) -> None:
        try:
            large = UsearchIndex(self._dimensions)
        except ImportError:
            self._limit *= 2  # asked again then: it may have been installed
            return
        for item, vector in small.items():
            large.add(item, vector)
        self._held = large
