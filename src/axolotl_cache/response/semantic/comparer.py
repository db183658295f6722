"""Whether a stored answer says the same as a fresh one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from axolotl_cache.response.semantic.calibration import Calibration
from axolotl_cache.response.semantic.embedders import Embedder
from axolotl_cache.response.semantic.facts.extract import extract
from axolotl_cache.response.semantic.features import embedded, features_of
from axolotl_cache.response.semantic.guards import check

Comparer = Callable[[str, str, str], bool]
"""A plug-in: (question, stored answer, fresh answer) -> whether the stored one is right.

Called from a thread of its own, after the fresh answer was handed out."""

SURE = 0.95
"""Probability from which two answers count as one."""


class SameAnswer:
    """Right if the texts are equal but for white space and case, or say the same as questions would.

    That is: no guard finds a number, name, negation or the like that differs, and the calibration gives
    0.95. It needs no model call. Its limit: it is strict. Long answers to one question, worded
    anew, mostly count as two, so that the share of wrong hits is overstated, and the tier may turn itself off
    where a person would not. An application that knows better gives a comparer of its own.

    Args:
        embedder: compares what is not equal.
        calibration: of questions, of this embedder.
    """

    def __init__(self, embedder: Embedder, calibration: Calibration) -> None:
        self._embedder = embedder
        self._calibration = calibration

    def __call__(self, question: str, stored: str, fresh: str) -> bool:
        """Return whether they are one answer. Cost: up to two embeddings."""
        if stored.casefold().split() == fresh.casefold().split():
            return True
        a, b = extract(stored), extract(fresh)
        if check(a, b) is not None:
            return False
        left, right = self._embedder.embed([embedded(a), embedded(b)])
        features = features_of(a, b, float(np.dot(left, right)))
        return float(self._calibration.probability(features)[0]) >= SURE
