"""Two processes that write to one folder are killed, again and again: what of it is there afterwards?"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

KEYS = 40
CAPACITY = 5000

WRITER = """
import random, sys
from axolotl_cache import SmartInferenceCache
folder, seed = sys.argv[1], int(sys.argv[2])
rnd = random.Random(seed)
cache = SmartInferenceCache(5000, None, folder)
print("ready", flush=True)
n = 0
while True:
    key, size = f"{seed}-{n % 40}", rnd.choice([10, 2000, 50_000, 150_000])
    cache.set(key, f"{n}:" + f"{seed % 10}" * size, tags=["t"])
    # After `set` has returned. One write to the pipe is whole or not there, being short.
    sys.stdout.write(f"{key} {n} {size}\\n"); sys.stdout.flush()
    n += 1
"""


def kill_writers(
    folder: Path, rounds: int, rnd: random.Random, *, tamper: Callable[[Path, str], None] | None = None
) -> dict[str, int]:
    """Kill both writers at a random moment of each round, then read every entry that they acknowledged.

    An entry must hold the value that was acknowledged last, or the one being written when its writer died.

    Args:
        folder: where they write.
        rounds: how often.
        rnd: decides when they are killed.
        tamper: given the folder and a key that was acknowledged, before the entries are read: the control.

    Returns:
        `rounds`, and how many entries were `checked`, `whole`, `lost` and `torn`.
    """
    from axolotl_cache import SmartInferenceCache

    counts = {"rounds": rounds, "checked": 0, "whole": 0, "lost": 0, "torn": 0}
    for number in range(rounds):
        writers = [_start(folder, 2 * number + which) for which in (0, 1)]
        for writer in writers:
            _read_line(writer)
        time.sleep(rnd.uniform(0.02, 0.25))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        acknowledged = {}
        for writer in writers:
            told = writer.communicate()[0]
            for line in told[: told.rfind("\n") + 1].splitlines():
                key, n, size = line.split()
                acknowledged[key] = (int(n), int(size))
        if tamper is not None and acknowledged:
            tamper(folder, min(acknowledged))
        with SmartInferenceCache(CAPACITY, None, folder) as cache:
            for key, (n, size) in acknowledged.items():
                counts["checked"] += 1
                counts[_verdict(cache.get(key), key, n, size)] += 1
    return counts


def _start(folder: Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(seed)], stdout=subprocess.PIPE, text=True
    )


def _read_line(process: subprocess.Popen[str]) -> str:
    return "" if process.stdout is None else process.stdout.readline()


def _verdict(found: str | None, key: str, n: int, size: int) -> str:
    if found is None:
        return "lost"
    written, _, body = found.partition(":")
    if set(body) != {str(int(key.partition("-")[0]) % 10)}:
        return "torn"
    if int(written) == n:
        return "whole" if len(body) == size else "torn"
    return "whole" if int(written) == n + KEYS else "lost"
