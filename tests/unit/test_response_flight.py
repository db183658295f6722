"""One computation, however many wait for it. Processes: tests/integration/test_response_processes.py."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.stores import StoreWarning


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    path = tmp_path if request.param == "disk" else None
    with SmartInferenceCache(100, 1800, path) as cache:
        yield cache


class Computation:
    """Counts how often it ran, and how often twice at a time."""

    def __init__(self, seconds=0.05, failures=0):
        self.seconds, self.failures = seconds, failures
        self.runs = self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def _enter(self):
        with self._lock:
            self.runs += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)

    def _leave(self):
        with self._lock:
            self._now -= 1
            fails = self.runs <= self.failures
        if fails:
            raise ValueError(f"failure {self.runs}")
        return [self.runs]

    def __call__(self):
        self._enter()
        time.sleep(self.seconds)
        return self._leave()

    async def in_task(self):
        self._enter()
        await asyncio.sleep(self.seconds)
        return self._leave()


def settle(futures):
    """Return results and errors."""
    return [f.exception() or f.result() for f in futures]


def test_threads_share_one_computation(cache):
    compute = Computation()
    with ThreadPoolExecutor(16) as pool:
        answers = settle([pool.submit(cache.get_or_compute, "k", compute) for _ in range(16)])
    assert answers == [[1]] * 16
    assert compute.runs == 1
    answers[0].append("mine")
    assert answers[1] == [1], "each has a value of its own"
    stats = cache.stats()
    assert stats.hits + stats.misses == 16
    assert stats.misses == stats.coalesced + 1


def test_without_sharing_the_same_threads_compute_many_times(cache):
    # the control of the test above
    compute = Computation()

    def alone():
        if not cache.contains("k"):
            cache.set("k", compute())
        return cache.get("k")

    with ThreadPoolExecutor(16) as pool:
        settle([pool.submit(alone) for _ in range(16)])
    assert compute.runs > 1


def test_a_failure_is_its_callers_and_another_takes_over(cache):
    compute = Computation(failures=2)
    with ThreadPoolExecutor(8) as pool:
        answers = settle([pool.submit(cache.get_or_compute, "k", compute) for _ in range(8)])
    assert sum(isinstance(a, ValueError) for a in answers) == 2
    assert [a for a in answers if not isinstance(a, ValueError)] == [[3]] * 6
    assert (compute.runs, compute.most_at_once) == (3, 1)


def test_a_failure_is_not_kept(cache):
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("k", lambda: 1 / 0)
    assert "k" not in cache
    assert cache.get_or_compute("k", lambda: 5) == 5


def test_a_value_that_can_not_be_kept_is_a_failure(cache):
    with pytest.raises(TypeError, match="make it a list"):
        cache.get_or_compute("k", lambda: (1, 2))
    assert cache.get_or_compute("k", lambda: [1, 2]) == [1, 2]


def test_different_keys_do_not_wait_for_each_other(cache):
    meet = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cache.get_or_compute, k, lambda: meet.wait() >= 0) for k in "ab"]
        assert settle(both) == [True, True]


def test_other_keys_may_be_computed_on_the_way(cache):
    assert cache.get_or_compute("outer", lambda: cache.get_or_compute("inner", lambda: 2) + 1) == 3


def test_asking_for_itself_is_an_error_and_no_deadlock(cache):
    with pytest.raises(RuntimeError, match="asked for 'k' itself"):
        cache.get_or_compute("k", lambda: cache.get_or_compute("k", lambda: 1))
    with pytest.raises(RuntimeError, match="asked for 'k' itself"):
        cache.get_or_compute("k", lambda: cache.get_or_compute("l", lambda: cache.get_or_compute("k", int)))
    assert cache.get_or_compute("k", lambda: 1) == 1


def test_those_who_wait_get_a_value_that_is_not_kept(cache):
    compute = Computation()
    with ThreadPoolExecutor(4) as pool:
        answers = settle([pool.submit(cache.get_or_compute, "k", compute, ttl=0) for _ in range(4)])
    assert compute.most_at_once == 1
    assert all(answer in [[n] for n in range(1, compute.runs + 1)] for answer in answers)
    assert compute.runs < 4
    assert "k" not in cache


def test_a_lock_file_that_can_not_be_had_fails_no_request(tmp_path):
    (tmp_path / "computing.lock").mkdir()
    compute = Computation()
    with SmartInferenceCache(9, 99, tmp_path) as cache:
        with pytest.warns(StoreWarning, match="other processes can't be kept"):
            assert cache.get_or_compute("k", compute) == [1]
        assert asyncio.run(cache.aget_or_compute("l", compute.in_task)) == [2]
        with ThreadPoolExecutor(4) as pool:
            answers = settle([pool.submit(cache.get_or_compute, "m", compute) for _ in range(4)])
        assert answers == [[3]] * 4, "this process's threads still share"
        assert cache.stats().store_errors == 3


class TestTasks:
    def test_tasks_share_one_computation(self, cache):
        compute = Computation()

        async def main():
            return await asyncio.gather(*(cache.aget_or_compute("k", compute.in_task) for _ in range(50)))

        assert asyncio.run(main()) == [[1]] * 50
        assert compute.runs == 1

    def test_threads_and_tasks_share_one_computation(self, cache):
        compute = Computation(0.2)

        async def main():
            return await asyncio.gather(*(cache.aget_or_compute("k", compute.in_task) for _ in range(5)))

        with ThreadPoolExecutor(8) as pool:
            tasks = [pool.submit(asyncio.run, main()) for _ in range(4)]
            threads = [pool.submit(cache.get_or_compute, "k", compute) for _ in range(4)]
            assert settle(tasks) == [[[1]] * 5] * 4
            assert settle(threads) == [[1]] * 4
        assert compute.runs == 1

    def test_a_failure_is_its_callers_and_another_takes_over(self, cache):
        compute = Computation(failures=1)

        async def main():
            return await asyncio.gather(
                *(cache.aget_or_compute("k", compute.in_task) for _ in range(5)), return_exceptions=True
            )

        answers = asyncio.run(main())
        assert sum(isinstance(a, ValueError) for a in answers) == 1
        assert answers.count([2]) == 4

    def test_if_the_one_that_computes_is_cancelled_another_takes_over(self, cache):
        compute = Computation()

        async def main():
            first = asyncio.create_task(cache.aget_or_compute("k", compute.in_task))
            await asyncio.sleep(0.01)
            others = [asyncio.create_task(cache.aget_or_compute("k", compute.in_task)) for _ in range(3)]
            await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await asyncio.gather(*others)

        assert asyncio.run(main()) == [[2]] * 3

    def test_if_one_that_waits_is_cancelled_the_others_are_not(self, cache):
        compute = Computation()

        async def main():
            tasks = [asyncio.create_task(cache.aget_or_compute("k", compute.in_task)) for _ in range(4)]
            await asyncio.sleep(0.01)
            tasks[2].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        answers = asyncio.run(main())
        assert answers.count([1]) == 3
        assert compute.runs == 1

    def test_the_loop_goes_on_while_another_cache_holds_the_lock(self, tmp_path):
        # two caches on one folder are to each other as two processes are
        with SmartInferenceCache(9, 99, tmp_path) as one, SmartInferenceCache(9, 99, tmp_path) as other:
            compute = Computation(0.3)

            async def main():
                ticks = 0
                waiting = asyncio.create_task(one.aget_or_compute("k", compute.in_task))
                while not waiting.done():
                    await asyncio.sleep(0.005)
                    ticks += 1
                return await waiting, ticks

            thread = threading.Thread(target=other.get_or_compute, args=("k", compute))
            thread.start()
            while not compute.runs:
                time.sleep(0.001)
            answer, ticks = asyncio.run(main())
            thread.join()
            assert answer == [1]
            assert compute.runs == 1
            assert ticks > 10
            assert one.stats().coalesced == 1

    def test_asking_for_itself_is_an_error_and_no_deadlock(self, cache):
        async def itself():
            return await cache.aget_or_compute("k", itself)

        async def by_a_child_task():
            return await asyncio.create_task(cache.aget_or_compute("k", itself))

        async def by_a_thread():
            return await asyncio.to_thread(cache.get_or_compute, "k", lambda: 1)

        async def blocking():
            return cache.get_or_compute("k", lambda: 1)

        for way in (itself, by_a_child_task, by_a_thread, blocking):
            with pytest.raises(RuntimeError, match="asked for 'k' itself"):
                asyncio.run(cache.aget_or_compute("k", way))

    def test_blocking_the_loop_that_computes_is_an_error_and_no_deadlock(self, cache):
        async def main():
            task = asyncio.create_task(cache.aget_or_compute("k", Computation().in_task))
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="await aget_or_compute"):
                cache.get_or_compute("k", lambda: 1)
            return await task

        assert asyncio.run(main()) == [1]

    def test_a_coroutine_closed_in_another_context_lets_the_next_one_compute(self, cache):
        @types.coroutine
        def pause():
            yield

        async def never():
            await pause()

        abandoned = cache.aget_or_compute("k", never)
        contextvars.copy_context().run(abandoned.send, None)
        abandoned.close()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(cache.get_or_compute, "k", lambda: 5).result(timeout=10) == 5
