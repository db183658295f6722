"""What does the response cache cost, what does a crash cost it, and which policy keeps what is wanted?

Needs no model. Prompts of 500 characters, values of 2,000; peers in an environment of their own.

    python benchmarks/response.py [--quick]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from common import REPOSITORY, arguments, emit, say
from crash import kill_writers
from single_flight import computations

ENTRIES = 2000
MANY = 100_000
PROMPT_CHARACTERS, VALUE_CHARACTERS = 500, 2000
SEED = 4
PEERS = REPOSITORY / ".venv-peers"
LLM_PEERS = REPOSITORY / ".venv-peers-llm"
LLM_SIDES = (
    "GPTCache, exact, in memory",
    "LangChain InMemoryCache",
    "LangChain SQLiteCache",
    "LangChain InMemoryCache, bare lookup",
    "LiteLLM local",
    "LiteLLM disk",
)
"""See peers/llm_cache_side.py. RedisVL's cache is not among them: it needs a Redis with a search module."""

# One program for every side, so that all of them do the same: make the key, look, and get the value.
SIDE = """
import hashlib, json, os, sys, time
side, step, folder = sys.argv[1:4]
entries, rounds = map(int, sys.argv[4:])
prompts = [(f"{n}: a question that somebody asked, " * 30)[:500] for n in range(entries)]
if side == "ours":
    from axolotl_cache import SmartInferenceCache
    cache = SmartInferenceCache(entries, 1800, folder)
    key = cache.generate_key
    put, get = cache.set, cache.get
else:
    key = lambda prompt: hashlib.sha256(prompt.encode()).hexdigest()
    if side == "cachetools":
        import cachetools
        cache = cachetools.TTLCache(entries, 1800)
    else:
        import diskcache
        cache = diskcache.Cache(folder, eviction_policy="least-recently-used", size_limit=2**40)
    put, get = cache.__setitem__, cache.__getitem__
def timed(work):
    times = []
    for n, prompt in enumerate(prompts):
        started = time.perf_counter_ns()
        work(n, prompt)
        times.append((time.perf_counter_ns() - started) / 1e3)
    return times
def store(n, prompt):
    put(key(prompt), f"{n}:" + "x" * 2000)
def look(n, prompt):
    k = key(prompt)
    if k in cache:
        get(k)
times = {"set": [], "get": []}
if step != "read":
    times["set"] = timed(store)
for _ in range(rounds):
    times["get"] += timed(look)
if any(get(key(prompt)) != f"{n}:" + "x" * 2000 for n, prompt in enumerate(prompts)):
    raise SystemExit("not every lookup was a hit; the figure would be of something else")
if hasattr(cache, "close"):
    cache.close()
def summary(us):
    us.sort()
    return {"p50_us": us[len(us) // 2], "p99_us": us[int(len(us) * 0.99)]} if us else {}
print(json.dumps({name: summary(us) for name, us in times.items()}))
"""

OPEN = """
import sys, time
import axolotl_cache, axolotl_cache.stores.sqlite
from axolotl_cache import SmartInferenceCache
started = time.perf_counter()
cache = SmartInferenceCache(int(sys.argv[2]), None, sys.argv[1])
cache.get("k7")
print(time.perf_counter() - started)
"""


