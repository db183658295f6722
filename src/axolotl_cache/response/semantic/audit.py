"""What checked hits prove: that wrong ones are rarer than was allowed, or that they are not.

Each hit is checked against the model with a probability drawn independently of everything else. The checks
are bets: a fortune that has grown twenty times refutes the claim that it bets against, at any moment, however
often one looks (Ville's inequality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

REFUTED = 20.0
"""Fortune at which a claim is refuted: if it is true, that happens with a probability of 1/20 at most."""
_STAKES = (1.0, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Shares of the largest stake; the fortune is the mean over all. The largest dies of its first wrong hit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks so far say."""

    checked: int
    wrong: int
    certified: bool
    """"Wrong at `max_error_rate` or more, always" was refuted, with at most 5 % risk of error."""
    alarm: bool
    """"Wrong at `max_error_rate` or less, always" was refuted, with at most 5 % risk of error."""


class Audit:
    """Counts checked hits of one partition, for as long as its embedder and calibration stay the same.

    The statement: if every hit, given all before it, is wrong with a probability of `max_error_rate` or more,
    then `certified` ever becomes true with a probability of 5 % at most; if always of that or less, `alarm`
    does. It takes labels that are right, and checks drawn independently. Where the rate drifts across the
    bound, neither claim is the truth, and what was refuted is only that it held at every moment: begin anew
    from time to time.

    Clean hits needed for `certified`: 458 at 1 %, 151 at 3 % (with one fixed largest stake 299 and 99, which
    the first wrong hit would end for ever).

    Args:
        max_error_rate: share of hits that may be wrong, between 0 and 1.

    Raises:
        ValueError: `max_error_rate` is no such share.
    """

    def __init__(self, max_error_rate: float) -> None:
        if not 0 < max_error_rate < 1:
            raise ValueError(f"max_error_rate is a share between 0 and 1, not {max_error_rate}")
        self._allowed = max_error_rate
        self._checked = self._wrong = 0
        self._certified = self._alarm = False
        self._low = [0.0] * len(_STAKES)
        self._high = [0.0] * len(_STAKES)

    def add(self, wrong: bool) -> Verdict:
        """Count one checked hit and return what all say. Cost: about 10 us."""
        self._checked += 1
        self._wrong += wrong
        surprise = float(wrong) - self._allowed
        for place, share in enumerate(_STAKES):
            # A bet on right hits wins a little on each of them; one on wrong hits wins much on each of those.
            self._low[place] += _log(1 - share * surprise / (1 - self._allowed))
            self._high[place] += _log(1 + share * surprise / self._allowed)
        self._certified |= _mean(self._low) >= math.log(REFUTED)
        self._alarm |= _mean(self._high) >= math.log(REFUTED)
        return self.verdict()

    def verdict(self) -> Verdict:
        """Return what the checks so far say; both claims may be refuted where the rate drifted."""
        return Verdict(self._checked, self._wrong, self._certified and not self._alarm, self._alarm)


def _log(growth: float) -> float:
    return math.log(growth) if growth > 0 else -math.inf


def _mean(logs: list[float]) -> float:
    """Return the logarithm of the mean of the fortunes."""
    most = max(logs)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))
