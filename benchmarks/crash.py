"""Two processes that write to one folder are killed, again and again: what of it is there afterwards?"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

KEYS = 40
CAPACITY = 5000
SIZES = (10, 2000, 50_000, 150_000)


def kill_writers(
    folder: Path, rounds: int, rnd: random.Random, *, tamper: Callable[[Path, str], None] | None = None
) -> dict[str, int]:
    """Kill both writers at a random moment of each round, then read every entry that they acknowledged.

    An entry must hold the value that was acknowledged last, or the one being written when its writer died.
    The writers are forked and not started anew, so that a round takes a fifth of a second.

    Args:
        folder: where they write.
        rounds: how often.
        rnd: decides when they are killed.
        tamper: given the folder and a key that was acknowledged, before the entries are read: the control.

    Returns:
        `rounds`, and how many entries were `checked`, `whole`, `lost` and `torn`; and `killed_while_writing`,
        how many writers had not got through before.
    """
    from axolotl_cache import SmartInferenceCache

    counts = {"rounds": rounds, "checked": 0, "whole": 0, "lost": 0, "torn": 0, "killed_while_writing": 0}
    for number in range(rounds):
        writers = [_fork(folder, 2 * number + which) for which in (0, 1)]
        told = [os.read(pipe, 6) for _, pipe in writers]
        if told != [b"ready\n"] * 2:
            raise RuntimeError(f"a writer did not begin: {told}")
        time.sleep(rnd.uniform(0.005, 0.15))
        for pid, _ in writers:
            os.kill(pid, signal.SIGKILL)
        acknowledged: dict[str, tuple[int, int]] = {}
        for pid, pipe in writers:
            _, status = os.waitpid(pid, 0)
            counts["killed_while_writing"] += os.WIFSIGNALED(status)
            lines = _read_all(pipe)
            for line in lines[: lines.rfind("\n") + 1].splitlines():
                key, n, size = line.split()
                acknowledged[key] = (int(n), int(size))
        if tamper is not None and acknowledged:
            tamper(folder, min(acknowledged))
        with SmartInferenceCache(CAPACITY, None, folder) as cache:
            for key, (n, size) in acknowledged.items():
                counts["checked"] += 1
                counts[_verdict(cache.get(key), key, n, size)] += 1
    return counts


def _fork(folder: Path, seed: int) -> tuple[int, int]:
    """Return a writer's process, and the pipe through which it tells what it has written."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _write(folder, seed, writing)
    os.close(writing)
    return pid, reading


def _write(folder: Path, seed: int, pipe: int) -> NoReturn:
    from axolotl_cache import SmartInferenceCache

    try:
        rnd = random.Random(seed)  # noqa: S311
        cache = SmartInferenceCache(CAPACITY, None, folder)
        os.write(pipe, b"ready\n")
        n = 0
        while True:
            key, size = f"{seed}-{n % KEYS}", rnd.choice(SIZES)
            cache.set(key, f"{n}:" + f"{seed % 10}" * size, tags=["t"])
            # After `set` has returned. One write to the pipe is whole or not there, being short.
            os.write(pipe, f"{key} {n} {size}\n".encode())
            n += 1
    finally:
        os._exit(1)


def _read_all(pipe: int) -> str:
    with os.fdopen(pipe, "rb") as file:
        return file.read().decode()


def _verdict(found: str | None, key: str, n: int, size: int) -> str:
    if found is None:
        return "lost"
    written, _, body = found.partition(":")
    if set(body) != {str(int(key.partition("-")[0]) % 10)}:
        return "torn"
    if int(written) == n:
        return "whole" if len(body) == size else "torn"
    return "whole" if int(written) == n + KEYS else "lost"
