"""Load or compute again: what loading has cost so far, and which of the two comes out faster."""

from __future__ import annotations

import math

_MARGIN = 1.25
"""A load must be expected this much faster than computing: the estimate is of the last loads, not of this."""
_PATIENCE_SHARE = 0.25
_LEAST_PATIENCE_SECONDS = 0.01
"""Two threads have to take turns for a load to begin at all."""
_WEIGHT = 0.3
"""What the newest measurement counts for in the average."""
_CAUTIOUS_START_SECONDS = 0.01
_CAUTIOUS_SECONDS_PER_BYTE = 1e-8
"""100 MB/s, a hard disk's: until something has been measured."""


def worth_loading(
    blocks: int, load_seconds: float, prefill_seconds_per_token: float, block_size: int
) -> bool:
    """Whether loading so many blocks is expected to be faster than computing their tokens.

    Args:
        blocks: how many would be loaded.
        load_seconds: what that is expected to take (`LowerTier.load_seconds`).
        prefill_seconds_per_token: what computing a token of a prompt takes, as measured.
        block_size: tokens in a block.
    """
    if not (math.isfinite(load_seconds) and math.isfinite(prefill_seconds_per_token)):
        return False
    return blocks > 0 and load_seconds * _MARGIN < blocks * block_size * prefill_seconds_per_token


def patience_seconds(compute_seconds: float) -> float:
    """Return how much a load may lose against computing: a quarter of that, and at least 10 ms.

    Args:
        compute_seconds: what computing all that is to be loaded takes.
    """
    return max(_PATIENCE_SHARE * compute_seconds, _LEAST_PATIENCE_SECONDS)


class LoadCost:
    """What a load takes: a constant to get going, and so much for each byte. Averages of what was measured.

    Until the first measurement both are cautious guesses, so that at worst a load is missed.
    """

    def __init__(self) -> None:
        self.start_seconds = _CAUTIOUS_START_SECONDS
        self.seconds_per_byte = _CAUTIOUS_SECONDS_PER_BYTE
        self.measured_at_seconds: float | None = None
        """When it was measured last, on the clock that `learn` was given; None for never."""

    def seconds(self, nbytes: int) -> float:
        """Return what loading so many bytes is expected to take."""
        return self.start_seconds + nbytes * self.seconds_per_byte

    def learn(self, *, start_seconds: float, read_seconds: float, nbytes: int, now_seconds: float) -> None:
        """Take in one measured load.

        Args:
            start_seconds: from being asked (with nothing else to do) to the first byte wanted.
            read_seconds: for reading, checking and decoding.
            nbytes: bytes of tensors loaded, more than 0.
            now_seconds: when.
        """
        weight = 1.0 if self.measured_at_seconds is None else _WEIGHT
        self.start_seconds += weight * (max(0.0, start_seconds) - self.start_seconds)
        self.seconds_per_byte += weight * (max(0.0, read_seconds) / nbytes - self.seconds_per_byte)
        self.measured_at_seconds = now_seconds
