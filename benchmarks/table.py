"""Write the measured table of both READMEs from the committed results.

python benchmarks/table.py            print it
python benchmarks/table.py --write    put it into README.md and README.zh-CN.md
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pages import RESULTS, result

REPOSITORY = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- measured table: made by benchmarks/table.py -->", "<!-- end of the measured table -->"

WORDS = {
    "README.md": {
        "head": ("SmolLM2-135M-Instruct, bfloat16, 2 CPU cores", "cache off", "cache on", "change"),
        "day": "A day of two help desks, {0} requests, all three tiers: requests/s when saturated",
        "day_latency": "the same, at equal load: time to the whole answer, mean",
        "day_ttft": "the same, at equal load: time to first token, median",
        "day_tokens": "the same: prompt and answer tokens computed",
        "day_identical": "the same: answers identical, all sides",
        "throughput": "Help desk demo, 60 questions, 35 % repeats: requests/s",
        "ttft": "the same: time to first token, median",
        "latency": "the same: time to the whole answer, mean",
        "tokens": "the same: prompt tokens computed",
        "identical": "the same: answers identical",
        "hit": "Time to first token behind a shared prefix of {0:,} tokens",
        "lru": "Response cache alone, 35 % hits: requests/s (at most {0:.2f} x is possible)",
        "shared512": "32 requests at once behind 512 shared tokens: tokens/s, against {0}",
        "mixed": "Requests of 64 to 1,500 tokens that arrive one after another: tokens/s, against {0}",
        "unshared": "Nothing shared or repeated: throughput",
        "exact": "{0} real questions behind prefixes of 100 to 2,000 tokens: greedy answers identical",
        "sessions": "{0} turns of conversations about shared bookings: prompt tokens computed",
        "sessions_ttft": "the same: time to first token, median",
        "memory": "A response hit in memory: key, lookup and value",
        "of": "{0} of {1}",
    },
    "README.zh-CN.md": {
        "head": ("SmolLM2-135M-Instruct，bfloat16，2 个 CPU 核心", "缓存关", "缓存开", "变化"),
        "day": "两个客服台的一天，{0} 个请求，三级缓存全开：饱和时请求/秒",
        "day_latency": "同上，相同负载：完整回答时间（平均）",
        "day_ttft": "同上，相同负载：首 token 时间（中位数）",
        "day_tokens": "同上：实际计算的提示与回答 token",
        "day_identical": "同上：回答完全一致（所有组合）",
        "throughput": "客服演示，60 个问题，35% 重复：请求/秒",
        "ttft": "同上：首 token 时间（中位数）",
        "latency": "同上：完整回答时间（平均）",
        "tokens": "同上：实际计算的提示 token",
        "identical": "同上：回答完全一致",
        "hit": "共享前缀 {0:,} token 时的首 token 时间",
        "lru": "仅响应缓存，35% 命中：请求/秒（理论上限 {0:.2f} 倍）",
        "shared512": "32 个请求同时到达，共享 512 token 前缀：token/秒，对比 {0}",
        "mixed": "64 至 1,500 token 的请求陆续到达：token/秒，对比 {0}",
        "unshared": "完全无共享、无重复：吞吐量",
        "exact": "{0} 个真实问题，前缀 100 至 2,000 token：贪心回答完全一致",
        "sessions": "围绕共同订座记录的多轮对话，共 {0} 轮：实际计算的提示 token",
        "sessions_ttft": "同上：首 token 时间（中位数）",
        "memory": "内存中的一次响应命中：生成键、查找并取值",
        "of": "{0} / {1}",
    },
}


def table(words: dict[str, Any]) -> str:
    """Return the table in one language."""
    demo, lru, prefix, engine = (result(f"{n}-bfloat16") for n in ("demo", "lru", "prefix", "engine"))
    figures, repeats = demo["figures"], lru["rows"][0]
    exact = [row for row in prefix["rows"] if row["part"] == "identical"]
    rows = [
        *_day(words),
        _row(words["throughput"], figures, "requests_per_second", "{:.2f}"),
        _row(words["ttft"], figures, "ttft_median_seconds", "{:.0f} ms", 1e3),
        _row(words["latency"], figures, "mean_latency_seconds", "{:.0f} ms", 1e3),
        _row(words["tokens"], figures, "prefill_tokens", "{:,}"),
        (words["identical"], "", words["of"].format(figures["identical"], figures["requests"]), ""),
    ]
    for row in prefix["rows"]:
        if row["part"] == "ttft" and row["prefix_tokens"] in {512, 2048}:
            times = (
                f"{row['cold_ms']:.0f} ms",
                f"{row['hit_ms']:.0f} ms",
                f"{1 / row['cold_over_hit']:.2f} x",
            )
            rows.append((words["hit"].format(row["prefix_tokens"]), *times))
    for workload, peers in (("shared512", None), ("mixed", {"transformers generate"})):
        sides = {
            row["side"]: row["tokens_per_second"]
            for row in engine["rows"]
            if row["part"] == "throughput" and row["workload"] == workload
        }
        ours = sides.pop("axolotl-cache")
        for side, theirs in sides.items():
            if peers is None or side in peers:
                cells = (f"{theirs:.0f}", f"{ours:.0f}", f"{ours / theirs:.1f} x")
                rows.append((words[workload].format(side), *cells))
    rows += _sessions(words)
    rows += [
        _row(words["lru"].format(repeats["response_ceiling"]), repeats, "requests_per_second", "{:.2f}"),
        (words["unshared"], "", "", f"{prefix['figures']['throughput_no_hits_on_over_off']:.2f} x"),
        (
            words["exact"].format(sum(row["requests"] for row in exact)),
            "",
            words["of"].format(sum(r["identical"] for r in exact), sum(r["requests"] for r in exact)),
            "",
        ),
        (words["memory"], "", f"{lru['figures']['memory_hit_p50_us']:.1f} µs", ""),
    ]
    lines = [words["head"], ("---", "--:", "--:", "--:"), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _day(words: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the rows of combined.py; none while its result is not there."""
    if not (RESULTS / "combined-bfloat16.json").exists():
        return []
    rows = result("combined-bfloat16")["rows"]
    sides = [row for row in rows if row["part"] == "saturated"]
    off, on = sides[0], sides[-1]
    calm_off, calm_on = (row for row in rows if row["part"] == "equal load")
    tokens = [row["prefill_tokens"] + row["decode_tokens"] for row in (off, on)]
    answers = sum(row["requests"] for row in sides[1:])
    same = words["of"].format(sum(row["identical"] for row in sides[1:]), answers)

    def line(name: str, before: float, after: float, style: str) -> tuple[str, str, str, str]:
        return name, style.format(before), style.format(after), f"{after / before:.2f} x"

    key, ttft = "mean_latency_seconds", "median_ttft_seconds"
    return [
        line(
            words["day"].format(off["requests"]),
            off["requests_per_second"],
            on["requests_per_second"],
            "{:.2f}",
        ),
        line(words["day_latency"], calm_off[key] * 1e3, calm_on[key] * 1e3, "{:.0f} ms"),
        line(words["day_ttft"], calm_off[ttft] * 1e3, calm_on[ttft] * 1e3, "{:.0f} ms"),
        line(words["day_tokens"], *tokens, "{:,}"),
        (words["day_identical"], "", same, ""),
    ]


