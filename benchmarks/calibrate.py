"""Learn the calibrations that ship: for each embedder one of questions and one of what was said before.

From the first half of fow-cache's pairs (the second is left to count on) and, for questions, the pairs in
`benchmarks/data`. Written to `calibration-*.json` beside the guards' lists.

    python benchmarks/calibrate.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import conversations
from axolotl_cache.response.semantic.embedders import EMBEDDERS
from common import REPOSITORY, say
from learning import Vectors, calibrate, join, score
from pairs import FOW, fow_conversations, fow_folder, fow_questions, halves, own_pairs

TARGET = REPOSITORY / "src" / "axolotl_cache" / "response" / "semantic" / "data"


def main() -> None:
    """Learn, write, and say how well each is calibrated."""
    folder = fow_folder()
    if folder is None:
        raise SystemExit("fow-cache is missing: run benchmarks/prepare")
    half, _ = halves(fow_questions(folder))
    own = [*own_pairs("en"), *own_pairs("zh")]
    sources = (f"{FOW}: first half, {len(half)} pairs", f"benchmarks/data (CC0): {len(own)} pairs, en and zh")
    for name, make in EMBEDDERS.items():
        try:
            vectors = Vectors(make())
        except ImportError as error:
            say(f"SKIPPED {name}: {error}")
            continue
        learnt = calibrate(join(score(half, vectors), score(own, vectors)), name, sources)
        (TARGET / f"calibration-{name}.json").write_text(learnt.to_json() + "\n", encoding="utf-8")
        before = conversations.scored(halves(fow_conversations(folder))[0], vectors)
        contexts = replace(
            conversations.model(before, np.ones(len(before[2]), bool), name),
            sources=(f"{FOW}: first half, {len(before[2])} pairs of conversations",),
        )
        (TARGET / f"calibration-context-{name}.json").write_text(contexts.to_json() + "\n", encoding="utf-8")
        say(f"{name}: Brier {learnt.brier}, {learnt.pairs} pairs")
        for probability, right, count in learnt.reliability:
            say(f"  said {probability:.2f}, was {right:.2f} of {count}")


if __name__ == "__main__":
    main()
