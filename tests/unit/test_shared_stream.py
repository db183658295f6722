"""One computation for all equal requests that are under way, and every reader has all of it."""

import gc
import threading
import time

import pytest

from axolotl_cache.errors import RequestCancelled, StreamDiverged
from axolotl_cache.streams.shared import SharedStreams
from axolotl_cache.streams.stop import Stop


class Computing:
    """A computation that counts how often it is begun, and that ends as it is told."""

    def __init__(self, parts=5, fails=(), pause_seconds=0.0):
        self.begun = self.closed = 0
        self._parts, self._fails, self._pause = parts, dict(fails), pause_seconds

    def __call__(self, nobody):
        self.nobody = nobody
        self.begun += 1
        return self._run(self.begun)

    def _run(self, number):
        try:
            for part in range(self._parts):
                if self._fails.get(number) == part:
                    raise OSError(f"computation {number} failed")
                time.sleep(self._pause)
                yield part
        except GeneratorExit:
            self.closed += 1
            raise


def texts(parts):
    return [part for part, _ in parts]


def in_threads(count, work):
    outcomes = []
    ready = threading.Barrier(count)

    def run():
        ready.wait()
        try:
            outcomes.append(work())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == count
    return outcomes


def nothing_left(streams):
    return not streams._streams


def test_readers_at_the_same_time_share_one_computation():
    streams, compute = SharedStreams(), Computing(parts=20, pause_seconds=0.005)
    outcomes = in_threads(16, lambda: list(streams.read("k", compute, Stop())))
    assert compute.begun == 1
    assert all(texts(outcome) == list(range(20)) for outcome in outcomes)
    assert sum(is_mine for outcome in outcomes for _, is_mine in outcome[:1]) == 1
    assert nothing_left(streams)


def test_the_control_other_keys_and_later_readers_share_nothing():
    streams, compute = SharedStreams(), Computing()
    assert (
        texts(streams.read("k", compute, Stop()))
        == texts(streams.read("k", compute, Stop()))
        == list(range(5))
    )
    one, other = streams.read("k", compute, Stop()), streams.read("l", compute, Stop())
    next(one), next(other)
    assert compute.begun == 4


def test_who_comes_late_has_all_of_it_at_once_and_goes_ahead_of_a_slow_reader():
    streams, compute = SharedStreams(), Computing()
    slow = streams.read("k", compute, Stop())
    assert next(slow) == (0, True)
    assert list(streams.read("k", compute, Stop())) == [(part, False) for part in range(5)]
    assert texts(slow) == [1, 2, 3, 4]
    assert compute.begun == 1
    assert nothing_left(streams)


def test_two_readers_of_one_thread_can_take_turns():
    streams, compute = SharedStreams(), Computing()
    pairs = list(zip(streams.read("k", compute, Stop()), streams.read("k", compute, Stop()), strict=True))
    assert pairs == [((part, True), (part, False)) for part in range(5)]


def test_who_began_it_may_leave():
    streams, compute = SharedStreams(), Computing()
    first, second = streams.read("k", compute, Stop()), streams.read("k", compute, Stop())
    next(first), next(second)
    first.close()
    assert texts(second) == [1, 2, 3, 4]
    assert (compute.begun, compute.closed) == (1, 0)


def test_when_nobody_reads_on_it_is_closed_and_the_next_begins_anew():
    streams, compute = SharedStreams(), Computing()
    readers = [streams.read("k", compute, Stop()) for _ in range(3)]
    for reader in readers:
        next(reader)
    for reader in readers:
        assert compute.closed == 0
        reader.close()
    assert compute.closed == 1
    assert nothing_left(streams)
    assert texts(streams.read("k", compute, Stop())) == list(range(5))
    assert compute.begun == 2


@pytest.mark.parametrize("at", [0, 3])
def test_an_error_goes_to_who_began_it_and_another_takes_over(at):
    streams, compute = SharedStreams(), Computing(fails={1: at})
    first, second = streams.read("k", compute, Stop()), streams.read("k", compute, Stop())
    had = [next(first) for _ in range(at)]
    waiting = [next(second) for _ in range(at)]
    with pytest.raises(OSError, match="computation 1 failed"):
        next(first)
    assert texts(had) == texts(waiting)
    assert texts(waiting) + texts(second) == list(range(5))
    assert compute.begun == 2
    assert nothing_left(streams)


