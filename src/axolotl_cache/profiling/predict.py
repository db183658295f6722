"""What caches would do for the requests of a profile: hit rates by tier, capacity and TTL."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from axolotl_cache.profiling.policy_curve import OPTIMUM, PolicyGains
from axolotl_cache.profiling.profile import Profile
from axolotl_cache.profiling.response_curve import POLICIES, grid, response_hit_rate
from axolotl_cache.profiling.stack_distance import Distances, LruCurve, distances, lru_curve, reused_ages

TTLS: Final = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0)
FRACTIONS: Final = (0.01, 0.05, 0.1, 0.25, 1.0)
ENOUGH: Final = 0.95
"""Of the hits that there are: what is asked of a capacity or a TTL before it is recommended."""
_RESPONSE_REFERENCES: Final = 40_000
"""A policy is run on a sample of so many at most: about 3 microseconds each."""


@dataclass(frozen=True, slots=True)
class CapacityPoint:
    """Hit rates at one capacity, from 0 to 1."""

    capacity: int
    """Blocks of the prefix cache, entries of the response cache."""
    size_bytes: int | None
    """None if the model is not known, and for entries."""
    hit_rates: dict[str, float]
    """By policy: of the prompt tokens, or of the requests."""


@dataclass(frozen=True, slots=True)
class TtlPoint:
    """The hit rate under one TTL, with no bound on the capacity."""

    ttl_seconds: float
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One tier: what it hits over capacity, and over TTL."""

    tier: str
    most: float
    """The hit rate without any bound, from 0 to 1."""
    different: int
    """Blocks or prompts that are not the same: what a cache that forgets nothing would hold."""
    points: tuple[CapacityPoint, ...]
    ttls: tuple[TtlPoint, ...]
    """Empty if the log has no times."""
    error: float
    """The 95 % half width of the hit rates, of sampling; 0 where everything was counted."""
    policy_error: float
    """How far the other policies' hit rates may be off: as far as a run of lru on the same sample is."""
    sample_rate: float
    enough: int
    """The smallest capacity that lru needs for 95 % of the hits there are; of the response cache, of the
    capacities looked at."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Both tiers, each as if it were alone."""

    prefix: Curve
    response: Curve


class PrefixModel:
    """The prefix cache's curve, at any capacity and TTL.

    Cost: the stack distances once, O(n log n) in what the profile holds.
    """

    def __init__(self, profile: Profile) -> None:
        self._trace = profile.prefix_trace
        self._distances: Distances = distances(self._trace)
        totals = profile.totals
        # Blocks found, as a share of those asked for, become tokens found, as a share of all tokens.
        covered = self._trace.references * totals.block_tokens / max(1, totals.prompt_tokens)
        self._tokens_of_blocks = min(1.0, covered)
        self.curve: LruCurve = lru_curve(self._trace, self._distances)
        self._ages = array("d", sorted(reused_ages(self._distances)))

    def hit_rate(self, capacity_blocks: float) -> float:
        """Return the share of all prompt tokens that are found, without a TTL."""
        return self.curve.hit_rate(capacity_blocks) * self._tokens_of_blocks

    def hit_rates(self, capacity_blocks: int, gains: Mapping[str, float]) -> dict[str, float]:
        """Return the hit rates of all policies, from what each gains over LRU in a simulation."""
        lru = self.hit_rate(capacity_blocks)
        rates = {"lru": lru}
        for name, gain in gains.items():
            rates[name] = min(self.most, max(0.0, lru + gain * self._tokens_of_blocks))
        return rates

    def hit_rate_under(self, ttl_seconds: float) -> float:
        """Return the share of all prompt tokens that are found under a TTL, without a bound."""
        hits = bisect_right(self._ages, ttl_seconds) + self.curve.always
        return max(0.0, hits / max(1.0, self.curve.references)) * self._tokens_of_blocks

    @property
    def most(self) -> float:
        """The hit rate without any bound."""
        return self.curve.most * self._tokens_of_blocks

    def error(self, capacity_blocks: float) -> float:
        """The 95 % half width of `hit_rate`."""
        return self.curve.error(capacity_blocks) * self._tokens_of_blocks


def predict(profile: Profile, *, block_bytes: int | None = None) -> Prediction:
    """Return what both tiers would hit.

    Cost: for the sample that the profile holds, some seconds at the most.

    Args:
        profile: of a log.
        block_bytes: of one block of the prefix cache, if the model is known.
    """
    return Prediction(_prefix(profile, block_bytes), _response(profile))


def _prefix(profile: Profile, block_bytes: int | None) -> Curve:
    model = PrefixModel(profile)
    different = profile.prefix_trace.different()
    capacities = sorted({max(1, round(different * share)) for share in FRACTIONS})
    runs = PolicyGains(profile.prefix_trace)
    points, off = [], 0.0
    for capacity in capacities if model.most else ():
        if capacity < different:
            found = runs.at(capacity)
            off = max(off, abs(found.lru - model.curve.hit_rate(capacity)))
            rates = model.hit_rates(capacity, found.gains)
        else:  # nothing is ever forgotten
            rates = dict.fromkeys((*POLICIES, OPTIMUM), model.most)
        points.append(CapacityPoint(capacity, None if block_bytes is None else capacity * block_bytes, rates))
    ttls = [TtlPoint(ttl, model.hit_rate_under(ttl)) for ttl in _ttls(profile)]
    error = max((model.error(capacity) for capacity in capacities), default=0.0)
    return Curve(
        "prefix",
        model.most,
        different,
        tuple(points),
        tuple(ttls),
        error,
        off,
        profile.prefix_trace.rate,
        model.curve.capacity_for(ENOUGH),
    )


def _response(profile: Profile) -> Curve:
    trace = profile.response_trace
    small = trace if len(trace) <= _RESPONSE_REFERENCES else trace.thinned(_RESPONSE_REFERENCES)
    different = trace.different()
    most = response_hit_rate(trace, entries=math.inf, ttl_seconds=None)
    points = [
        CapacityPoint(
            entries,
            None,
            {
                name: response_hit_rate(small, entries=entries, ttl_seconds=None, policy=name)
                for name in POLICIES
            },
        )
        for entries in (grid(different) if most else ())
    ]
    ttls = [
        TtlPoint(ttl, response_hit_rate(trace, entries=math.inf, ttl_seconds=ttl)) for ttl in _ttls(profile)
    ]
    # Each request is found or not: the half width for a share of independent ones, at its widest.
    kept = max(1, len(small))
    error = 0.0 if small.is_exact else 1.96 * math.sqrt(max(most * (1 - most), 1 / kept) / kept)
    enough = knee((point.capacity, point.hit_rates["lru"]) for point in points) or 0
    return Curve(
        "response", most, different, tuple(points), tuple(ttls), error, error, small.rate, int(enough)
    )


def _ttls(profile: Profile) -> Sequence[float]:
    span = profile.concurrency.span_seconds
    if not profile.has_times or not span:
        return ()
    return [ttl for ttl in TTLS if ttl < span * 2]


def knee(points: Iterable[tuple[float, float]], share: float = ENOUGH) -> float | None:
    """Return the smallest place whose value reaches `share` of the highest; None if all values are 0.

    Args:
        points: place and value, by place.
        share: of the highest value.
    """
    held = list(points)
    most = max((value for _, value in held), default=0.0)
    return next((place for place, value in held if value >= share * most), None) if most > 0 else None
