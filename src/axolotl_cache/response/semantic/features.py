"""What the calibration sees of a pair of questions that no guard forbids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.facts.residue import residue_of, same_words, similar_tokens

FEATURES = (
    "cosine",
    "exact_share",
    "partner_share",
    "smaller_residue",
    "larger_residue",
    "one_sided",
    "nothing_left",
    "token_share",
    "kinds_differ",
    "same_words",
)
"""Their names, in order. Changing them makes shipped calibrations invalid; a test holds both together."""


def features_of(a: Facts, b: Facts, cosine: float) -> npt.NDArray[np.float64]:
    """Return the features of a pair, (len(FEATURES),) float64. Symmetric. Cost: about 30 us.

    Args:
        a: facts of one text.
        b: of the other.
        cosine: of their embeddings, -1 to 1.
    """
    left = residue_of(a.content, b.content)
    words = max(len(set(a.content)), len(set(b.content)), 1)
    smaller, larger = sorted((len(left.a), len(left.b)))
    return np.array(
        [
            cosine,
            left.exact / words,
            left.partners / words,
            smaller / words,
            larger / words,
            float(larger > 0 and smaller == 0),
            float(larger == 0),
            similar_tokens(a, b),
            float(kinds_differ(a.kind, b.kind)),
            float(same_words(a, b)),
        ]
    )


_OPEN = frozenset({"", "how", "what", "which", "yes_no"})
_NEAR = frozenset({frozenset({"when", "how_long"})})


def kinds_differ(kind: str, other: str) -> bool:
    """Return whether two kinds of question expect other answers; how, what and yes or no may not."""
    if kind == other or not kind or not other or (kind in _OPEN and other in _OPEN):
        return False
    return frozenset({kind, other}) not in _NEAR


def embedded(facts: Facts) -> str:
    """Return the form of a text that is embedded: normalised, and not all in capitals."""
    return facts.text.capitalize() if facts.text.isupper() else facts.text
