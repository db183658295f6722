"""Scores pairs, learns calibrations and thresholds from some of them, counts on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axolotl_cache.response.semantic.calibration import Calibration, learn
from axolotl_cache.response.semantic.embedders import Embedder
from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.features import FEATURES, embedded, features_of
from axolotl_cache.response.semantic.guards import GUARDS, check
from pairs import Pair

ROUNDS = 10
FOLDS = 5


class Vectors:
    """Embeds each text once.

    Args:
        embedder: what makes the vectors.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (len(texts), d)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self.embedder.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True)
class Scored:
    """What is known of pairs before anything is learnt; all arrays are n long."""

    features: np.ndarray
    vetoes: np.ndarray
    """Name of the guard that forbids the pair; empty if none does."""
    right: np.ndarray
    groups: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """Which pairs no guard forbids."""
        return self.vetoes == ""

    def probabilities(self, calibration: Calibration) -> np.ndarray:
        """Return the chance of each pair; forbidden ones have none."""
        return np.where(self.free, calibration.probability(self.features), 0.0)


def score(pairs: Sequence[Pair], vectors: Vectors, without: frozenset[str] = frozenset()) -> Scored:
    """Return what guards and embedder say of each pair.

    Args:
        pairs: of questions.
        vectors: of the embedder.
        without: guards left out.
    """
    left, right = (
        [embedded(facts_of(text)) for text in texts] for texts in ([p.a for p in pairs], [p.b for p in pairs])
    )
    cosines = np.sum(vectors(left) * vectors(right), axis=1)
    features = np.empty((len(pairs), len(FEATURES)))
    vetoes = []
    for row, (pair, cosine) in enumerate(zip(pairs, cosines, strict=True)):
        a, b = facts_of(pair.a), facts_of(pair.b)
        features[row] = features_of(a, b, float(cosine))
        forbidden = check(a, b, without)
        vetoes.append(forbidden.guard.split(":")[0] if forbidden else "")
    return Scored(
        features,
        np.array(vetoes, dtype=object),
        np.array([pair.right for pair in pairs]),
        np.array([pair.group for pair in pairs], dtype=object),
    )


def join(*parts: Scored) -> Scored:
    """Return all pairs of several sets as one."""
    return Scored(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("features", "vetoes", "right", "groups")
        )
    )


def calibrate(
    scored: Scored, embedder: str, sources: Sequence[str], seed: int = 0, *, cross_fit: bool = True
) -> Calibration:
    """Return a calibration learnt from the pairs that no guard forbids."""
    free = scored.free
    return learn(
        scored.features[free],
        scored.right[free],
        embedder=embedder,
        sources=sources,
        pairs=len(free),
        seed=seed,
        cross_fit=cross_fit,
    )


def unseen(half: Scored, more: Sequence[Scored], embedder: str, seed: int) -> np.ndarray:
    """Return each pair's probability by models that had not seen it, averaged over ways to cut the half."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(half.right))
    for _ in range(ROUNDS):
        fold = rng.permutation(len(total)) % FOLDS
        for number in range(FOLDS):
            kept = fold != number
            seen = Scored(half.features[kept], half.vetoes[kept], half.right[kept], half.groups[kept])
            model = calibrate(join(seen, *more), embedder, (), cross_fit=False)
            total[~kept] += half.probabilities(model)[~kept]
    return total / ROUNDS


def loosest(probabilities: np.ndarray, right: np.ndarray, wrong_share: float) -> float:
    """Return the lowest threshold that serves at most this share of the traps; above 1 if none does."""
    allowed = int(wrong_share * (~right).sum())
    wrong = np.sort(probabilities[~right])[::-1]
    limit = wrong[allowed] if allowed < len(wrong) else 0.0
    above = probabilities[probabilities > limit]
    # In the middle of the gap: a threshold at the last served pair would be one pair's luck.
    return float((above.min() + limit) / 2) if len(above) else 1.01


GUARD_NAMES = tuple(GUARDS)