def test_each_failure_costs_one_reader_and_no_more():
    streams, compute = SharedStreams(), Computing(fails={1: 2, 2: 4, 3: 0}, pause_seconds=0.01)
    outcomes = in_threads(8, lambda: texts(streams.read("k", compute, Stop())))
    errors = [outcome for outcome in outcomes if isinstance(outcome, OSError)]
    assert len(errors) == len({str(error) for error in errors}) == 3
    assert [outcome for outcome in outcomes if outcome not in errors] == [list(range(5))] * 5
    assert nothing_left(streams)


def test_what_begins_otherwise_the_second_time_is_not_spliced_together():
    streams, begun = SharedStreams(), []

    def compute(nobody):
        begun.append(1)
        number = len(begun)

        def run():
            yield f"as {number}"
            if number == 1:
                raise OSError("half way")

        return run()

    first, second = streams.read("k", compute, Stop()), streams.read("k", compute, Stop())
    assert next(first)[0] == next(second)[0] == "as 1"
    with pytest.raises(OSError, match="half way"):
        next(first)
    with pytest.raises(StreamDiverged, match="send the request again"):
        next(second)
    assert nothing_left(streams)


def test_an_interrupt_of_one_thread_is_not_raised_in_another():
    streams, begun = SharedStreams(), []

    def compute(nobody):
        begun.append(1)

        def run(number):
            yield 0
            if number == 1:
                raise KeyboardInterrupt
            yield 1

        return run(len(begun))

    first, second = streams.read("k", compute, Stop()), streams.read("k", compute, Stop())
    next(first), next(second)
    with pytest.raises(KeyboardInterrupt):
        next(second)
    assert texts(first) == [1]
    assert len(begun) == 2


def test_where_there_is_nothing_to_compute_any_more_nothing_comes():
    streams = SharedStreams()
    assert list(streams.read("k", lambda nobody: None, Stop())) == []
    assert nothing_left(streams)


def test_a_reader_that_waits_can_be_told_to_leave_and_the_last_ends_the_computation():
    """A thread pulls and is stuck; its reader leaves first, then the other one, which only waits."""
    streams, stuck, failed = SharedStreams(), threading.Event(), []
    let_go = threading.Event()

    def compute(nobody):
        nobody.tell(let_go.set)

        def run():
            yield 0
            stuck.set()
            let_go.wait(10)
            raise RequestCancelled("cancelled")

        return run()

    def read(stop):
        try:
            list(streams.read("k", compute, stop))
        except RequestCancelled as error:
            failed.append(error)

    stops = [Stop(), Stop()]
    threads = [threading.Thread(target=read, args=(stop,)) for stop in stops]
    threads[0].start()
    assert stuck.wait(10)
    threads[1].start()
    while len(streams._streams) != 1 or streams._streams["k"]._readers < 2:
        time.sleep(0.001)
    stops[0].set()
    assert not let_go.is_set()  # the other one reads on
    stops[1].set()
    assert let_go.is_set()
    for thread in threads:
        thread.join(10)
    assert len(failed) == 2
    assert streams._streams == {}


def test_a_reader_that_left_does_not_count_for_those_that_came_after():
    streams, compute = SharedStreams(), Computing()
    told = Stop()
    first, second = streams.read("k", compute, told), streams.read("k", compute, Stop())
    next(first), next(second)
    told.set()
    first.close()
    third_stop = Stop()
    third = streams.read("k", compute, third_stop)
    next(third)
    third_stop.set()
    assert not compute.nobody.is_set  # the second reads on
    third.close()
    assert texts(second) == [1, 2, 3, 4]


def test_a_reader_that_is_collected_while_another_joins_blocks_nobody():
    streams = SharedStreams()

    class Abandoned:
        pass

    def source():
        yield 1
        yield 2

    def read(key, begin):
        stream, _ = streams.join(key, begin)
        return stream.read(Stop())

    def leave_one_and_join():
        left = Abandoned()
        left.parts = read("a", lambda _: source())
        next(left.parts)
        left.itself = left  # a cycle: gone when it is collected, and not before
        del left
        seen.extend(read("b", lambda _: (gc.collect(), source())[1]))

    seen = []
    thread = threading.Thread(target=leave_one_and_join, daemon=True)
    gc.disable()
    try:
        thread.start()
        thread.join(20)
    finally:
        gc.enable()
    assert seen == [1, 2]
