"""Several processes, and processes that are killed: what was acknowledged is there, and one computes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import flight
from axolotl_cache.stores import MemoryStore

WRITER = """
    import random, sys
    from axolotl_cache import SmartInferenceCache
    folder, seed = sys.argv[1], int(sys.argv[2])
    rnd = random.Random(seed)
    cache = SmartInferenceCache(5000, None, folder)
    print("ready", flush=True)
    n = 0
    while True:
        key = f"{seed}-{n % 40}"
        size = rnd.choice([10, 2000, 50_000, 150_000])
        cache.set(key, f"{n}:" + f"{seed % 10}" * size, tags=["t"])
        # one write to the pipe is whole or not there, being short
        sys.stdout.write(f"{key} {n} {size}\\n"); sys.stdout.flush()
        n += 1
"""

COMPUTER = """
    import os, sys, threading, time
    from axolotl_cache import SmartInferenceCache
    folder, log, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    cache = SmartInferenceCache(100, 1800, folder)
    def compute():
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{os.getpid()}\\n".encode())
        os.close(fd)
        time.sleep(seconds)
        return [os.getpid()]
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    def ask():
        answers.append(cache.get_or_compute("the key", compute)[0])
    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking: thread.start()
    for thread in asking: thread.join()
    print(*answers, flush=True)
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def processes(script, *argument_lists):
    started = [start(script, *arguments) for arguments in argument_lists]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def kill_in_the_middle(folder: Path, rounds: int) -> tuple[int, int]:
    """Kill two writers, again and again; return the acknowledged entries that were checked, and the rounds.

    An entry must hold the value that was acknowledged last, or the one being written when the process died.
    """
    checked = 0
    rnd = random.Random(rounds)
    for number in range(rounds):
        seeds = (2 * number, 2 * number + 1)
        with processes(WRITER, *((folder, seed) for seed in seeds)) as writers:
            time.sleep(rnd.uniform(0.02, 0.25))
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
            told = [writer.stdout.read() for writer in writers]
        acknowledged = {}
        for line in "".join(text[: text.rfind("\n") + 1] for text in told).splitlines():
            key, n, size = line.split()
            acknowledged[key] = (int(n), int(size))
        with SmartInferenceCache(5000, None, folder) as cache:
            for key, (n, size) in acknowledged.items():
                found = cache.get(key)
                assert found is not None, f"round {number}: {key} was acknowledged and is gone"
                digit = str(int(key.split("-")[0]) % 10)
                written, _, body = found.partition(":")
                assert set(body) == {digit}, "a torn value"
                if int(written) == n:
                    assert len(body) == size
                else:
                    assert int(written) == n + 40, "an older value than the one acknowledged"
                checked += 1
            stats = cache.stats()
            assert (stats.damaged, stats.store_errors) == (0, 0)
            cache._tiers._disk._blobs.delete_abandoned()
            for stray in (folder / "blobs").glob("writing-*"):
                stray.unlink()
            cache._tiers._disk.check_invariants()
    return checked, rounds


def test_kill_9_loses_nothing_acknowledged_and_serves_nothing_torn(tmp_path):
    checked, _ = kill_in_the_middle(tmp_path, 8)
    assert checked > 100


@pytest.mark.slow
def test_kill_9_two_hundred_times(tmp_path):
    checked, _ = kill_in_the_middle(tmp_path, 200)
    assert checked > 2000


def test_the_kill_test_would_find_a_lost_entry(tmp_path, monkeypatch):
    # the control: an entry that was acknowledged, and is taken away before it is checked
    whole = SmartInferenceCache.get

    def losing(self, key, default=None):
        return None if key.endswith("-3") else whole(self, key, default)

    monkeypatch.setattr(SmartInferenceCache, "get", losing)
    with pytest.raises(AssertionError, match="was acknowledged and is gone"):
        kill_in_the_middle(tmp_path, 3)


def ask_all(computing):
    for process in computing:
        process.stdin.write("go\n")
        process.stdin.flush()


