"""Guards: small pure functions that forbid serving one question's answer for another.

Each compares the facts of two texts and says what differs. None needs a model. All are symmetric, and none is
ever against a text and itself.
"""

from __future__ import annotations

from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.guards import typed, wording
from axolotl_cache.response.semantic.guards.veto import Guard, Veto

GUARDS: dict[str, Guard] = {
    "numbers": typed.numbers,
    "ids": typed.ids,
    "dates": typed.dates,
    "amounts": typed.amounts,
    "entities": typed.entities,
    "languages": typed.languages,
    "negation": wording.negation,
    "polarity": wording.polarity,
    "scope": wording.scope,
    "direction": wording.direction,
    "persons": wording.persons,
    "question kind": wording.kind,
}
"""Every guard by its name, the cheapest first."""


def check(a: Facts, b: Facts, without: frozenset[str] = frozenset()) -> Veto | None:
    """Return the first veto, or None if no guard objects. Cost: about 30 us.

    Args:
        a: facts of one text.
        b: of the other.
        without: names of guards that are not asked.
    """
    for name, guard in GUARDS.items():
        if name not in without and (found := guard(a, b)) is not None:
            return found
    return None


__all__ = ["GUARDS", "Guard", "Veto", "check"]