def run_side(side: str, step: str, folder: Path, rounds: int) -> dict[str, Any] | None:
    """Run one side in a new process; None where its environment is missing."""
    python = Path(sys.executable) if side == "ours" else PEERS / "bin" / "python"
    if not python.exists():
        return None
    command = [python, "-c", SIDE, side, step, folder, str(ENTRIES), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def latencies(repeats: int) -> list[dict[str, Any]]:
    """Time set and hit, in memory and on disk (each folder read by a new process); sides take turns."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    sizes: dict[str, float] = {}
    for _ in range(repeats):
        for side in ("ours", "cachetools", "diskcache"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                written = run_side(side, "write", folder, 5)
                if written is None:
                    continue
                found.setdefault((side, "set"), []).append(written["set"])
                found.setdefault((side, "hit"), []).append(written["get"])
                if side != "cachetools":
                    sizes[side] = bytes_in(folder) / ENTRIES
                    read = run_side(side, "read", folder, 1)
                    if read is not None:
                        found.setdefault((side, "disk hit, new process"), []).append(read["get"])
    rows = []
    for (side, what), runs in found.items():
        row = {"part": "latency", "side": side, "what": what}
        row |= {name: median(run[name] for run in runs) for name in ("p50_us", "p99_us")}
        rows.append(row)
        say(f"{side:>10}, {what}: p50 {row['p50_us']:.1f} us, p99 {row['p99_us']:.1f} us")
    for side, size in sizes.items():
        rows.append({"part": "size", "side": side, "bytes_per_entry": size})
        say(f"{side:>10}, on disk: {size:,.0f} bytes an entry of {VALUE_CHARACTERS} characters")
    if len(sizes) == 1:
        say("peers: left out; benchmarks/prepare installs them")
    return rows


def llm_caches(repeats: int) -> list[dict[str, Any]]:
    """Time the caches for language models: each call as its own documentation has it, in turns."""
    python = LLM_PEERS / "bin" / "python"
    if not python.exists():
        say("caches for language models: left out; benchmarks/prepare installs them")
        return []
    script = str(REPOSITORY / "benchmarks" / "peers" / "llm_cache_side.py")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for side in LLM_SIDES:
            with tempfile.TemporaryDirectory() as folder:
                command = [str(python), script, side, folder, str(ENTRIES // 4), "3"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                say(f"{side}: does not run here: {done.stderr.strip().splitlines()[-1]}")
                continue
            for what, times in json.loads(done.stdout.splitlines()[-1]).items():
                found.setdefault((side, what), []).append(times)
    rows = []
    for (side, what), runs in found.items():
        row: dict[str, Any] = {"part": "llm caches", "side": side, "what": what}
        row |= {name: median(run[name] for run in runs) for name in ("p50_us", "p99_us")}
        rows.append(row)
        say(f"{side}, {what}: p50 {row['p50_us']:.1f} us, p99 {row['p99_us']:.1f} us")
    return rows


def equal_requests() -> list[dict[str, Any]]:
    """Ask for one answer 200 times at once from 4 processes; and as a control from 4 that share nothing."""
    rows = []
    for part, shared in (("single flight", True), ("single flight, control: nothing shared", False)):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"part": part} | computations(Path(folder), shared=shared))
        say(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    if rows[1]["computed"] == 1:
        raise RuntimeError("the control computed once, too: the test is blind")
    return rows


def bytes_in(folder: Path) -> int:
    """Return what the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def opening(repeats: int) -> dict[str, Any]:
    """Time opening a folder of 100,000 entries and reading one, in new processes."""
    from axolotl_cache.stores import Record, SqliteStore

    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(folder, MANY)
        started = time.perf_counter()
        for n in range(MANY):
            store.put(f"k{n}", Record(b"x" * 200, "text", time.time()), 0.0)
        written = time.perf_counter() - started
        store.close()
        command = [sys.executable, "-c", OPEN, folder, str(MANY)]
        times = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(repeats)
        ]
    row = {"part": "opening", "entries": MANY, "seconds": median(times), "written_seconds": written}
    say(f"opening {MANY:,} entries, and one read: {row['seconds'] * 1e3:.1f} ms")
    return row


