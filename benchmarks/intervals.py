"""Exact intervals for shares, without scipy."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log


def clopper_pearson(found: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share: it holds the true one with at least this confidence.

    Source: Clopper and Pearson, Biometrika 26 (1934). Found by bisection over the binomial's tails.
    """
    if not of:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if found == 0 else _solve(lambda p: 1 - _at_most(found - 1, of, p), tail)
    high = 1.0 if found == of else _solve(lambda p: 1 - _at_most(found, of, p), 1 - tail)
    return low, high


def _solve(rising: Callable[[float], float], target: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(found: int, of: int, p: float) -> float:
    """Return the chance of `found` or fewer of `of`."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return float(found >= of)
    total = lgamma(of + 1)
    return sum(
        exp(total - lgamma(k + 1) - lgamma(of - k + 1) + k * log(p) + (of - k) * log(1 - p))
        for k in range(found + 1)
    )


def share(found: int, of: int) -> dict[str, float]:
    """Return a share with its interval, as a row of a result."""
    low, high = clopper_pearson(found, of)
    return {
        "found": found,
        "of": of,
        "share": round(found / of, 4) if of else 0.0,
        "low": round(low, 4),
        "high": round(high, 4),
    }
