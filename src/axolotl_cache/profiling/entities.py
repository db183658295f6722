"""What requests are about: entities that the log names, and ids that questions have in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from axolotl_cache.profiling.blocks import digest
from axolotl_cache.profiling.counting import FrequentItems
from axolotl_cache.profiling.record import Record

_HELD: Final = 100_000
_SHOWN: Final = 10
_LONGEST_READ: Final = 4_000
_NAMED: Final = re.compile(
    r"\b(order|account|customer|ticket|invoice|booking|reservation|case|contract|policy|user)"
    r"(?:\s+(?:id|no\.?|number))?(?:\s+is)?\s*[:#]?\s*(?=[\w-]*\d)([\w-]{3,32})\b",
    re.IGNORECASE,
)


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
            text = record.question[:_LONGEST_READ]
            names = {f"{kind.lower()} {name}" for kind, name in _NAMED.findall(text)}
        self._requests += bool(names)
        for name in names:
            self._found.add(digest(name.encode("utf-8", "surrogatepass")), name.strip)

    def result(self) -> Entities:
        """Return what was seen."""
        top = sorted(self._found, key=lambda each: (-each[1], each[2]))[:_SHOWN]
        return Entities(
            self._requests, len(self._found), tuple(EntityUse(name, count) for _, count, name in top)
        )
