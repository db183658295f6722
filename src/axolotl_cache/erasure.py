"""An erasure that goes through several tiers: what one can't do keeps no other from doing its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from axolotl_cache.errors import ErasureError, ErasureReport

__all__ = ["ErasureReport", "erased_in_all"]


def erased_in_all(erasures: Iterable[Callable[[], ErasureReport]]) -> ErasureReport:
    """Run each of them, and return their reports added up.

    Raises:
        ErasureError: some raised one; all were run, and the report is of all.
    """
    total, failed = ErasureReport(), False
    for erase in erasures:
        try:
            total += erase()
        except ErasureError as error:
            total, failed = total + error.report, True
    if failed:
        raise ErasureError(total)
    return total