def crashes(rounds: int, rnd: random.Random) -> list[dict[str, Any]]:
    """Kill writers; then once more with an entry taken away and one torn, which must be found out."""
    import sqlite3

    def take_away(folder: Path, key: str) -> None:
        database = sqlite3.connect(folder / "cache.sqlite3")
        database.execute("DELETE FROM entries WHERE key = ?", (key.encode(),))
        database.commit()
        database.close()

    def tear(folder: Path, key: str) -> None:
        from axolotl_cache import SmartInferenceCache

        with SmartInferenceCache(5000, None, folder) as cache:
            cache[key] = cache[key][:-3] + "end"

    rows = []
    for part, count, tamper in (
        ("kill9", rounds, None),
        ("control: taken away", 3, take_away),
        ("control: torn", 3, tear),
    ):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"part": part} | kill_writers(Path(folder), count, rnd, tamper=tamper))
        say(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    if rows[1]["lost"] == 0 or rows[2]["torn"] == 0:
        raise RuntimeError("the control was not noticed: the crash test is blind")
    return rows


def zipf(rnd: random.Random, keys: int, uses: int) -> list[int]:
    """Return keys by rank, the n-th wanted in proportion to n ** -0.9."""
    return rnd.choices(
        range(keys), cum_weights=list(accumulate((n + 1) ** -0.9 for n in range(keys))), k=uses
    )


def workloads(rnd: random.Random, capacity: int, uses: int) -> Iterator[tuple[str, list[str]]]:
    """Yield keys in the order in which they are wanted."""
    wanted = zipf(rnd, 20 * capacity, uses)
    half = uses // 2
    yield "zipf", [f"k{n}" for n in wanted]
    shifted = [n if at < half else (n + 10 * capacity) % (20 * capacity) for at, n in enumerate(wanted)]
    yield "zipf, shifted in the middle", [f"k{n}" for n in shifted]
    # Nine of ten wanted keys are of a hot set of half the capacity, in between come scans of 2 x capacity.
    scanned: list[str] = []
    while len(scanned) < uses:
        scanned += [f"hot{rnd.randrange(capacity // 2)}" for _ in range(4 * capacity)]
        scanned += [f"once{len(scanned) + n}" for n in range(2 * capacity)]
    yield "hot set, and scans", scanned[:uses]
    yield "lately used", [f"k{at // 3 - int(rnd.expovariate(3 / capacity))}" for at in range(uses)]


def hit_rates(rnd: random.Random, capacity: int, uses: int) -> list[dict[str, Any]]:
    """Ask for each key, and store what is not there, under each policy."""
    from axolotl_cache import SmartInferenceCache

    rows = []
    for name, keys in workloads(rnd, capacity, uses):
        row: dict[str, Any] = {"part": "policies", "workload": name, "capacity": capacity, "uses": len(keys)}
        for policy in ("lru", "lfu", "adaptive"):
            with SmartInferenceCache(capacity, None, policy=policy) as cache:
                for key in keys:
                    if cache.get(key) is None:
                        cache.set(key, 1)
                row[policy] = cache.stats().hit_rate
        rows.append(row)
        say(f"{name}: " + ", ".join(f"{policy} {row[policy]:.1%}" for policy in ("lru", "lfu", "adaptive")))
    return rows


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started, rnd = time.time(), random.Random(SEED)  # noqa: S311 - a workload, not a secret
    timed = latencies(3 if options.quick else 9)
    llm = llm_caches(1 if options.quick else 5)
    flights = equal_requests()
    opened = opening(5)
    killed = crashes(50 if options.quick else 1000, rnd)
    rates = hit_rates(rnd, 500, 30_000 if options.quick else 300_000)
    p50 = {(row["side"], row["what"]): row["p50_us"] for row in timed if row["part"] == "latency"}
    figures = {
        "memory_hit_p50_us": p50["ours", "hit"],
        "disk_hit_p50_us": p50["ours", "disk hit, new process"],
        "kill9_acknowledged_lost": killed[0]["lost"],
        "kill9_torn": killed[0]["torn"],
        "kill9_rounds": killed[0]["rounds"],
        "single_flight_computations": flights[0]["computed"],
    }
    whole = [row["p50_us"] for row in llm if row["what"] == "get" and "bare" not in row["side"]]
    if whole:
        figures["faster_than_best_llm_cache"] = min(whole) / p50["ours", "hit"]
    if ("cachetools", "hit") in p50:
        figures["slower_than_cachetools"] = p50["ours", "hit"] / p50["cachetools", "hit"]
    emit(
        "response",
        figures=figures,
        rows=[*timed, *llm, *flights, opened, *killed, *rates],
        seed=SEED,
        started=started,
        packages=(),
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
