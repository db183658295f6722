"""What requests are about: entities that the log names, and ids that questions have in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from axolotl_cache.entities import extract
from axolotl_cache.profiling.blocks import digest
from axolotl_cache.profiling.counting import FrequentItems
from axolotl_cache.profiling.record import Record

_HELD: Final = 100_000
_SHOWN: Final = 10
_LONGEST_READ: Final = 4_000
_KINDS: Final = frozenset({"order", "tracking", "account", "flight", "reservation", "user"})
"""Kinds that have a record somewhere; an amount, a date or a phone number is no thing to keep a record of."""


@dataclass(frozen=True, slots=True)
class EntityUse:
    """An entity, and how many requests are about it."""

    name: str
    requests: int


@dataclass(frozen=True, slots=True)
class Entities:
    """What requests are about."""

    requests: int
    """Requests that are about at least one."""
    different: int
    """How many there are; the frequent ones only, if there are very many."""
    most_frequent: tuple[EntityUse, ...]


class EntityCounter:
    """Counts entities."""

    def __init__(self) -> None:
        self._found: FrequentItems[str] = FrequentItems(_HELD)
        self._requests = 0

    def see(self, record: Record) -> None:
        """Count a request's entities: the log's own, or else those that its question names."""
        names = set(record.entities)
        if not names and record.has_text:
            found = extract(record.question[:_LONGEST_READ])
            names = {entity.canonical for entity in found if entity.kind in _KINDS}
        self._requests += bool(names)
        for name in names:
            self._found.add(digest(name.encode("utf-8", "surrogatepass")), name.strip)

    def result(self) -> Entities:
        """Return what was seen."""
        top = sorted(self._found, key=lambda each: (-each[1], each[2]))[:_SHOWN]
        return Entities(
            self._requests, len(self._found), tuple(EntityUse(name, count) for _, count, name in top)
        )
