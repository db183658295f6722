"""The server under load: how many hits a second, how soon, and what requests in time the cache saves.

    .venv/bin/python benchmarks/serve.py [--quick]

Four parts. (1) Exact hits: the same few requests again and again, against our server and against LiteLLM's
proxy with its memory cache, in turns, both in front of the same stub upstream (`hits`), and against ours with
its own engine (`hits_engine`). (2) A hit in the stream form: until its first byte. (3) Goodput: requests that
arrive as Azure's conversation trace has it, at growing rates, the cache off and on; counted are those whose
first token came within the target. (4) Streams that are left in their midst, each of a session: what is held
for them once nothing runs. The load is made by this process, the servers are others (but for the last part):
what it costs is in the rows.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import arguments, arrivals, banking77, emit, say
from hang_ups import leaks
from load import CONNECTIONS, hammer, open_loop, question, raw_request
from sides import Stub, litellm, ours, source, stub
from workloads import scaled_gaps

SEED = 42
QUESTIONS = 20
TARGET_SECONDS = 1.0


def hits(
    folder: Path, rounds: int, seconds: float, questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Ask ours and LiteLLM's proxy, in turns, for what both have stored."""
    bodies = [question(text) for text in questions[:QUESTIONS]]
    rows: list[dict[str, Any]] = []
    tops: dict[str, list[float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(stub())
        peer = litellm(folder, upstream)
        servers = {"axolotl-cache": stack.enter_context(ours(folder, upstream))}
        if peer is None:
            say("LiteLLM's proxy: left out; benchmarks/prepare installs it")
        else:
            servers["litellm"] = stack.enter_context(peer)
        for url in servers.values():
            before = -1
            while Stub.asked != before:  # until all of them are stored
                before = Stub.asked
                hammer(url, bodies, 2.0)
        stored = Stub.asked
        for number in range(rounds):
            for name, url in servers.items():
                load = hammer(url, bodies, seconds)
                tops.setdefault(name, []).append(load.per_second)
                rows.append(load.row(part="hits", side=name, round=number))
                say(str(rows[-1]))
        if Stub.asked != stored:
            raise RuntimeError(f"{Stub.asked - stored} requests went to the upstream: they were no hits")
    figures = {"exact_hits_per_second": statistics.median(tops["axolotl-cache"])}
    if "litellm" in tops:
        ratios = [mine / theirs for mine, theirs in zip(tops["axolotl-cache"], tops["litellm"], strict=True)]
        figures["exact_hits_per_second_over_litellm"] = statistics.median(ratios)
    return rows, figures


def hits_engine(
    folder: Path, rounds: int, seconds: float, questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Ask ours with its own engine: at the top rate, at half of it, and for streams."""
    bodies = [question(text) for text in questions[:QUESTIONS]]
    rows: list[dict[str, Any]] = []
    p99s, firsts = [], []
    with ours(folder) as url:
        # Some answers read like refusals, and are not stored: those questions are left out.
        bodies = [body for body in bodies if [source(url, body) for _ in range(2)][1] == "hit-exact"]
        streams = [body | {"stream": True} for body in bodies]
        say(f"{len(bodies)} of {QUESTIONS} answers are stored")
        for number in range(rounds):
            top = hammer(url, bodies, seconds)
            half = hammer(url, bodies, seconds, per_second=top.per_second / 2)
            stream = hammer(url, streams, seconds, per_second=top.per_second / 4)
            for part, load in (("hits_engine", top), ("half_rate", half), ("stream", stream)):
                rows.append(load.row(part=part, side="axolotl-cache", round=number))
                say(str(rows[-1]))
            p99s.append(rows[-2]["p99_ms"])
            firsts.append(rows[-1]["first_byte_p50_ms"])
    return rows, {
        "hit_p99_ms": statistics.median(p99s),
        "stream_first_byte_ms": statistics.median(firsts),
    }


def goodput(
    folder: Path, count: int, rates: Sequence[float], questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Let requests arrive as in the trace, the cache off and on."""
    arrived = arrivals(count + 1)
    if arrived is None:
        say("goodput: SKIPPED, azure2023_conv.csv.gz is missing")
        return [], {}
    rng = random.Random(SEED)  # noqa: S311 - no secret
    # Popular questions come again: Zipf's law over a tenth of them.
    pool = rng.sample(questions, max(count // 2, 10))
    weights = [1 / rank for rank in range(1, len(pool) + 1)]
    texts = rng.choices(pool, weights, k=count)
    rows: list[dict[str, Any]] = []
    best: dict[bool, float] = {}
    for rate in rates:
        gaps = scaled_gaps(arrived, count, 1 / rate)
        for caches in (False, True):
            with ours(folder, caches=caches) as url:
                extra = {} if caches else {"Cache-Control": "no-cache, no-store"}
                within = asyncio.run(open_loop(url, texts, gaps, extra))
            good = sum(ttft <= TARGET_SECONDS for ttft in within) / (sum(gaps) or 1)
            best[caches] = max(best.get(caches, 0.0), good)
            rows.append(
                {
                    "part": "goodput",
                    "caches": caches,
                    "rate": rate,
                    "goodput_per_second": round(good, 3),
                    "ttft_p50_seconds": round(statistics.median(within), 3),
                }
            )
            say(str(rows[-1]))
    return rows, {"goodput_on_over_off": best[True] / max(best[False], 1e-9)}


def main() -> None:
    """Run all parts."""
    options = arguments(__doc__)
    started = time.time()
    rounds, seconds = (3, 3.0) if options.quick else (5, 10.0)
    questions = list(dict.fromkeys(banking77()))
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}

    def left_midway(folder: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
        row = leaks(folder, 60 if options.quick else 600, SEED, raw_request)
        say(str(row))
        return [row], {name: row[name] for name in ("leaked_blocks", "leaked_sessions")}

    with tempfile.TemporaryDirectory() as folder:
        for part in (
            lambda: hits(Path(folder), rounds, seconds, questions),
            lambda: hits_engine(Path(folder), rounds, seconds, questions),
            lambda: goodput(
                Path(folder),
                40 if options.quick else 300,
                (2.0,) if options.quick else (1.0, 2.0, 4.0, 8.0),
                questions,
            ),
            lambda: left_midway(Path(folder)),
        ):
            more, found = part()
            rows += more
            figures |= found
    emit(
        "serve",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=("uvicorn", "uvloop", "httptools", "pydantic", "torch", "transformers"),
        connections=CONNECTIONS,
        target_seconds=TARGET_SECONDS,
    )


if __name__ == "__main__":
    main()
