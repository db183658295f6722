"""What caches did to their bounds: kept, bounded, and as many steps as there were."""

from axolotl_cache.adjustments import KEPT, Adjustments, Change
from axolotl_cache.clock import ManualClock
from axolotl_cache.engine.memory import PressureGovernor

MB = 1_000_000


def test_steps_that_follow_each_other_are_one_and_all_are_counted():
    clock = ManualClock(100.0)
    noted = Adjustments(clock)
    for bound in (80, 60, 50):
        noted.note(Change.SHRINK, "prefix cache", bound + 20, bound, f"{bound} were left")
        clock.now_seconds += 1
    clock.now_seconds += 3600
    noted.note(Change.SHRINK, "prefix cache", 50, 40, "again")
    first, second = noted.last()
    assert (first.before_bytes, first.after_bytes, first.steps, first.why) == (100, 50, 3, "50 were left")
    assert (first.began_at, first.ended_at, second.steps) == (100.0, 102.0, 1)
    assert noted.counts() == {"shrink": 4, "grow": 0, "move": 0}


def test_only_the_last_are_kept():
    noted = Adjustments(ManualClock(0.0))
    for n in range(3 * KEPT):
        noted.note((Change.GROW, Change.SHRINK)[n % 2], "prefix cache", n, n + 1, "")
    assert len(noted.last()) == KEPT
    assert noted.last()[-1].before_bytes == 3 * KEPT - 1
    assert sum(noted.counts().values()) == 3 * KEPT


def test_a_governor_says_when_it_makes_room_and_when_it_grows_back():
    clock, free = ManualClock(0.0), [50 * MB]
    governor = PressureGovernor(100 * MB, 0.05, available=lambda: free[0], clock=clock)

    def look(held, available):
        free[0] = available
        clock.now_seconds += 1
        return governor.allowed_bytes(held, 40 * MB)

    assert look(30 * MB, 50 * MB) == 40 * MB
    assert not governor.adjustments.last()
    assert look(30 * MB, 1 * MB) == 26 * MB
    for _ in range(40):
        look(20 * MB, 60 * MB)
    shrunk, grown = governor.adjustments.last()
    assert (shrunk.change, shrunk.before_bytes, shrunk.after_bytes) == (Change.SHRINK, 40 * MB, 26 * MB)
    assert "1,000,000 bytes of memory were free" in shrunk.why
    assert (grown.change, grown.after_bytes) == (Change.GROW, 40 * MB)
    assert grown.steps == governor.adjustments.counts()["grow"] > 1
