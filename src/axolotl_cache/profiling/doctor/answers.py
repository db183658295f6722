"""The same question, and another answer."""

from __future__ import annotations

from collections import Counter
from typing import Final

from axolotl_cache.profiling.blocks import digest
from axolotl_cache.profiling.doctor.differences import Example
from axolotl_cache.profiling.doctor.finding import Cause
from axolotl_cache.profiling.doctor.keys import Keys
from axolotl_cache.profiling.record import Record

_HELD: Final = 100_000
_ORDER: Final = (Cause.NAMESPACE, Cause.TEMPLATE)


class AnswerDifferences:
    """Compares the answers of requests that are the same, or the same but for version and template."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], tuple[int, int]] = {}
        self.compared = 0
        """Requests with an answer whose question was there before."""
        self.differ: Counter[Cause] = Counter()
        self.examples: dict[Cause, Example] = {}

    def see(self, record: Record, keys: Keys, number: int) -> None:
        """Compare a request's answer."""
        if not record.answer:
            return
        answer = digest(record.answer.encode("utf-8", "surrogatepass"))
        own = Cause.UNEXPLAINED if record.is_repeatable else Cause.UNSEEDED
        candidates = [(own, keys.full)]
        candidates += [(cause, keys.without[cause]) for cause in _ORDER if cause in keys.without]
        compared = False
        for cause, key in candidates:
            before = self._answers.get((cause.value, key))
            if before is None:
                if len(self._answers) >= _HELD:
                    del self._answers[next(iter(self._answers))]
                self._answers[cause.value, key] = (answer, number)
            elif not compared:  # the narrowest difference explains
                compared = True
                self.compared += 1
                if before[0] != answer:
                    self.differ[cause] += 1
                    self.examples.setdefault(cause, Example(number, before[1]))
