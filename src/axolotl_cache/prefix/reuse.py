"""How soon blocks are used again, learned from those that were: the tables behind the policy `adaptive`.

Blocks are of a kind: by how many requests asked for them, and by how much new text came with the last one.
For each kind and each span of age it is counted how long blocks were watched and how many were used again;
the quotient is a rate, uses a second. With few counts behind it, a kind's rates are those of all kinds
together, scaled by what is known of it.

A block is worth the best rate at which it can be expected to earn its place: of all times that one might
go on keeping it, the one with the most uses for each second of waiting. So a block that nobody can have come
back to yet is not thrown away for being young, and one whose time has passed is.

Source: Gittins, Bandit processes and dynamic allocation indices, 1979 (the worth); Beckmann, Chen and Cidon,
LHD, 2018 (rates by age and class, counted online); Gamma-Poisson shrinkage as in any textbook.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, log2

Kind = tuple[int, int]
"""How many requests, and how many new blocks, each as a bucket."""

_SPANS = 25
_FIRST_SPAN_SECONDS = 1.0
_SPANS_PER_DOUBLING = 2
"""Ages up to 1 s are one span; then two for each doubling, up to 4,096 s, and one for all that is older."""
_EDGES = [
    0.0,
    *(_FIRST_SPAN_SECONDS * 2.0 ** (n / _SPANS_PER_DOUBLING) for n in range(_SPANS - 1)),
    _FIRST_SPAN_SECONDS * 2.0 ** ((_SPANS + 1) / _SPANS_PER_DOUBLING),
]
_WIDTHS = [after - before for before, after in pairwise(_EDGES)]

_PRIOR_USES = 2.0
"""So many uses are behind what is believed before anything is known of a kind."""
_ENOUGH_USES = 32
"""Before so many uses were seen, nothing is known."""


def span_of(age_seconds: float) -> int:
    """Return the index of the span that an age falls into."""
    if age_seconds < _FIRST_SPAN_SECONDS:
        return 0
    return min(_SPANS - 1, 1 + int(_SPANS_PER_DOUBLING * log2(age_seconds / _FIRST_SPAN_SECONDS)))


def kind_of(requests: float, new_blocks: int) -> Kind:
    """Return the kind of blocks that so many requests asked for, the last with so many unknown blocks."""
    many = int(requests)
    asked = many if many <= 4 else min(10, 4 + (many - 4).bit_length())
    return asked, min(new_blocks, 1023).bit_length()


class _Counts:
    """How long blocks were watched in each span of age, and how many were used again in it."""

    __slots__ = ("uses", "watched_seconds")

    def __init__(self) -> None:
        self.uses = [0.0] * _SPANS
        self.watched_seconds = [0.0] * _SPANS

    def watch(self, age_seconds: float) -> None:
        last = span_of(age_seconds)
        for span in range(last):
            self.watched_seconds[span] += _WIDTHS[span]
        self.watched_seconds[last] += min(age_seconds - _EDGES[last], _WIDTHS[last])

    def add(self, other: _Counts) -> None:
        self.uses = [a + b for a, b in zip(self.uses, other.uses, strict=True)]
        self.watched_seconds = [
            a + b for a, b in zip(self.watched_seconds, other.watched_seconds, strict=True)
        ]

    def fade(self, factor: float) -> None:
        self.uses = [n * factor for n in self.uses]
        self.watched_seconds = [n * factor for n in self.watched_seconds]


class ReuseRates:
    """Rates of reuse by kind and age, learned from what is reported, and what blocks are worth by them."""

    def __init__(self) -> None:
        self._counts: dict[Kind, _Counts] = {}
        self._worths: dict[Kind, list[float]] = {}
        self._rates: dict[Kind, list[float]] = {}
        self._by_requests: dict[int, list[float]] = {}
        self._all: list[float] = []

    @property
    def is_known(self) -> bool:
        """Whether there was enough to learn from."""
        return bool(self._all)

    def saw(self, kind: Kind, age_seconds: float, *, used: bool) -> None:
        """Count blocks that were watched up to an age, and `used` then, or only not watched any more."""
        counts = self._counts.setdefault(kind, _Counts())
        counts.watch(age_seconds)
        if used:
            counts.uses[span_of(age_seconds)] += 1

    def fade(self, factor: float) -> None:
        """Let all that was counted up to now count less."""
        for counts in self._counts.values():
            counts.fade(factor)

    def learn(self, watched: list[tuple[Kind, float]]) -> None:
        """Make new rates of what was counted.

        Args:
            watched: kinds and ages in seconds of what is being watched now, and not counted yet.

        Cost: O(kinds + watched), some milliseconds.
        """
        counts: dict[Kind, _Counts] = {}
        for kind, counted in self._counts.items():
            counts.setdefault(kind, _Counts()).add(counted)
        for kind, age_seconds in watched:
            counts.setdefault(kind, _Counts()).watch(age_seconds)
        together, by_requests = _Counts(), dict[int, _Counts]()
        for (requests, _), counted in counts.items():
            together.add(counted)
            by_requests.setdefault(requests, _Counts()).add(counted)
        if sum(together.uses) < _ENOUGH_USES:
            return
        self._all = _smooth_rates(together)
        self._by_requests = {n: _scaled(c, self._all, by_span=True) for n, c in by_requests.items()}
        self._rates = {kind: _scaled(c, self._by_requests[kind[0]]) for kind, c in counts.items()}
        self._worths = {}

    def worth(self, kind: Kind, age_seconds: float) -> float:
        """Return the expected uses for each second of keeping such a block, from now on."""
        worths = self._worths.get(kind)
        if worths is None:
            rates = self._rates.get(kind) or self._by_requests.get(kind[0]) or self._all
            worths = self._worths[kind] = _worths(rates)
        return worths[span_of(age_seconds)]


def _smooth_rates(counts: _Counts) -> list[float]:
    """Return the rate in each span; where little was seen, the rate of the span before counts, too."""
    rates: list[float] = []
    # Uses of the same moment were watched for no time at all, and are no infinite rate.
    expected = sum(counts.uses) / max(_FIRST_SPAN_SECONDS, sum(counts.watched_seconds))
    for span in range(_SPANS):
        rates.append((counts.uses[span] + 1) / (counts.watched_seconds[span] + 1 / expected))
        # Where nobody was watched, all that is left is that reuse becomes rarer with age.
        expected = rates[-1] * _EDGES[max(1, span)] / _EDGES[max(1, span) + 1]
    return rates


def _scaled(counts: _Counts, rates: list[float], *, by_span: bool = False) -> list[float]:
    """Return rates scaled to fit counts: all by one factor, or each span by itself besides."""
    expected = sum(rate * seconds for rate, seconds in zip(rates, counts.watched_seconds, strict=True))
    factor = (sum(counts.uses) + _PRIOR_USES) / (expected + _PRIOR_USES)
    scaled = [rate * factor for rate in rates]
    if not by_span:
        return scaled
    prior = _PRIOR_USES / 2
    return [
        (uses + prior) / (seconds + prior / rate)
        for uses, seconds, rate in zip(counts.uses, counts.watched_seconds, scaled, strict=True)
    ]


def _worths(rates: list[float]) -> list[float]:
    """Return for each span of age the most uses a second that waiting from there on can give."""
    worths = []
    for start in range(_SPANS):
        unused, waited, best = 1.0, 0.0, 0.0
        for span in range(start, _SPANS):
            still = unused * exp(-rates[span] * _WIDTHS[span])
            waited += (unused - still) / rates[span]
            unused = still
            best = max(best, (1 - unused) / waited)
        worths.append(best)
    return worths
