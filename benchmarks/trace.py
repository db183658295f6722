"""Which policy finds how much of real traffic, and does the engine find what was predicted?

    python benchmarks/trace.py [--quick]
    python benchmarks/trace.py FILE --policy adaptive --capacity-fraction 0.05

Without a file: `lru`, `lfu`, `adaptive` and the offline optimum on the Mooncake conversation trace (its first
30 minutes) and on two others that no policy was made with, in tokens found. The same requests then go through
the real engine, and three traces over HTTP through the real server, with a tiny random model: the counters of
both are compared with the prediction. A gap is what lies between `lru` and the optimum; capacities are shares
of the distinct blocks of a trace.

A file may be of any format that `axolotl-cache profile` reads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from axolotl_cache.prefix import PolicyName
from axolotl_cache.profiling.requests import BlockLog, read_requests
from axolotl_cache.profiling.simulate import capacity_for, distinct_blocks, optimum, simulate
from common import TRACES, emit, say

SEED = 8
MOONCAKE = "mooncake_conversation_0-30min.jsonl.gz"
SOURCES = {
    MOONCAKE: "https://github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl, its "
    "rows of the first 1,800,000 ms (Apache-2.0; Qin et al. 2025)",
    "lmcache_miniswe_dev.jsonl.gz": "https://github.com/LMCache/lmcache-agent-trace, miniswe (Apache-2.0)",
    "taubench_gpt4o_airline_dev.jsonl.gz": "https://github.com/sierra-research/tau-bench, "
    "historical_trajectories/gpt-4o-airline.json (MIT)",
}
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.4, 0.6, 1.0)
GAPS = (0.01, 0.05, 0.1)
PROFILE_FIGURES = ("million_requests_seconds", "million_requests_mib", "planted_causes_found", "false_alarms")


def main() -> None:
    """Answer the question."""
    started = time.time()
    chosen = _arguments()
    if chosen.file is not None:
        figures, rows = _one(chosen.file, chosen.policy, chosen.capacity_fraction)
    else:
        figures, rows = _all(quick=chosen.quick)
    emit("trace", figures=figures, rows=rows, seed=SEED, started=started, packages=(), quick=chosen.quick)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--policy", choices=get_args(PolicyName), default="adaptive")
    parser.add_argument("--capacity-fraction", type=float, default=0.05, help="of the distinct blocks")
    parser.add_argument("--quick", action="store_true", help="the same on less work: a few minutes")
    return parser.parse_args()


def _one(path: Path, policy: PolicyName, fraction: float) -> tuple[dict[str, float], list[dict[str, Any]]]:
    row = _measured(path.name, read_requests([path]), fraction, ("lru", policy))
    rates = row["hit_rates"]
    figures = {
        "hit_rate_lru": rates["lru"],
        "hit_rate_policy": rates[policy],
        "hit_rate_optimum": rates["optimum"],
    }
    return figures, [row]


def _all(*, quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    logs = {name: log for name in SOURCES if (log := _log(name)) is not None}
    rows = [
        _measured(name, log, fraction, get_args(PolicyName))
        for name, log in logs.items()
        for fraction in FRACTIONS
    ]
    figures: dict[str, float] = {}
    for row in rows:
        rates = row["hit_rates"]
        if row["trace"] == MOONCAKE and row["fraction"] in GAPS:
            gap = rates["optimum"] - rates["lru"]
            closed = (rates["adaptive"] - rates["lru"]) / gap if gap else 1.0
            figures[f"gap_closed_{round(100 * row['fraction'])}"] = closed
    if rows:
        below = [100 * (row["hit_rates"]["lru"] - row["hit_rates"]["adaptive"]) for row in rows]
        figures["worst_below_lru_points"] = max(0.0, *below)
    # Text in longer blocks, so that a prompt has as many as fit into the tiny model's context.
    longer = {name: log for name in SOURCES if (log := _log(name, block_tokens=128)) is not None}
    replayed = import_module("replayed").compare(longer, quick=quick, report=say)
    served = import_module("served").compare(logs.get(MOONCAKE), quick=quick, report=say)
    for name, compared in (("engine", replayed), ("server", served)):
        if compared:
            figures[f"{name}_error_points"] = max(row["error_points"] for row in compared)
    if compared := [*replayed, *served]:
        figures["prediction_error_points"] = max(row["error_points"] for row in compared)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("million", "planted"):
            made = import_module(name).figures(Path(folder))
            figures |= {key: value for key, value in made.items() if key in PROFILE_FIGURES}
            rows.append({"part": name, **made})
    return figures, [*rows, *replayed, *served]


def _log(name: str, *, block_tokens: int = 32) -> BlockLog | None:
    path = TRACES / name
    if not path.exists():
        say(f"SKIPPED: {path} is missing. Put it there, or set AXOLOTL_CACHE_TRACES.")
        say(f"It is of {SOURCES[name]}.")
        return None
    return read_requests([path], block_tokens=block_tokens)


def _measured(name: str, log: BlockLog, fraction: float, policies: Sequence[PolicyName]) -> dict[str, Any]:
    """Return the hit rates of one trace at one capacity, as a row of the result."""
    size = log.block_size
    capacity = capacity_for(fraction, log.requests, size)
    best = optimum(log.requests, block_size=size, capacity_blocks=capacity)
    rates = {"optimum": best.hit_rate}
    for policy in dict.fromkeys(policies):
        done = simulate(log.requests, block_size=size, capacity_blocks=capacity, policy=policy)
        rates[policy] = done.hit_rate
    shown = "  ".join(f"{policy} {100 * rate:6.2f}" for policy, rate in rates.items())
    say(f"{name[:24]:24}  {100 * fraction:5.1f} % = {capacity:6} blocks  {shown}")
    return {
        "trace": name,
        "requests": len(log.requests),
        "distinct_blocks": distinct_blocks(log.requests, size),
        "fraction": fraction,
        "capacity_blocks": capacity,
        "hit_rates": rates,
    }


if __name__ == "__main__":
    sys.exit(main())
