"""The main job in one run: a bank's help desk, 60 questions, the cache off and then on.

Run by `scripts/demo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
from tqdm import tqdm

from axolotl_cache.assembly import load, open_pipeline, open_response_cache
from axolotl_cache.config import Flag, load_settings
from axolotl_cache.measure import Comparison, figures, run_side, table
from axolotl_cache.prompts_file import from_file
from axolotl_cache.request import CacheControl, Request, Sampling, Served

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
OUT = Path("out")
NEW_TOKENS = 24


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A fresh place for the answers: a second run of the demo starts as empty as the first.
        fresh = {"inference_settings.persistence_path": Flag("demo", folder)}
        settings = load_settings(HERE / "inference.yaml", flags=fresh)
        loaded = load(settings, print)
        pipeline = open_pipeline(
            settings, loaded, print, response=open_response_cache(settings), use_prefix_cache=True
        )
        sampling = Sampling(max_new_tokens=NEW_TOKENS)
        system = settings.model.system_prompts[0]
        # Most of these answers are cut off, and would not be stored unless asked for.
        asked = Request(sampling=sampling, cache_control=CacheControl(truncated=True))
        named = from_file(HERE / "questions.jsonl", asked, system)
        requests = [n.request for n in named]
        print(f"\n{len(requests)} questions to a bank's help desk, answers of at most {NEW_TOKENS} tokens")
        sides = []
        for caching, name in ((False, "cache off"), (True, "cache on ")):
            with tqdm(total=len(requests), desc=name, file=sys.stderr) as bar:
                sides.append(run_side(pipeline, requests, caching=caching, done=bar.update))
        pipeline.close()
    comparison = Comparison(*sides)
    print("\n" + table(comparison) + "\n")
    OUT.mkdir(exist_ok=True)
    result = {
        "benchmark": "demo",
        "figures": figures(comparison),
        "dtype": str(loaded.dtype),
        "date": time.strftime("%Y-%m-%d"),
        "rows": [
            {"off_seconds": off.total_seconds, "on_seconds": on.total_seconds, "served": on.served.value}
            for off, on in zip(comparison.off.answers, comparison.on.answers, strict=True)
        ],
    }
    (OUT / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(comparison, OUT / "demo.png")
    print(f"picture: {OUT / 'demo.png'}, figures: {OUT / 'demo.json'}")
    if comparison.identical != len(requests):
        raise SystemExit("answers differ with the cache on: please report this, with out/demo.json")


def draw(comparison: Comparison, path: Path) -> None:
    """Each question's latency, off and on, and who answered it."""
    colours = {Served.HIT_EXACT: "#0a7d55", Served.HIT_PREFIX: "#2a6fdb", Served.MISS: "#8a5a00"}
    names = {
        Served.HIT_EXACT: "on: response cache",
        Served.HIT_PREFIX: "on: computed behind the cached prefix",
        Served.MISS: "on: computed in full",
    }
    off, on = comparison.off.answers, comparison.on.answers
    figure, (top, below) = plt.subplots(2, 1, figsize=(9, 6.4), height_ratios=(3, 1.3), layout="constrained")
    numbers = range(1, len(on) + 1)
    top.bar(numbers, [a.total_seconds for a in off], color="#c9ced6", label="cache off", width=0.9)
    for served, colour in colours.items():
        at = [i for i in numbers if on[i - 1].served is served]
        if at:
            heights = [on[i - 1].total_seconds for i in at]
            top.bar(at, heights, color=colour, label=names[served], width=0.55)
            if served is Served.HIT_EXACT:
                top.plot(at, heights, linestyle="", marker="v", color=colour, markersize=5)
    top.set(
        xlabel="question",
        ylabel="seconds to the whole answer",
        xlim=(0, len(on) + 1),
        title=f"{len(on)} questions to a help desk: {comparison.off.seconds:.0f} s without the cache, "
        f"{comparison.on.seconds:.0f} s with it, {comparison.identical} of {len(on)} answers identical",
    )
    top.legend(loc="upper center", ncols=2, fontsize="small", bbox_to_anchor=(0.5, -0.14), frameon=False)
    prefill, decode = (
        (comparison.off.prefill_tokens, comparison.on.prefill_tokens),
        (comparison.off.decode_tokens, comparison.on.decode_tokens),
    )
    sides = ["cache on", "cache off"]
    below.barh(sides, prefill[::-1], color="#2a6fdb", label="prompt tokens computed")
    below.barh(sides, decode[::-1], left=prefill[::-1], color="#c08a2b", label="answer tokens computed")
    below.legend(fontsize="small", loc="lower right")
    for spine in ("top", "right"):
        top.spines[spine].set_visible(False)
        below.spines[spine].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
