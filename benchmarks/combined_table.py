"""The table and the picture of docs/design/combined.md, from the committed result of combined.py.

python benchmarks/combined_table.py            print the table
python benchmarks/combined_table.py --write    put it into the page, and draw docs/images/combined.png
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = REPOSITORY / "benchmarks" / "results" / "combined-bfloat16.json"
PAGE = REPOSITORY / "docs" / "design" / "combined.md"
PICTURE = REPOSITORY / "docs" / "images" / "combined.png"
BEGIN = "<!-- measured: made by benchmarks/combined_table.py -->"
END = "<!-- end of what was measured -->"
AXES = {
    "repeats": "repeats, share of the requests",
    "shared_tokens": "system prompt, tokens",
    "new_tokens": "answer, tokens",
}


def table(result: dict[str, Any]) -> str:
    """Return what was measured, as the page has it."""
    figures, rows, settings = result["figures"], result["rows"], result["settings"]
    measured = [row for row in rows if row["part"] == "saturated"]
    lines = [
        f"{settings['requests']} requests, answers of {settings['new_tokens']} tokens; "
        f"{result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores, {settings['dtype']}, {result['date']}"
        + (" (`--quick`)" if settings["quick"] else "")
        + ".",
        "",
        "| tiers on | requests/s | x off | prompt tokens | answer tokens | cost less | new | identical |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {row['side'].replace('+', ' + ')} | {row['requests_per_second']:.2f} | {row['over_off']:.2f} "
            f"| {row['prefill_tokens']:,} | {row['decode_tokens']:,} | {row['cost_reduction']:.0%} "
            f"| {row['utilisation']:.0%} | {row['identical']} of {row['requests']} |"
            for row in measured
        ),
        "",
        f"The response tier's hit rate is {figures['response_hit_rate']:.0%}: alone it can give at most "
        f"{figures['throughput_only_response_ceiling']:.2f} x, and gave "
        f"{figures['throughput_only_response']:.2f} x. With the start's pinning counted, all on is "
        f"{figures['throughput_on_over_off_with_start']:.2f} x.",
        "",
        f"| at equal load, {figures['load_requests_per_second']:.2f} requests/s | off | on | less |",
        "|---|--:|--:|--:|",
        *_latencies([row for row in rows if row["part"] == "equal load"]),
        "",
        "| share of it that came from | prefix | session | response |",
        "|---|--:|--:|--:|",
        *(
            f"| {what} | "
            + " | ".join(
                f"{figures[f'{key}_share_{tier}']:.0%}" for tier in ("prefix", "session", "response")
            )
            + " |"
            for what, key in (
                ("throughput (of its logarithm)", "throughput"),
                ("cost", "cost"),
                ("mean latency", "latency"),
            )
        ),
    ]
    return "\n".join(lines)


def _latencies(rows: Sequence[dict[str, Any]]) -> list[str]:
    off, on = rows
    names = {
        "mean_latency_seconds": "latency, mean",
        "p95_latency_seconds": "latency, p95",
        "p99_latency_seconds": "latency, p99",
        "median_ttft_seconds": "time to first token, median",
    }
    return [
        f"| {name} | {off[key]:.2f} s | {on[key]:.2f} s | {1 - on[key] / off[key]:.0%} |"
        for key, name in names.items()
    ]


def put_in(text: str, result: dict[str, Any]) -> str:
    """Return the page with what was measured made anew."""
    made = f"{BEGIN}\n\n{table(result)}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.DOTALL)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw each side's throughput, and off against on over the mix."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(10, 6.6), layout="constrained")
    top, below = figure.subfigures(2, 1)
    sides = [row for row in result["rows"] if row["part"] == "saturated"]
    bars = top.subplots()
    names = [row["side"].replace("+", " +\n") for row in sides]
    drawn = bars.bar(names, [row["over_off"] for row in sides], color="#2a6fdb")
    drawn[0].set_color("#c9ced6")
    drawn[-1].set_color("#0a7d55")
    bars.bar_label(drawn, fmt="%.2f x", padding=2)
    bars.margins(y=0.12)
    bars.set(ylabel="requests/s, over cache off", title="A day of two help desks, each set of tiers")
    curves = [row for row in result["rows"] if row["part"] == "curve"]
    for axes, (axis, label) in zip(below.subplots(1, len(AXES)), AXES.items(), strict=True):
        points = sorted(
            (row["value"], row["throughput_on_over_off"]) for row in curves if row["axis"] == axis
        )
        axes.plot(*zip(*points, strict=True), marker="o", color="#0a7d55")
        axes.set(xlabel=label, ylabel="requests/s, on over off", ylim=(0, None))
        axes.axhline(1, color="#c9ced6", linewidth=1)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    for spine in ("top", "right"):
        bars.spines[spine].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT, help="another result than the committed one")
    options = parser.parse_args()
    if not options.result.exists():
        raise SystemExit(f"{options.result} is missing: benchmarks/combined.py makes it")
    result = json.loads(options.result.read_text(encoding="utf-8"))
    if options.write:
        PAGE.write_text(put_in(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")
        draw(result, PICTURE)
    else:
        print(table(result))


if __name__ == "__main__":
    main()
