"""Requests that would have been hits, but for a difference that should not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from axolotl_cache.profiling.doctor.finding import Cause
from axolotl_cache.profiling.doctor.keys import Keys
from axolotl_cache.profiling.record import Record

_HELD: Final = 150_000
"""Keys remembered of each kind; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Example:
    """Two requests that are one but for a difference; numbers from 1."""

    request: int
    other: int


class KeyDifferences:
    """Counts, for each cause, the requests that only it keeps from being hits."""

    def __init__(self) -> None:
        self._full: dict[int, int] = {}
        self._without: dict[Cause, dict[int, int]] = {}
        self.requests = 0
        self.repeats = 0
        """Requests whose key was there before."""
        self.unseeded_repeats = 0
        """Requests that are sampled without a seed, and that were asked before in the same way."""
        self.lost: Counter[Cause] = Counter()
        self.examples: dict[Cause, Example] = {}

    def see(self, record: Record, keys: Keys) -> bool:
        """Count a request; return whether its very key was there before."""
        self.requests += 1
        again = keys.full in self._full
        if again and record.is_repeatable:
            self.repeats += 1
        elif again:
            self.unseeded_repeats += 1
        else:
            for cause, other in self._like(keys):
                self.lost[cause] += 1
                self.examples.setdefault(cause, Example(self.requests, other))
        _remember(self._full, keys.full, self.requests)
        for cause, key in keys.without.items():
            _remember(self._without.setdefault(cause, {}), key, self.requests)
        return again

    def _like(self, keys: Keys) -> Iterator[tuple[Cause, int]]:
        """Yield the causes that alone keep this request from being a hit, and the request it would hit."""
        for cause, key in keys.without.items():
            other = self._without.get(cause, {}).get(key)
            if other is not None and not (cause is Cause.TEMPLATE and self._is_namespace(keys)):
                yield cause, other

    def _is_namespace(self, keys: Keys) -> bool:
        """Whether leaving out the namespace is enough: then the template did not change."""
        return keys.without[Cause.NAMESPACE] in self._without.get(Cause.NAMESPACE, {})


def _remember(held: dict[int, int], key: int, number: int) -> None:
    if key not in held:
        if len(held) >= _HELD:
            del held[next(iter(held))]
        held[key] = number
