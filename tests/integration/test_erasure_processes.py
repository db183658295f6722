"""Erasure while other processes have the folder open, and behind one that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import owner_tags
from axolotl_cache.stores import erasure

CANARY = "yellow-canary"

READER = """
    import sys
    from axolotl_cache import SmartInferenceCache
    cache = SmartInferenceCache(100, None, sys.argv[1])
    for line in sys.stdin:
        print(eval(line), flush=True)
"""
HELD = "any('yellow' in str(r.payload) for r in cache._tiers._memory._records.values())"

WRITER = """
    import sys
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.response import owner_tags
    cache = SmartInferenceCache(100, None, sys.argv[1], namespace=sys.argv[2])
    n = 0
    while True:
        size = (1, 100, 20_000)[n % 3]
        cache.set(f"{n % 25}", "yellow-canary" * size, tags=owner_tags(user="ada"))
        n += 1
        if n == 30:
            print("ready", flush=True)
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def files_with_canary(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if CANARY.encode() in path.read_bytes())


def test_a_process_with_the_folder_open_lets_go_with_its_next_call(tmp_path):
    reader = start(READER, tmp_path)

    def asks(line):
        reader.stdin.write(line + "\n")
        reader.stdin.flush()
        return reader.stdout.readline().strip()

    try:
        with SmartInferenceCache(100, None, tmp_path) as cache:
            cache.set("theirs", CANARY, tags=owner_tags(user="ada"))
            cache.set("large", CANARY * 20_000, tags=owner_tags(user="ada"))
            cache.set("another's", "sparrow", tags=owner_tags(user="bob"))
            assert asks("cache.contains('theirs'), len(cache['large'])") == "(True, 260000)"
            assert asks(HELD) == "True"
            assert files_with_canary(tmp_path) != []

            assert cache.erase(user="ada").entries == 2

            assert files_with_canary(tmp_path) == []
            assert asks("cache.get('anything')") == "None"
            assert asks(HELD) == "False"
            assert asks("cache.get('theirs'), cache.get('large')") == "(None, None)"
            assert asks("cache['another\\'s']") == "sparrow"
            assert asks("cache.set('new', 1)") == "True"
        assert files_with_canary(tmp_path) == []
    finally:
        end(reader)


def test_behind_writers_that_were_killed_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "WRITING_SECONDS", 0.1)
    for number in range(3):
        folder = tmp_path / str(number)
        writers = [start(WRITER, folder, namespace) for namespace in ("one", "two")]
        try:
            for writer in writers:
                assert writer.stdout.readline() == "ready\n"
            time.sleep(0.003 * number)
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
        finally:
            for writer in writers:
                end(writer)
        assert files_with_canary(folder) != []
        with SmartInferenceCache(100, None, folder) as cache:
            assert cache.erase(user="ada").entries >= 25
            assert files_with_canary(folder) == []
            assert [*(folder / "blobs").iterdir()] == []
            cache._tiers._disk.check_invariants()
