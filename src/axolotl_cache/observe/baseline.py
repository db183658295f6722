"""What the time to first token would be without the cache, learned from what was computed."""

from __future__ import annotations

from typing import Final

LEAST_COMPUTED: Final = 5
"""Below, nothing is claimed."""
_FADE: Final = 0.995
"""Weight of an observation after the next one: the last 200 decide."""


class Baseline:
    """A line through the computed answers: seconds to the first token = a + b * computed prompt tokens.

    By least squares, over misses, whose whole prompt was computed, and prefix hits, of which a part was.
    Older ones fade, as machines and loads change. Both coefficients are kept from below 0, so that no prompt
    is said to take less than nothing.
    """

    __slots__ = ("_tokens", "_tokens_seconds", "_tokens_squared", "_total_seconds", "_weight", "computed")

    def __init__(self) -> None:
        self.computed = 0
        self._weight = 0.0
        self._tokens = 0.0
        self._total_seconds = 0.0
        self._tokens_squared = 0.0
        self._tokens_seconds = 0.0

    def learn(self, computed_tokens: int, ttft_seconds: float) -> None:
        """Take in a request, so many of whose prompt's tokens were computed. Cost: 0.3 us."""
        self.computed += 1
        self._weight = self._weight * _FADE + 1
        self._tokens = self._tokens * _FADE + computed_tokens
        self._total_seconds = self._total_seconds * _FADE + ttft_seconds
        self._tokens_squared = self._tokens_squared * _FADE + computed_tokens * computed_tokens
        self._tokens_seconds = self._tokens_seconds * _FADE + computed_tokens * ttft_seconds

    def line(self) -> tuple[float, float] | None:
        """Return (a, b); None while too few were computed."""
        if self.computed < LEAST_COMPUTED:
            return None
        n, x, y = self._weight, self._tokens, self._total_seconds
        spread = n * self._tokens_squared - x * x
        slope = (
            (n * self._tokens_seconds - x * y) / spread if spread > 1e-9 * n * self._tokens_squared else 0.0
        )
        if slope <= 0:
            return y / n, 0.0
        start = (y - slope * x) / n
        if start < 0:  # through the origin instead
            return 0.0, self._tokens_seconds / self._tokens_squared
        return start, slope

    def seconds(self, prompt_tokens: float) -> float | None:
        """Return the expected time to first token of a prompt of this length, all of it computed."""
        line = self.line()
        return None if line is None else line[0] + line[1] * prompt_tokens
