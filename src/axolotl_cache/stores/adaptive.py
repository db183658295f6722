"""The policy `adaptive`: W-TinyLFU, whose share for newcomers follows the hit rate."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from random import Random

from axolotl_cache.stores.policies import RankedKeys
from axolotl_cache.stores.sketch import FrequencySketch

_PROBATION, _WINDOW, _PROTECTED = 0, 1, 2
_SEGMENT_BITS = 40
"""Below the segment, a rank is the number of the use: 2**40 uses are 12 days at one a microsecond."""

_HALVE_PER_ENTRY = 10
"""Uses per entry after which the sketch's counts are halved."""
_CLIMB_PER_ENTRY = 5
"""Uses per entry after which the window moves."""
_LEAST_SAMPLE = 160
_LEAST_WINDOW, _MOST_WINDOW = 0.01, 0.8
_PROTECTED_SHARE = 0.8
_FIRST_STEP = 0.0625
_DECAY = 0.98
_RESTART = 0.05
_LUCK = 1 / 128


class AdaptivePolicy(RankedKeys):
    """Newcomers must have been wanted more often than what they would push out.

    Three lists, each least recently used first. Newcomers enter the *window*. What falls out of it is a
    candidate for the rest, on *probation*: if something must go, the candidate and the oldest on probation
    are compared by how often they were seen lately, which a sketch remembers of those that are gone, too.
    The rarer one goes. A hit on probation moves up to *protected* (80 % of what is not window), and what
    falls out of that is on probation again.

    So one-time keys pass through the window and push nothing out. How large the window should be depends on
    the workload: every 5 uses per entry its share takes a step, on in the same direction if the hit rate
    rose and back if it fell; steps shrink until the hit rate changes by 5 points.

    A candidate that is seen exactly as often as what it meets goes, but for one in 128, by chance: else keys
    made up to collide in the sketch could keep a place for ever.

    Each call costs O(1) over time.

    Args:
        capacity: most entries held; sizes the sketch, and nothing else.
        random: for that one in 128.

    Source: Einziger, Friedman and Manes, TinyLFU: a highly efficient cache admission policy, 2017;
    Einziger, Eytan, Friedman and Manes, Adaptive software cache management, 2018 (the climbing window);
    Caffeine's documentation of its efficiency (the constants, but for the 5, which is 10 there).
    """

    scale = "adaptive"

    def __init__(self, capacity: int, random: Random) -> None:
        super().__init__()
        self._random = random
        self._sketch = FrequencySketch(capacity)
        self._segments: tuple[OrderedDict[str, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._candidate: str | None = None
        self._window_share = _LEAST_WINDOW
        self._step = _FIRST_STEP
        self._hits = self._misses = self._counted = 0
        self._hit_rate: float | None = None
        self._is_full = False

    @property
    def window_share(self) -> float:
        """The share of entries that is for newcomers now, from 0.01 to 0.8."""
        return self._window_share

    def add(self, key: str) -> None:
        """Note that `key` was stored."""
        if key in self._ranks:
            self.hit(key)
            return
        self._misses += 1
        self._seen(key)
        self._place(key, _WINDOW)
        self._balance()

    def hit(self, key: str) -> None:
        """Note that `key` was used."""
        if key not in self._ranks:
            return
        self._hits += 1
        self._seen(key)
        self._place(key, _WINDOW if key in self._segments[_WINDOW] else _PROTECTED)
        self._balance()

    def drop(self, key: str) -> None:
        """Forget `key`, but for how often it was seen."""
        rank = self._ranks.get(key)
        if rank is not None:
            del self._segments[rank >> _SEGMENT_BITS][key]
            super().drop(key)

    def restore(self, key: str, rank: int) -> None:
        """Take up a key in the segment that it was in, as the first to go."""
        segment = min(rank >> _SEGMENT_BITS, _PROTECTED)
        self._ranks[key] = segment << _SEGMENT_BITS | rank & (1 << _SEGMENT_BITS) - 1
        self._segments[segment][key] = None
        self._segments[segment].move_to_end(key, last=False)

    def first_rank(self, use: int) -> int:
        """Return the rank of a key whose one use was the `use`-th: on probation."""
        return _PROBATION << _SEGMENT_BITS | use

    def lowest(self, spare: str) -> str:
        """Return the oldest on probation; with none there, of the window; with none, of what is protected."""
        return next((key for segment in self._segments for key in segment if key != spare), spare)

    def judge(self, lowest: str) -> str:
        """Return the candidate if it was seen no more often than `lowest`, and else `lowest`."""
        candidate, self._candidate = self._candidate, None
        self._is_full = True
        if candidate is None or candidate not in self._segments[_PROBATION]:
            return lowest
        ahead = self._sketch.count(candidate) - self._sketch.count(lowest)
        if ahead > 0 or (ahead == 0 and self._random.random() < _LUCK):
            return lowest
        return candidate

    def _seen(self, key: str) -> None:
        self._sketch.add(key)
        self._counted += 1
        entries = len(self._ranks)
        if self._counted >= max(_LEAST_SAMPLE, _HALVE_PER_ENTRY * entries):
            self._sketch.halve()
            self._counted = 0
        if self._hits + self._misses >= max(_LEAST_SAMPLE, _CLIMB_PER_ENTRY * entries):
            if self._is_full:  # while nothing has to go, the window's share makes no difference
                self._climb()
            self._hits = self._misses = 0
            self._is_full = False

    def _climb(self) -> None:
        """Move the window's share on if the hit rate rose, and back if it fell."""
        before, self._hit_rate = self._hit_rate, self._hits / (self._hits + self._misses)
        if before is None:  # nothing to compare with yet
            return
        change = self._hit_rate - before
        step = self._step if change >= 0 else -self._step
        self._window_share = min(_MOST_WINDOW, max(_LEAST_WINDOW, self._window_share + step))
        if abs(change) >= _RESTART:
            self._step = _FIRST_STEP if step > 0 else -_FIRST_STEP
        else:
            self._step = step * _DECAY
        # A window that has grown is filled from probation: left to newcomers, those there would go unjudged.
        probation, window, _ = self._segments
        for key in list(islice(probation, max(0, self._window_most() - len(window)))):
            self._place(key, _WINDOW)

    def _place(self, key: str, segment: int) -> None:
        """Put `key` at the young end of a segment, wherever it was."""
        rank = self._ranks.get(key)
        if rank is not None:
            del self._segments[rank >> _SEGMENT_BITS][key]
        self._segments[segment][key] = None
        self._give(key, segment << _SEGMENT_BITS | self._next_use())

    def _balance(self) -> None:
        """Let the oldest of a segment that is too full go on probation."""
        _, window, protected = self._segments
        window_most = self._window_most()
        while len(window) > window_most:
            self._candidate = next(iter(window))
            self._place(self._candidate, _PROBATION)
        protected_most = int(_PROTECTED_SHARE * (len(self._ranks) - window_most))
        while len(protected) > protected_most:
            self._place(next(iter(protected)), _PROBATION)

    def _window_most(self) -> int:
        return max(1, int(self._window_share * len(self._ranks)))
