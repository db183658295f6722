"""From features to a probability that means the same with every embedder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_cache.response.semantic.features import FEATURES

Floats = npt.NDArray[np.float64]
_PACKAGE = "axolotl_cache.response.semantic"


@dataclass(frozen=True, slots=True)
class Operating:
    """A threshold, and what is known of it."""

    threshold: float
    certified: bool
    """Whether the pairs prove, with 95 % confidence, that its hits are wrong no more often than asked."""


THRESHOLDS = (
    *(0.995, 0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.9),
    *(0.88, 0.86, 0.84, 0.82, 0.8, 0.78, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5),
)
"""What may be chosen, the strictest first; fixed before any pair was seen."""


@dataclass(frozen=True)
class Calibration:
    """A logistic model over the features, one for each embedder.

    `probability` is the chance that the answer to one question is right for the other, on a reference mix of
    candidates of which half are right. Traffic with another mix has other odds; audits find that out.
    """

    embedder: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    pairs: int
    """How many pairs it was learnt from, those included that a guard forbids."""
    sources: tuple[str, ...]
    brier: float
    """Mean squared error of the probabilities of pairs that the model had not seen (cross-fitting)."""
    reliability: tuple[tuple[float, float, int], ...]
    """(mean probability, share that was right, pairs) of each tenth, cross-fitted."""
    operating: tuple[tuple[float, int, int], ...] = ()
    """(threshold, pairs that it serves, of which wrong), the strictest first, cross-fitted."""

    def probability(self, features: npt.ArrayLike) -> Floats:
        """Return the chance of a right answer for each row.

        Args:
            features: (n, len(self.features)), of pairs that no guard forbids.

        Returns:
            (n,), between 0 and 1.

        Raises:
            ValueError: rows have another length.
        """
        rows = np.atleast_2d(np.asarray(features, dtype=np.float64))
        if rows.shape[1] != len(self.features):
            raise ValueError(f"this calibration takes {len(self.features)} features, not {rows.shape[1]}")
        standard = (rows - np.asarray(self.mean)) / np.asarray(self.scale)
        return sigmoid(standard @ np.asarray(self.weights) + self.bias)

    def threshold_for(self, max_error_rate: float) -> Operating:
        """Return the loosest threshold at which no more of the served pairs were wrong than that.

        The thresholds are fixed, and are gone through from the strictest, to the first that fails: so the
        choice is one test and not many (fixed-sequence testing, as in Learn-then-Test, arXiv 2110.01052).
        What is tested is the share that was seen. Whether the rate itself is below the bound with a
        confidence of 95 % is said as `certified`, and takes 299 served pairs without a wrong one for 1 %.

        Args:
            max_error_rate: of the served pairs, above 0 and below 1.
        """
        chosen = Operating(1.0, certified=False)
        for threshold, served, wrong in self.operating:
            if wrong > max_error_rate * served:
                break
            chosen = Operating(threshold, at_most(wrong, served, max_error_rate) <= 0.05)
        return chosen

    def to_json(self) -> str:
        """Return it as a JSON text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        for name in ("features", "mean", "scale", "weights", "sources"):
            data[name] = tuple(data[name])
        data["operating"] = tuple((float(t), int(n), int(w)) for t, n, w in data.get("operating", ()))
        data["reliability"] = tuple((float(p), float(right), int(n)) for p, right, n in data["reliability"])
        return cls(**data)


@cache
def shipped(embedder: str, *, of_contexts: bool = False) -> Calibration:
    """Return the calibration that comes with this library for an embedder.

    Args:
        embedder: its name.
        of_contexts: of histories of conversations, not of questions.

    Raises:
        KeyError: there is none; learn one with benchmarks/calibrate.py.
    """
    name = f"context-{embedder}" if of_contexts else embedder
    file = files(_PACKAGE).joinpath("data", f"calibration-{name}.json")
    if not file.is_file():
        raise KeyError(f"no calibration {name!r}: learn one with benchmarks/calibrate.py")
    return Calibration.from_json(file.read_text(encoding="utf-8"))


def read(path: Path) -> Calibration:
    """Return the calibration in a file."""
    return Calibration.from_json(path.read_text(encoding="utf-8"))