def _sessions(words: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    (talks,) = (row for row in result("session-bfloat16")["rows"] if row.get("part") == "airline")
    tokens = talks["none_computed_tokens"], talks["all_on_computed_tokens"]
    times = talks["none_median_ttft_ms"], talks["all_on_median_ttft_ms"]
    name = words["sessions"].format(talks["turns"])
    return [
        (name, *(f"{count:,}" for count in tokens), f"{tokens[1] / tokens[0]:.2f} x"),
        (words["sessions_ttft"], *(f"{time:.0f} ms" for time in times), f"{times[1] / times[0]:.2f} x"),
    ]


def _row(
    name: str, figures: dict[str, Any], key: str, style: str, factor: float = 1
) -> tuple[str, str, str, str]:
    off, on = figures[f"{key}_off"] * factor, figures[f"{key}_on"] * factor
    return name, style.format(off), style.format(on), f"{on / off:.2f} x"


def put_in(text: str, words: dict[str, Any]) -> str:
    """Return a README with its table made anew."""
    made = f"{BEGIN}\n\n{table(words)}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.DOTALL)


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for name, words in WORDS.items():
        path = REPOSITORY / name
        if write:
            path.write_text(put_in(path.read_text(encoding="utf-8"), words), encoding="utf-8")
        else:
            print(table(words), end="\n\n")


if __name__ == "__main__":
    main()
