"""Processes that share an encrypted folder, and processes that are killed while they write to it."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from axolotl_cache import SmartInferenceCache

pytest.importorskip("cryptography")

KEY = bytes(range(32))

OTHER = """
    import sys
    from axolotl_cache import SmartInferenceCache
    cache = SmartInferenceCache(100, None, sys.argv[1], encryption_key=bytes(range(32)))
    print(cache.get("mine"), flush=True)
    cache.set("theirs", "of the other process", tags=["t"])
    print("stored", flush=True)
    sys.stdin.readline()
    print(cache.get("mine"), cache.get_or_compute("once", lambda: "computed twice"), flush=True)
"""

WRITER = """
    import sys
    from axolotl_cache import SmartInferenceCache
    cache = SmartInferenceCache(5000, None, sys.argv[1], encryption_key=bytes(range(32)))
    print("ready", flush=True)
    n = 0
    while True:
        key, size = f"{sys.argv[2]}-{n % 40}", (10, 2000, 150_000)[n % 3]
        cache.set(key, f"{n}:" + "canary" * (size // 6), tags=["t"])
        # one write to the pipe is whole or not there, being short
        sys.stdout.write(f"{key} {n} {size}\\n"); sys.stdout.flush()
        n += 1
"""


@contextlib.contextmanager
def started(script, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_two_processes_share_an_encrypted_folder(tmp_path):
    with SmartInferenceCache(100, None, tmp_path, encryption_key=KEY) as cache:
        cache["mine"] = "of this process"
        with started(OTHER, tmp_path) as other:
            assert other.stdout.readline() == "of this process\n"
            assert other.stdout.readline() == "stored\n"
            assert cache["theirs"] == "of the other process"
            assert cache.invalidate(tag="t") == 1
            cache["mine"] = "changed"
            assert cache.get_or_compute("once", lambda: "computed once") == "computed once"
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "changed computed once\n"
        assert cache.stats().damaged == 0


def kill_in_the_middle(folder, rounds):
    """Kill a writer again and again; return how many acknowledged entries were found there, whole."""
    rnd, checked = random.Random(rounds), 0
    for number in range(rounds):
        with started(WRITER, folder, number) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rnd.uniform(0.02, 0.25))
            writer.send_signal(signal.SIGKILL)
            told = writer.stdout.read()
        acknowledged = {}
        for line in told[: told.rfind("\n") + 1].splitlines():
            key, n, size = line.split()
            acknowledged[key] = (int(n), int(size))
        with SmartInferenceCache(5000, None, folder, encryption_key=KEY) as cache:
            for key, (n, size) in acknowledged.items():
                written, _, body = (cache.get(key) or "0:").partition(":")
                assert int(written) in (n, n + 40), f"round {number}: {key}"
                assert int(written) != n or body == "canary" * (size // 6), "a torn value"
                checked += 1
            assert (cache.stats().damaged, cache.stats().store_errors) == (0, 0)
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"canary" in content for content in files)
    return checked


def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_readable(tmp_path):
    assert kill_in_the_middle(tmp_path, 3) > 20


@pytest.mark.slow
def test_kill_9_a_hundred_times(tmp_path):
    assert kill_in_the_middle(tmp_path, 100) > 1000


def test_the_kill_test_would_find_a_lost_entry(tmp_path, monkeypatch):
    whole = SmartInferenceCache.get
    monkeypatch.setattr(
        SmartInferenceCache, "get", lambda self, key: None if "-1" in key else whole(self, key)
    )
    with pytest.raises(AssertionError, match="round 0"):
        kill_in_the_middle(tmp_path, 3)
