"""How fast the engine behind a log is: fitted from the times that the log has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from axolotl_cache.profiling.record import Record

_FEWEST: Final = 20


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of one request; None where the log does not say."""

    first_token_seconds: float | None = None
    """What a first token takes with nothing to compute before it: queue, overhead, one step."""
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class SpeedFit:
    """Fits time to first token as a line over the tokens computed, and the decode rate as a mean."""

    def __init__(self) -> None:
        self._n = 0
        self._x = self._y = self._xx = self._xy = 0.0
        self._decode_tokens, self._decode_seconds = 0, 0.0

    def see(self, record: Record) -> None:
        """Take a request that was computed."""
        if record.served in {"hit-exact", "hit-semantic", "hit-session"}:
            return
        ttft, total, answer = record.ttft_seconds, record.total_seconds, record.completion_tokens
        if ttft is not None and record.prompt_tokens:
            computed = record.prompt_tokens - (record.cached_tokens or 0)
            self._n += 1
            self._x += computed
            self._y += ttft
            self._xx += computed * computed
            self._xy += computed * ttft
        if total is not None and answer and answer > 1 and total > (ttft or 0):
            self._decode_tokens += answer - 1
            self._decode_seconds += total - (ttft or 0)

    def result(self) -> Speeds:
        """Return the fit; without enough requests, or with a line that falls, nothing."""
        decode = self._decode_tokens / self._decode_seconds if self._decode_seconds else None
        spread = self._n * self._xx - self._x * self._x
        if self._n < _FEWEST or spread <= 0:
            return Speeds(decode_tokens_per_second=decode)
        slope = (self._n * self._xy - self._x * self._y) / spread
        if slope <= 0:
            return Speeds(decode_tokens_per_second=decode)
        start = max(0.0, (self._y - slope * self._x) / self._n)
        return Speeds(start, 1 / slope, decode)
