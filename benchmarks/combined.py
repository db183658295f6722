"""What do the three tiers bring together, on a day of a help desk, and how much does each of them?

A day (helpdesk.py) is sent to the same engine with everything off, with each tier alone, with each pair,
and with all on; every side runs many requests at once. First as fast as they are answered, for the
throughput and for what was computed; then off and on at the same load, the arrival times of Azure's trace at
70 % of what the side without cache can take, for the latency. Then the same off and on for other mixes: more
and fewer repeats, longer and shorter shared prompts and answers. Every answer is greedy and has the same
number of tokens on every side.

    python benchmarks/combined.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from typing import Any

import loops
from accounts import shares
from common import arguments, arrivals, emit, load, say
from helpdesk import Asked, Mix, read
from measured import LATENCIES, Bench, Measured, cost_of, row_of, same
from switched import OFF, ON, TIERS
from workloads import exponential_gaps, scaled_gaps

SEED = 10
LOAD = 0.7
"""Of the requests per second that the side without cache answers when it is never idle."""
SIDES = [frozenset(each) for size in range(len(TIERS) + 1) for each in combinations(TIERS, size)]
Rows = list[dict[str, Any]]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a run does."""

    requests: int
    requests_a_point: int
    repeats: Sequence[float]
    shared_tokens: Sequence[int]
    new_tokens: Sequence[int]


FULL = Size(96, 12, (0.0, 0.2, 0.4, 0.6), (0, 500, 1000, 2000), (16, 64, 256))
QUICK = Size(10, 5, (0.0, 0.6), (0, 1000), (128,))


def saturated(bench: Bench, asked: Sequence[Asked], new_tokens: int) -> tuple[Rows, Figures]:
    """Measure every subset of the tiers, as fast as they answer."""
    found = {side: bench.measure(asked, new_tokens, side) for side in SIDES}
    off, on = found[OFF], found[ON]
    price = off.seconds_a_token
    rows = []
    for measured in found.values():
        row = {"part": "saturated", **row_of(measured, off, price)}
        rows.append(row)
        _say(row)
    rate = {side: each.run.requests_per_second for side, each in found.items()}
    speed = shares({side: math.log(each) for side, each in rate.items()})
    cost = shares({side: -each.cost(price) for side, each in found.items()})
    stored = found[frozenset({"response"})].hits
    spared = cost_of(off, price, stored)
    answers = len(asked) * (len(SIDES) - 1)
    figures = {
        "throughput_on_over_off": rate[ON] / rate[OFF],
        "throughput_on_over_off_with_start": len(asked) / (on.run.seconds + on.pin_seconds) / rate[OFF],
        **{f"throughput_only_{name}": rate[frozenset({name})] / rate[OFF] for name in TIERS},
        **{
            f"throughput_{'_and_'.join(sorted(pair))}": rate[pair] / rate[OFF]
            for pair in SIDES
            if len(pair) == 2
        },
        "response_hit_rate": sum(stored) / len(stored),
        # What repeats alone could give: 1 / (1 - hit rate), each request weighted by its cost without cache.
        "throughput_only_response_ceiling": 1 / (1 - spared),
        "cost_reduction": 1 - on.cost(price) / off.cost(price),
        "prefill_tokens_off": off.computed.prefill,
        "prefill_tokens_on": on.computed.prefill,
        "decode_tokens_off": off.computed.decode,
        "decode_tokens_on": on.computed.decode,
        "utilisation_off": off.utilisation,
        "utilisation_on": on.utilisation,
        "identical_fraction": sum(row["identical"] for row in rows if row["side"] != "off") / answers,
        **{f"throughput_share_{name}": share for name, share in speed.items()},
        **{f"cost_share_{name}": share for name, share in cost.items()},
    }
    return rows, figures


