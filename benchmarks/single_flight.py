"""Equal requests at once, from threads and tasks of several processes: how often is their answer computed?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

PROCESSES = 4
CALLERS = 50
"""In each process; half of them threads, half of them tasks of one event loop."""

ASKER = """
import asyncio, json, os, sys, threading, time
from axolotl_cache import SmartInferenceCache
folder, tally, begin, callers = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
cache = SmartInferenceCache(100, None, folder or None)
def note():
    file = os.open(tally, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"computed\\n")
    os.close(file)
def compute():
    note()
    time.sleep(0.5)
    return "the answer"
async def acompute():
    note()
    await asyncio.sleep(0.5)
    return "the answer"
answers = []
def thread():
    answers.append(cache.get_or_compute("k", compute))
async def tasks():
    answers.extend(await asyncio.gather(*(cache.aget_or_compute("k", acompute) for _ in range(callers // 2))))
threads = [threading.Thread(target=thread) for _ in range(callers - callers // 2)]
time.sleep(max(0, begin - time.time()))
for each in threads:
    each.start()
asyncio.run(tasks())
for each in threads:
    each.join()
print(json.dumps(answers))
"""


def computations(folder: Path, *, shared: bool = True) -> dict[str, int]:
    """Ask for one answer from everywhere at once; return how often it was computed.

    Args:
        folder: an empty one.
        shared: whether the processes share a cache folder; the control does not.
    """
    tally, begin = folder / "computed", time.time() + 2.0
    cache = str(folder / "cache") if shared else ""
    command = [sys.executable, "-c", ASKER, cache, str(tally), str(begin), str(CALLERS)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    answers = [answer for process in processes for answer in json.loads(process.communicate()[0])]
    if answers != ["the answer"] * (PROCESSES * CALLERS):
        raise RuntimeError("not everybody got the answer; the figure would be of something else")
    computed = len(tally.read_text(encoding="utf-8").splitlines())
    return {"requests": len(answers), "processes": PROCESSES, "computed": computed}
