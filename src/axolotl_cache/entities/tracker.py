"""The entities of one conversation, and what "it" is in the next message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from axolotl_cache.entities.extract import BUILT_IN_EXTRACTOR, Extractor
from axolotl_cache.entities.found import fold
from axolotl_cache.entities.model import Entity, Resolution
from axolotl_cache.entities.phrases import phrases_of
from axolotl_cache.entities.resolve import Mention, resolve
from axolotl_cache.entities.shapes import airline

FORMAT = 1
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])[A-Za-z0-9](?:[A-Za-z0-9_-]{2,38}[A-Za-z0-9])(?![A-Za-z0-9_-])", re.ASCII
)


class Tracker:
    """Remembers what a conversation has spoken of, by kind and recency.

    Not safe for use by two threads at once: a conversation has one turn at a time.

    Args:
        extractor: finds entities; the built-in kinds if None.
        max_entities: bound; what was not spoken of for longest goes first.
    """

    def __init__(self, extractor: Extractor | None = None, max_entities: int = 64) -> None:
        if max_entities < 1:
            raise ValueError(f"max_entities must be 1 or more, not {max_entities}")
        self._extractor = extractor or BUILT_IN_EXTRACTOR
        self._phrases = phrases_of(tuple(kind.name for kind in self._extractor.own))
        self._max = max_entities
        self._known: dict[Entity, Mention] = {}
        self._turns = 0
        self._seen = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """All that is remembered, what was spoken of last first. The places are of no use any more, and 0."""
        newest = sorted(self._known.values(), key=lambda mention: (-mention.turn, -mention.first))
        return tuple(mention.entity for mention in newest)

    def of_kind(self, kind: str) -> tuple[Entity, ...]:
        """Return those of one kind, what was spoken of last first."""
        return tuple(entity for entity in self.entities if entity.kind == kind)

    def note(self, text: str) -> tuple[Entity, ...]:
        """Remember what a text names, as an assistant's answer; return it. Cost: that of extraction."""
        named = self._named(text)
        self._remember(named)
        return named

    def resolve(self, text: str) -> Resolution:
        """Return what a text speaks of, by name or by pointing back. Nothing changes."""
        return resolve(fold(text), self._named(text), [*self._known.values()], self._phrases)

    def turn(self, text: str) -> Resolution:
        """Resolve a user's message, and remember what it speaks of."""
        resolution = self.resolve(text)
        self._remember(resolution.entities)
        return resolution

    def forget(self, entity: Entity) -> None:
        """Remember an entity no more. One that is not known is no error."""
        self._known.pop(entity, None)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types, for `from_json`. Holds no text, and no card in the clear."""
        return {
            "format": FORMAT,
            "turns": self._turns,
            "seen": self._seen,
            "entities": [
                [m.entity.kind, m.entity.value, m.first, m.first_turn, m.turn]
                for m in sorted(self._known.values(), key=lambda mention: mention.first)
            ],
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], extractor: Extractor | None = None, max_entities: int = 64
    ) -> Tracker:
        """Return a tracker that goes on where `to_json` was called.

        Raises:
            ValueError: this is nothing that `to_json` of this version made.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"entities of format {data.get('format')!r}, and this version reads {FORMAT}")
        tracker = cls(extractor, max_entities)
        try:
            tracker._turns, tracker._seen = int(data["turns"]), int(data["seen"])
            for kind, value, first, first_turn, turn in data["entities"]:
                entity = Entity(str(kind), str(value))
                tracker._known[entity] = Mention(entity, int(first), int(first_turn), int(turn))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are no entities of a conversation: {error!r}") from None
        tracker._bound()
        return tracker

    def _named(self, text: str) -> tuple[Entity, ...]:
        """Return what a text names: what its own words show, and what it repeats of what is known."""
        airlines = {airline(entity.value) for entity in self._known if entity.kind == "flight"} - {""}
        found = self._extractor.extract(text, airlines)
        if not self._known:
            return found
        values: dict[str, list[Entity]] = {}
        for entity in self.entities:
            values.setdefault(entity.value.casefold(), []).append(entity)
        taken = {place for entity in found for place in range(entity.start, entity.end)}
        again = []
        for match in _TOKEN.finditer(fold(text).whole):
            same = values.get(match.group().casefold(), ())
            if len(same) == 1 and taken.isdisjoint(range(match.start(), match.end())):
                again.append(Entity(same[0].kind, same[0].value, match.start(), match.end()))
        return tuple(sorted((*found, *again), key=lambda entity: entity.start))

    def _remember(self, entities: Iterable[Entity]) -> None:
        for entity in entities:
            known = self._known.get(entity)
            if known:
                self._known[entity] = Mention(known.entity, known.first, known.first_turn, self._turns)
            else:
                plain = Entity(entity.kind, entity.value)
                self._known[plain] = Mention(plain, self._seen, self._turns, self._turns)
                self._seen += 1
        self._turns += 1
        self._bound()

    def _bound(self) -> None:
        excess = len(self._known) - self._max
        if excess > 0:
            for mention in sorted(self._known.values(), key=lambda m: (m.turn, m.first))[:excess]:
                del self._known[mention.entity]
