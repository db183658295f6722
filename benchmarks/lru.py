"""What does the response cache give when questions repeat, how near is that to the most it can give?

A stream of real customers' questions (Banking77) of which about 35 % were asked before, answered with the
response cache off and on, the prefix cache off on both sides. Repeats of equal cost at hit rate h can give
at most 1 / (1 - h).

    python benchmarks/lru.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import REPOSITORY, arguments, banking77, build, emit, load, say

REPEATS = 0.35
NEW_TOKENS = 16
ENTRIES = 2000
PROMPT_CHARACTERS = 500
SEED = 35
PEERS = REPOSITORY / ".venv-peers"


def workload(questions: list[str], count: int, rng: random.Random) -> list[str]:
    """Return `count` questions, a `REPEATS` share of them asked before."""
    fresh = iter(rng.sample(list(dict.fromkeys(questions)), count))
    asked: list[str] = []
    for _ in range(count):
        repeats = asked and rng.random() < REPEATS
        asked.append(rng.choice(asked) if repeats else next(fresh))
    return asked


def throughput(pipeline: Any, asked: list[str]) -> dict[str, Any]:
    """Answer the stream with the response cache off and on."""
    from axolotl_cache.measure import compare, figures
    from axolotl_cache.request import CacheControl, Message, Request, Sampling

    system = Message("system", "You are the help desk of a bank. Answer in one short sentence.")
    requests = [
        Request(
            messages=(system, Message("user", q)),
            sampling=Sampling(max_new_tokens=NEW_TOKENS),
            cache_control=CacheControl(truncated=True),  # most of these answers are cut off
        )
        for q in asked
    ]
    result = compare(pipeline, requests, done=lambda: None)
    row = {"part": "throughput", **figures(result)}
    say(
        f"{len(asked)} requests, {row['hit_rate']:.0%} hits: {row['requests_per_second_off']:.2f} -> "
        f"{row['requests_per_second_on']:.2f} requests/s (x {row['throughput_on_over_off']:.2f}, at most "
        f"{row['response_ceiling']:.2f}), {row['identical']} of {len(asked)} answers identical"
    )
    return row


def memory_hit(questions: list[str], rounds: int) -> dict[str, Any]:
    """Time generate_key + contains + get, for each of 2,000 entries of 500 characters, persistence on."""
    from axolotl_cache import SmartInferenceCache

    text = " ".join(questions)
    prompts = [text[i * 200 : i * 200 + PROMPT_CHARACTERS] for i in range(ENTRIES)]
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, SmartInferenceCache(ENTRIES, 1800, folder) as cache:
        for prompt in prompts:
            cache.set(cache.generate_key(prompt), prompt[:200])
        for _ in range(rounds):
            for prompt in prompts:
                started = time.perf_counter_ns()
                key = cache.generate_key(prompt)
                if cache.contains(key):
                    cache.get(key)
                times.append((time.perf_counter_ns() - started) / 1e3)
        if cache.stats().hits < rounds * ENTRIES:
            raise RuntimeError("not every lookup was a hit; the figure would be of something else")
    times.sort()
    row = {
        "part": "memory_hit",
        "who": "SmartInferenceCache, persistence on",
        "p50_us": median(times),
        "p99_us": times[int(len(times) * 0.99)],
    }
    say(f"memory hit: p50 {row['p50_us']:.1f} us, p99 {row['p99_us']:.1f} us")
    return row


PEER = """
import hashlib, json, sys, tempfile, time
from statistics import median
prompts, rounds = json.load(sys.stdin)
def run(who, cache):
    key = lambda p: hashlib.sha256(p.encode()).hexdigest()
    for p in prompts:
        cache[key(p)] = p[:200]
    times = []
    for _ in range(rounds):
        for p in prompts:
            t = time.perf_counter_ns()
            k = key(p)
            if k in cache:
                cache[k]
            times.append((time.perf_counter_ns() - t) / 1e3)
    times.sort()
    p99 = times[int(len(times) * 0.99)]
    return {"part": "memory_hit", "who": who, "p50_us": median(times), "p99_us": p99}
import cachetools, diskcache
rows = [run("cachetools.TTLCache (memory only)", cachetools.TTLCache(len(prompts), 1800))]
with tempfile.TemporaryDirectory() as folder:
    rows.append(run("diskcache.Cache (disk)", diskcache.Cache(folder)))
print(json.dumps(rows))
"""


def peers(questions: list[str], rounds: int) -> list[dict[str, Any]]:
    """The same lookup in cachetools (no persistence, no sharing) and diskcache, in their own environment."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        say("peers: left out; benchmarks/prepare installs them")
        return []
    text = " ".join(questions)
    prompts = [text[i * 200 : i * 200 + PROMPT_CHARACTERS] for i in range(ENTRIES)]
    done = subprocess.run(
        [python, "-c", PEER], input=json.dumps([prompts, rounds]), capture_output=True, text=True, check=True
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    for row in rows:
        say(f"  {row['who']}: p50 {row['p50_us']:.1f} us")
    return rows


def import_ms() -> float:
    """Return the median time to import the package and its cache, in new processes, torch not being there."""
    program = (
        "import sys, time; t = time.perf_counter(); import axolotl_cache; axolotl_cache.SmartInferenceCache; "
        "print((time.perf_counter() - t) * 1e3); assert 'torch' not in sys.modules"
    )
    runs = [
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(9)
    ]
    say(f"import axolotl_cache: {median(runs):.0f} ms")
    return median(runs)


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started, rng = time.time(), random.Random(SEED)  # noqa: S311 - a workload, not a secret
    questions = banking77()
    rounds = 3 if options.quick else 10
    hits = [memory_hit(questions, rounds), *peers(questions, rounds)]
    imported = import_ms()

    from axolotl_cache import SmartInferenceCache

    loaded = load(options.dtype)
    with tempfile.TemporaryDirectory() as folder, SmartInferenceCache(ENTRIES, 1800, Path(folder)) as cache:
        pipeline = build(loaded, max_cache_bytes=0, response=cache)
        row = throughput(pipeline, workload(questions, 40 if options.quick else 200, rng))
    emit(
        "lru",
        figures={
            "throughput_on_over_off": row["throughput_on_over_off"],
            "throughput_over_ceiling": row["throughput_on_over_off"] / row["response_ceiling"],
            "hit_rate": row["hit_rate"],
            "mean_latency_reduction": 1 - row["mean_latency_seconds_on"] / row["mean_latency_seconds_off"],
            "identical_fraction": row["identical"] / row["requests"],
            "memory_hit_p50_us": hits[0]["p50_us"],
            "import_ms": imported,
        },
        rows=[row, *hits],
        seed=SEED,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
        new_tokens=NEW_TOKENS,
    )


if __name__ == "__main__":
    main()
