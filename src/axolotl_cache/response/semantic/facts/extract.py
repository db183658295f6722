"""All facts of a text, found once and kept."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from axolotl_cache.response.semantic.facts.dates import take_dates, take_weekdays, take_years
from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.facts.names import answer_languages, entities_of, take_ids
from axolotl_cache.response.semantic.facts.numbers import spell_out, take_amounts, take_numbers
from axolotl_cache.response.semantic.facts.residue import near_spelling, one_meaning, residue_of
from axolotl_cache.response.semantic.facts.words import (
    base_form,
    content_of,
    directions_of,
    kind_of,
    negation_of,
    opposites_of,
    persons_of,
    plain_of,
    scope_of,
)
from axolotl_cache.response.semantic.text import language_of, normalise, tokens


def extract(text: str, day: date | None = None) -> Facts:
    """Return the facts of a text. Cost: about 0.2 ms for a sentence, linear in its length.

    What is taken as an id is not seen as a number again, nor what is taken as a date, and so on.

    Args:
        text: as the user wrote it.
        day: when it was said, if its relative dates are to be compared with those of another day.
    """
    normal = normalise(text)
    ids, left = take_ids(normal)
    near, left = take_weekdays(left)
    left = spell_out(left)
    words = tokens(left)
    dates, left = take_dates(left)
    amounts, left = take_amounts(left)
    years, left = take_years(left)
    numbers, left = take_numbers(left)
    rest = tokens(left)
    return Facts(
        text=normal,
        language=language_of(normal),
        tokens=tuple(words),
        plain=plain_of(words),
        content=content_of(rest),
        numbers=numbers,
        amounts=amounts,
        dates=near | dates | years,
        ids=ids,
        entities=entities_of(left, rest),
        directions=directions_of(left, words),
        persons=persons_of(rest),
        negation=negation_of(left, rest),
        scope=scope_of(rest),
        opposites=opposites_of(rest),
        kind=kind_of(normal, tokens(normal)),
        answer_languages=answer_languages(rest, left),
        day=day,
    )


@lru_cache(maxsize=4096)
def facts_of(text: str) -> Facts:
    """Return the facts of a text, from memory if it was asked lately; its day is not known."""
    return extract(text)


def forget_texts() -> None:
    """Drop every text that is held only to save time. Cost: what is asked next is extracted anew."""
    facts_of.cache_clear()
    residue_of.cache_clear()
    for held in (base_form, one_meaning, near_spelling):
        held.cache_clear()