def at_equal_load(
    bench: Bench, asked: Sequence[Asked], new_tokens: int, capacity: float
) -> tuple[Rows, Figures]:
    """Send the day at given times, off and on.

    Args:
        bench: answers it.
        asked: the day.
        new_tokens: of each answer.
        capacity: requests per second without cache.
    """
    mean = 1 / (LOAD * capacity)
    recorded = arrivals(len(asked) + 1)
    if recorded is None:
        say("Azure's trace is missing: arrivals that know nothing of each other instead")
        gaps = exponential_gaps(len(asked), mean, random.Random(SEED))  # noqa: S311 - a workload
    else:
        gaps = scaled_gaps(recorded, len(asked), mean)
    at = list(accumulate(gaps[:-1], initial=0.0))
    off, on = (bench.measure(asked, new_tokens, side, at) for side in (OFF, ON))
    rows: Rows = []
    for measured in (off, on):
        row = {"part": "equal load", **row_of(measured, off, off.seconds_a_token)}
        rows.append(row)
        _say(row)
    latency = {name: 1 - rows[1][name] / rows[0][name] for name in LATENCIES}
    figures = {
        "mean_latency_reduction": latency["mean_latency_seconds"],
        "p95_latency_reduction": latency["p95_latency_seconds"],
        "p99_latency_reduction": latency["p99_latency_seconds"],
        "ttft_reduction": latency["median_ttft_seconds"],
        "load_requests_per_second": len(asked) / sum(gaps),
        "identical_fraction_at_equal_load": rows[1]["identical"] / len(asked),
        **{f"latency_share_{name}": share for name, share in _latency_shares(bench, asked, off, on).items()},
    }
    return rows, figures


def curves(bench: Bench, size: Size) -> Rows:
    """Measure off and on for mixes that differ from the day's in one thing each."""
    base = Mix(size.requests_a_point)
    points: list[tuple[str, float, Mix]] = [
        *(("repeats", value, replace(base, repeats=value)) for value in size.repeats),
        *(("shared_tokens", value, replace(base, shared_tokens=value)) for value in size.shared_tokens),
        *(("new_tokens", value, replace(base, new_tokens=value)) for value in size.new_tokens),
        ("as the day", 0, base),
    ]
    rows = []
    for axis, value, mix in points:
        asked = bench.day(mix)
        off, on = (bench.measure(asked, mix.new_tokens, side) for side in (OFF, ON))
        row = {
            "part": "curve",
            "axis": axis,
            "value": value,
            "requests": len(asked),
            "prompt_tokens": off.computed.prefill,
            "hit_rate": sum(on.hits) / len(asked),
            "throughput_on_over_off": off.run.seconds / on.run.seconds,
            "cost_reduction": 1 - on.cost(off.seconds_a_token) / off.cost(off.seconds_a_token),
            "identical": same(off, on),
        }
        rows.append(row)
        say(
            f"{axis} {value:g}: x {row['throughput_on_over_off']:.2f}, {row['cost_reduction']:.0%} less to "
            f"compute, {row['identical']} of {len(asked)} identical"
        )
    return rows


def _latency_shares(bench: Bench, asked: Sequence[Asked], off: Measured, on: Measured) -> dict[str, float]:
    """Return which part of the time that requests were quicker each tier brought, by who served them.

    What a stored answer saved is the response tier's; what another saved is shared between prefix and session
    by the tokens that lay in the system prompt and behind it.
    """
    saved = dict.fromkeys(TIERS, 0.0)
    for each, before, after in zip(asked, off.run.replies, on.run.replies, strict=True):
        gained = before.seconds - after.seconds
        cached = after.answer.usage.cached_tokens
        if after.answer.served.is_stored:
            saved["response"] += gained
        elif cached:
            head = min(cached, bench.desk.head_tokens(each.system)) / cached
            saved["prefix"] += gained * head
            saved["session"] += gained * (1 - head)
    return {name: value / sum(saved.values()) for name, value in saved.items()}


def _say(row: Mapping[str, Any]) -> None:
    say(
        f"{row['part']:10}  {row['side']:23}  {row['requests_per_second']:6.3f} requests/s "
        f"(x {row['over_off']:.2f})  mean {row['mean_latency_seconds']:6.2f} s  "
        f"first token {row['median_ttft_seconds']:6.2f} s  "
        f"{row['prefill_tokens']:7,} + {row['decode_tokens']:5,} tokens  new {row['utilisation']:.0%}  "
        f"stored {row['hit_rate']:.0%}  {row['identical']} of {row['requests']} identical"
    )


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started = time.time()
    size = QUICK if options.quick else FULL
    parts = read()
    bench = Bench(load(options.dtype), parts, SEED)
    mix = Mix(size.requests)
    asked = bench.day(mix)
    bench.measure(asked[:2], 4, OFF)  # the first computation of a process takes longer
    rows, figures = saturated(bench, asked, mix.new_tokens)
    capacity = rows[0]["requests_per_second"]
    more, measured = at_equal_load(bench, asked, mix.new_tokens, capacity)
    rows += more
    figures |= measured
    rows += curves(bench, size)
    emit(
        "combined",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
        requests=mix.requests,
        repeats=mix.repeats,
        new_tokens=mix.new_tokens,
        in_flight=loops.IN_FLIGHT,
        load=LOAD,
        exactness=bench.desk.engine.exactness.mode,
    )


if __name__ == "__main__":
    main()