def learn(
    features: npt.ArrayLike,
    right: npt.ArrayLike,
    *,
    embedder: str,
    sources: Sequence[str],
    names: tuple[str, ...] = FEATURES,
    strength: float = 3.0,
    pairs: int | None = None,
    folds: int = 5,
    seed: int = 0,
    cross_fit: bool = True,
) -> Calibration:
    """Learn a calibration from pairs that no guard forbids.

    Args:
        features: (n, len(names)).
        right: (n,), whether one answer serves both.
        embedder: its name.
        sources: where the pairs come from.
        names: of the features.
        strength: of the pull of the weights (over standardised features) to zero; L2.
        pairs: how many there were before the guards; n if not given.
        folds: for the probabilities in `brier` and `reliability`, each by a model that had not seen the pair.
        seed: of the folds.
        cross_fit: False leaves out what takes most of the time: `brier`, `reliability` and `operating`, which
            are then 1 and empty.

    Raises:
        ValueError: all pairs are right, or all are wrong.
    """
    rows = np.asarray(features, dtype=np.float64)
    labels = np.asarray(right, dtype=np.float64)
    if not 0 < labels.sum() < len(labels):
        raise ValueError("a calibration needs right pairs and wrong ones")
    mean, scale, weights = _fit(rows, labels, strength)
    fitted = Calibration(
        embedder=embedder,
        features=names,
        mean=_rounded(mean),
        scale=_rounded(scale),
        weights=_rounded(weights[:-1]),
        bias=round(float(weights[-1]), 6),
        pairs=len(labels) if pairs is None else pairs,
        sources=tuple(sources),
        brier=1.0,
        reliability=(),
    )
    if not cross_fit:
        return fitted
    order = np.random.default_rng(seed).permutation(len(labels)) % folds
    unseen = np.empty(len(labels))
    for fold in range(folds):
        kept = order != fold
        mean, scale, weights = _fit(rows[kept], labels[kept], strength)
        unseen[~kept] = sigmoid((rows[~kept] - mean) / scale @ weights[:-1] + weights[-1])
    return replace(
        fitted,
        brier=round(float(np.mean((unseen - labels) ** 2)), 4),
        reliability=reliability(unseen, labels),
        operating=tuple(
            (t, int((unseen >= t).sum()), int(((unseen >= t) & (labels == 0)).sum())) for t in THRESHOLDS
        ),
    )


def reliability(probability: Floats, right: Floats, tenths: int = 10) -> tuple[tuple[float, float, int], ...]:
    """Return (mean probability, share that was right, pairs) for each range that has pairs."""
    place = np.minimum((probability * tenths).astype(int), tenths - 1)
    return tuple(
        (
            round(float(probability[place == i].mean()), 3),
            round(float(right[place == i].mean()), 3),
            int((place == i).sum()),
        )
        for i in range(tenths)
        if (place == i).any()
    )


def at_most(found: int, of: int, share: float) -> float:
    """Return the chance of at most `found` of `of`, each with a chance of `share`."""
    return math.fsum(
        math.exp(
            math.lgamma(of + 1)
            - math.lgamma(k + 1)
            - math.lgamma(of - k + 1)
            + k * math.log(share)
            + (of - k) * math.log1p(-share)
        )
        for k in range(found + 1)
    )


def interval(found: int, of: int) -> tuple[float, float]:
    """Return the share's interval with a confidence of 95 % (Clopper-Pearson). Cost: O(found)."""

    def bisected(is_below: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if is_below(middle) else (low, middle)
        return low

    least = 0.0 if found == 0 else bisected(lambda share: 1 - at_most(found - 1, of, share) < 0.025)
    most = 1.0 if found == of else bisected(lambda share: at_most(found, of, share) > 0.025)
    return least, most


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


def _fit(rows: Floats, labels: Floats, strength: float) -> tuple[Floats, Floats, Floats]:
    """Return (mean, scale, weights with the bias last) by Newton's method; it settles in ten steps."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    inputs = np.c_[(rows - mean) / scale, np.ones(len(rows))]
    pull = np.diag([strength] * rows.shape[1] + [1e-6])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        p = sigmoid(inputs @ weights)
        gradient = inputs.T @ (labels - p) - pull @ weights
        step = np.linalg.solve((inputs.T * (p * (1 - p) + 1e-9)) @ inputs + pull, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return mean, scale, weights


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
