"""From phrases that point back to what they point to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from axolotl_cache.entities.found import Text
from axolotl_cache.entities.hints import implies, kinds_hinted
from axolotl_cache.entities.model import Entity, Reference, Resolution
from axolotl_cache.entities.phrases import Phrase, Phrases

MAX_PHRASES = 32
"""A message that points back more often says nothing; the rest of it is not looked at."""
_NAME_WITHIN = 24
"""Characters behind "the order" within which its number may follow."""
_SALIENCE = {
    "order": 3,
    "reservation": 3,
    "tracking": 2,
    "flight": 2,
    "card": 2,
    "account": 2,
    "product": 2,
} | {
    "phone": 1,
    "email": 1,
    "url": 1,
    "user": 0,
    "date": 0,
    "amount": 0,
}


@dataclass(frozen=True, slots=True)
class Mention:
    """What is remembered of an entity."""

    entity: Entity
    first: int
    """The how many-th entity of the conversation it is."""
    first_turn: int
    turn: int
    """When it was last spoken of."""


def resolve(text: Text, named: Sequence[Entity], known: Sequence[Mention], phrases: Phrases) -> Resolution:
    """Return what a text speaks of.

    Args:
        text: folded, for the phrases and the words.
        named: what it names, with places.
        known: what was spoken of before.
        phrases: finds what points back.
    """
    pool = {mention.entity: mention for mention in known}
    now = max((mention.turn for mention in known), default=-1) + 1
    count = max((mention.first for mention in known), default=-1) + 1
    hints = kinds_hinted(text.low)
    references: list[Reference] = []
    waiting = list(named)

    def speak_of(entities: Iterable[Entity]) -> None:
        nonlocal count
        for entity in entities:
            before = pool.get(entity)
            pool[entity] = Mention(
                entity, before.first if before else count, before.first_turn if before else now, now
            )
            count += not before

    starts = [entity.start for entity in named]
    for phrase in sorted(islice(phrases.find(text.low), MAX_PHRASES), key=lambda phrase: phrase.start):
        while waiting and waiting[0].start < phrase.start:
            speak_of([waiting.pop(0)])
        near = named[
            max(0, bisect_left(starts, phrase.start) - 1) : bisect_right(starts, phrase.end + _NAME_WITHIN)
        ]
        if _is_named(text.low, phrase, near) or not pool:
            continue
        entities, candidates = _choose(phrase, [*pool.values()], hints)
        if not entities and not candidates:
            continue
        speak_of(entities)
        references.append(
            Reference(phrase.start, phrase.end, text.whole[phrase.start : phrase.end], entities, candidates)
        )
    if not references and not named and pool and hints and implies(text.low):
        entities, candidates = _choose(Phrase(0, 0, "it", ()), [*pool.values()], hints)
        if (entities or candidates) and {each.kind for each in (*entities, *candidates)} & hints:
            references.append(Reference(0, 0, "", entities, candidates))
    return Resolution(tuple(named), tuple(references))


def _is_named(low: str, phrase: Phrase, named: Sequence[Entity]) -> bool:
    """Return whether the phrase is the head of a name that follows or holds it, as in "the order 67890"."""
    for entity in named:
        if entity.start <= phrase.start < entity.end:
            return True
        gap = low[phrase.end : entity.start] if phrase.end <= entity.start else None
        if gap is None or phrase.way not in {"noun", "all"} or any(sign in gap for sign in ".?!;。"):
            continue
        if entity.kind in phrase.kinds or (not phrase.kinds and len(gap) <= 2):
            return True
    return False


def _choose(
    phrase: Phrase, pool: Sequence[Mention], hints: frozenset[str]
) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """Return what the phrase points to, or else the candidates."""
    if phrase.kinds:
        kind = next((k for k in phrase.kinds if any(m.entity.kind == k for m in pool)), None)
        if kind is None:
            return (), ()
        same = [mention for mention in pool if mention.entity.kind == kind]
        if phrase.way in {"noun", "it", "one"}:
            return _latest(same)
    else:
        # A person, a day or a sum of money is never "it", and no one asks for "the second one" of these.
        usual = [mention for mention in pool if _SALIENCE.get(mention.entity.kind, 2) > 0]
        fitting = [mention for mention in pool if mention.entity.kind in hints]
        about = [mention for mention in fitting if mention in usual] or usual
        if not about:
            return (), ()
        if phrase.way in {"it", "one"}:
            return _latest(about, by_salience=True)
        kind = _kind_of(phrase, usual)
        same = [mention for mention in pool if mention.entity.kind == kind]
    same.sort(key=lambda mention: mention.first)
    return _among(phrase, same)


def _kind_of(phrase: Phrase, pool: Sequence[Mention]) -> str:
    """Return the kind that "the second one" counts: the latest of which there are enough."""
    counts: dict[str, int] = {}
    for mention in pool:
        counts[mention.entity.kind] = counts.get(mention.entity.kind, 0) + 1
    least = max(phrase.nth, 1 if phrase.way in {"nth", "last"} else 2)
    newest = sorted(pool, key=lambda m: (m.turn, _SALIENCE.get(m.entity.kind, 2), m.first), reverse=True)
    return next((m.entity.kind for m in newest if counts[m.entity.kind] >= least), newest[0].entity.kind)


def _latest(
    pool: Sequence[Mention], by_salience: bool = False
) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """Return the one that was spoken of last; of several the one of the weightiest kind, or the new one."""
    turn = max(mention.turn for mention in pool)
    group = [mention for mention in pool if mention.turn == turn]
    if by_salience and len(group) > 1:
        most = max(_SALIENCE.get(mention.entity.kind, 2) for mention in group)
        group = [mention for mention in group if _SALIENCE.get(mention.entity.kind, 2) == most]
    if len(group) > 1:
        new = [mention for mention in group if mention.first_turn == turn]
        group = new if len(new) == 1 else group
    entities = tuple(mention.entity for mention in sorted(group, key=lambda m: m.first, reverse=True))
    return (entities, ()) if len(entities) == 1 else ((), entities)


def _among(phrase: Phrase, same: Sequence[Mention]) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """Return which of those of one kind, in the order of their first mention."""
    every = tuple(mention.entity for mention in same)
    by_recency = sorted(same, key=lambda m: (m.turn, m.first), reverse=True)
    recent = tuple(mention.entity for mention in by_recency)
    if not every:
        return (), ()
    if phrase.way == "nth":
        return ((every[phrase.nth - 1],), ()) if phrase.nth <= len(every) else ((), recent)
    if phrase.way in {"last", "former", "latter"}:
        enough = phrase.way == "last" or len(every) > 1
        return (every[-2 if phrase.way == "former" else -1 :][:1] if enough else (), ())
    if phrase.way in {"all", "both"}:
        latest = tuple(mention.entity for mention in same if mention.turn == by_recency[0].turn)
        several = latest if len(latest) > 1 else every
        return ((), recent) if phrase.way == "both" and len(several) > 2 else (several, ())
    return _but_the_latest(phrase, by_recency)


def _but_the_latest(
    phrase: Phrase, by_recency: Sequence[Mention]
) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """Return "the other" or "the previous" one."""
    recent = tuple(mention.entity for mention in by_recency)
    if len(recent) > 1 and by_recency[0].turn == by_recency[1].turn:
        return (), recent
    others = recent[1:2] if phrase.way == "previous" else recent[1:]
    return (others, ()) if len(others) == 1 else ((), others)
