"""All entities of a text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from axolotl_cache.entities.addresses import emails, phones, urls
from axolotl_cache.entities.cards import Cards
from axolotl_cache.entities.codes import cued
from axolotl_cache.entities.dates import dates
from axolotl_cache.entities.found import Found, Text, fold
from axolotl_cache.entities.model import Entity
from axolotl_cache.entities.money import amounts
from axolotl_cache.entities.own import OwnKind
from axolotl_cache.entities.shapes import airline, flights_of, hashed, locators, shaped

Rule = Callable[[Text], Iterator[Found]]


class Extractor:
    """Finds entities by rules, without a model and without any state that a text could change.

    Args:
        own: kinds of the user's own; they come before the built-in ones.
        card_key: see `Cards`.

    Raises:
        ValueError: two own kinds have one name, or the key is too short.
    """

    def __init__(self, own: Iterable[OwnKind] = (), card_key: bytes | None = None) -> None:
        self.own = tuple(own)
        names = [kind.name for kind in self.own]
        if len(set(names)) < len(names):
            raise ValueError(f"two kinds of entities have one name: {', '.join(sorted(names))}")
        cards = Cards(card_key)
        # Who comes first keeps the place: what is surest, and what would else be cut in two.
        self._any: tuple[Rule, ...] = (urls, emails)
        self._with_digits: tuple[Rule, ...] = (
            cards.announced,
            cards.endings,
            shaped,
            cued,
            cards.numbers,
            dates,
            amounts,
            phones,
            hashed,
            locators,
        )
        self._without_digits: tuple[Rule, ...] = (cued, dates, amounts)

    def extract(self, text: str, airlines: Collection[str] = ()) -> tuple[Entity, ...]:
        """Return the entities of a text, by their place in it; no two overlap.

        Never raises. Cost: linear in the text; see `docs/entities.md`.

        Args:
            text: as the user wrote it.
            airlines: codes of which the conversation has named a flight, so that "HAT052" is one too.
        """
        folded = fold(text)
        places = _Places()
        for kind in self.own:
            places.take(Found(kind.name, *found) for found in kind.find(folded.whole))
        for rule in (*self._any, *(self._with_digits if folded.has_digit else self._without_digits)):
            places.take(rule(folded))
        known = {airline(found.value) for found in places.found if found.kind == "flight"}.union(airlines) - {
            ""
        }
        if known:
            places.take(flights_of(folded, known))
        return tuple(Entity(*found) for found in sorted(places.found, key=lambda found: found.start))


class _Places:
    """What was found, each character in one entity at most."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._taken: set[int] = set()

    def take(self, found: Iterable[Found]) -> None:
        for each in found:
            place = range(each.start, each.end)
            if self._taken.isdisjoint(place):
                self._taken.update(place)
                self.found.append(each)


BUILT_IN_EXTRACTOR = Extractor()
"""The one without kinds of the user's own."""


def extract(text: str) -> tuple[Entity, ...]:
    """Return the entities of a text of the built-in kinds. See `Extractor.extract`."""
    return BUILT_IN_EXTRACTOR.extract(text)