def test_processes_and_threads_share_one_computation(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    with processes(COMPUTER, *[(folder, log, 5, 0.3)] * 4) as computing:
        ask_all(computing)
        answers = [process.stdout.readline().split() for process in computing]
    runs = log.read_text().split()
    assert len(runs) == 1
    assert answers == [runs * 5] * 4


def test_in_folders_of_their_own_they_compute_each(tmp_path):
    # the control of the test above
    log = tmp_path / "log"
    with processes(COMPUTER, *[(tmp_path / str(n), log, 5, 0.1) for n in range(2)]) as computing:
        ask_all(computing)
        for process in computing:
            process.stdout.readline()
    assert len(log.read_text().split()) == 2


def test_if_the_process_that_computes_is_killed_another_takes_over(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    with processes(COMPUTER, (folder, log, 3, 60), *[(folder, log, 3, 0.1)] * 2) as (leader, *others):
        ask_all([leader])
        while not log.exists():
            time.sleep(0.005)
        ask_all(others)
        time.sleep(0.2)
        assert log.read_text().split() == [str(leader.pid)], "the others wait"
        leader.kill()
        answers = [process.stdout.readline().split() for process in others]
    first, second = log.read_text().split()
    assert first == str(leader.pid)
    assert second in {str(p.pid) for p in others}
    assert answers == [[second] * 3] * 2


def test_what_another_process_does_is_seen_here(tmp_path):
    code = """
        import sys
        from axolotl_cache import SmartInferenceCache
        cache = SmartInferenceCache(100, 1800, sys.argv[1])
        print("ready", flush=True)
        for line in sys.stdin:
            exec(line)
            print("done", flush=True)
    """
    with SmartInferenceCache(100, 1800, tmp_path) as cache, processes(code, (tmp_path,)) as (other,):

        def do(line):
            other.stdin.write(line + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"

        cache.set("k", "ours", tags=["t"])
        assert cache["k"] == "ours"
        do("cache['k'] = cache['k'] + ' and theirs'")
        assert cache["k"] == "ours and theirs"
        do("cache.invalidate('k')")
        assert "k" not in cache
        for undo in ("cache.cache_clear()", "cache.invalidate(tag='t')", "del cache['k']"):
            cache.set("k", "again", tags=["t"])
            assert cache.contains("k")
            do(undo)
            assert cache.get("k") is None, undo


def test_four_processes_write_to_one_folder_at_once(tmp_path):
    code = """
        import sys
        from axolotl_cache import SmartInferenceCache
        name = sys.argv[2]
        cache = SmartInferenceCache(60, 1800, sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(150):
            key = f"k{(n * int(name)) % 90}"
            cache.set(key, [key, name, "x" * (n % 3) * 60_000])
            found = cache.get(key)
            assert found is None or found[0] == key
        stats = cache.stats()
        print(stats.store_errors, stats.damaged, stats.entries <= 60, flush=True)
    """
    with processes(code, *((tmp_path, seed) for seed in (1, 7, 11, 13))) as writers:
        ask_all(writers)
        assert [w.stdout.readline() for w in writers] == ["0 0 True\n"] * 4
    with SmartInferenceCache(60, 1800, tmp_path) as cache:
        assert len(cache) <= 60
        cache._tiers._disk.check_invariants()


def in_child(work):
    """Fork, run `work` in the child, and return whether it held there."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestFork:
    def test_a_forked_child_reads_and_writes_and_its_parent_sees_it(self, tmp_path):
        with SmartInferenceCache(100, 1800, tmp_path) as cache:
            cache["k"] = "parent"

            def work():
                ok = cache["k"] == "parent"
                cache["k"] = "child"
                return ok and cache["k"] == "child"

            for _ in range(3):
                cache["k"] = "parent"
                assert in_child(work)
                assert cache["k"] == "child"
            cache._tiers._disk.check_invariants()

    def test_a_fork_while_other_threads_write_does_not_hang(self, tmp_path):
        with SmartInferenceCache(500, 1800, tmp_path) as cache:
            stop = threading.Event()

            def write():
                n = 0
                while not stop.is_set():
                    cache[f"k{n % 70}"] = n
                    cache.get(f"k{n % 70}")
                    n += 1

            threads = [threading.Thread(target=write) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:

                def work():
                    cache["mine"] = os.getpid()
                    return cache["mine"] == os.getpid() and len(cache) <= 71

                assert all(in_child(work) for _ in range(10))
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            cache._tiers._disk.check_invariants()

    def test_a_fork_while_a_thread_changes_a_cache_in_memory_does_not_hang(self, monkeypatch):
        cache = SmartInferenceCache(9, 99)
        changing, go_on = threading.Event(), threading.Event()

        def stopped(*arguments, **kwargs):
            changing.set()
            go_on.wait(20)

        def fork_in_the_middle_of(change, work):
            changing.clear()
            go_on.clear()
            thread = threading.Thread(target=change)
            thread.start()
            assert changing.wait(20)
            try:
                return in_child(work)
            finally:
                go_on.set()
                thread.join()

        def work():
            monkeypatch.undo()
            cache["k"] = 1
            return cache.get_or_compute("k", int) == 1 and cache.get_or_compute("l", lambda: 5) == 5

        monkeypatch.setattr(MemoryStore, "_note_deadline", stopped)
        assert fork_in_the_middle_of(lambda: cache.set("x", 1), work)
        monkeypatch.undo()
        monkeypatch.setattr(flight, "Flights", stopped)
        assert fork_in_the_middle_of(cache._single_flight, work)

    def test_a_child_born_during_a_computation_does_not_keep_its_lock(self, tmp_path):
        with SmartInferenceCache(9, 99, tmp_path) as cache, SmartInferenceCache(9, 99, tmp_path) as other:
            born = []

            def compute():
                pid = os.fork()
                if pid == 0:
                    signal.alarm(20)
                    signal.pause()
                born.append(pid)
                raise ValueError

            try:
                with pytest.raises(ValueError):  # noqa: PT011
                    cache.get_or_compute("k", compute)
                assert other.get_or_compute("k", lambda: 5) == 5
            finally:
                os.kill(born[0], signal.SIGKILL)
                os.waitpid(born[0], 0)

    def test_a_child_may_compute_what_its_parent_is_computing(self, tmp_path):
        # the parent's flight is not there in the child, and its lock is: the child waits for the process
        with SmartInferenceCache(9, 99, tmp_path) as cache:
            context = multiprocessing.get_context("fork")
            answers = context.SimpleQueue()
            child = []

            def ask():
                answers.put(cache.get_or_compute("k", lambda: "child"))

            def compute():
                child.append(context.Process(target=ask))
                thread = threading.Thread(target=child[0].start)  # from a thread, which computes nothing
                thread.start()
                thread.join()
                time.sleep(0.1)
                return "parent"

            assert cache.get_or_compute("k", compute) == "parent"
            child[0].join(20)
            assert answers.get() == "parent"
            answers.close()
            child[0].close()
