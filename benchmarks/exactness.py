"""Does a reused prefix give the bits that computing it gives? By length of the rest.

Reusing whole blocks is not enough: kernels round by the shapes they are given. This shows what padding the
last call and attending in tiles at fixed places do about it, and what they cost a cold prompt.

    python benchmarks/exactness.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import random
import time
from statistics import median
from typing import Any

from common import arguments, emit, load, say

PREFIXES = (96, 544, 1184)
SEED = 16


def seconds(comparer: Any, tokens: list[int], layout: Any) -> float:
    """Return the seconds that a whole prompt takes."""
    started = time.perf_counter()
    comparer.compute(tokens, layout).argmax().item()
    return time.perf_counter() - started


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    from axolotl_cache.engine.exactness import Comparer
    from axolotl_cache.engine.forward import Forward
    from axolotl_cache.engine.kv import read_layout
    from axolotl_cache.engine.plan import ALIGNED, GRID, Layout

    started, rng = time.time(), random.Random(SEED)  # noqa: S311 - a workload, not a secret
    loaded = load(options.dtype)
    forward = Forward(loaded.model, loaded.device, loaded.context_length_tokens)
    comparer = Comparer(forward, read_layout(loaded.model, loaded.device))
    vocabulary = loaded.model.config.vocab_size
    layouts = {
        "blocks": Layout(32, 512, 1, tiled=False),
        "blocks, padded": Layout(32, 512, 16, tiled=False),
        "blocks, padded, tiled": ALIGNED,
        "grid": GRID,
    }
    lengths = range(1, 71, 5 if options.quick else 1)
    rows = []
    for name, layout in layouts.items():
        for prefix in PREFIXES:
            reused = prefix // layout.block_size * layout.block_size
            differing = []
            for rest in lengths:
                tokens = [rng.randrange(vocabulary) for _ in range(prefix + rest)]
                logits = comparer.compute(tokens, layout)
                if comparer.differs(tokens, logits, reused, layout):
                    differing.append(rest)
            rows.append({"layout": name, "prefix_tokens": prefix, "differing_rest_lengths": differing})
            say(f"{name:<24} prefix {prefix}: {len(differing)} of {len(lengths)} lengths differ {differing}")
    times: dict[str, list[float]] = {name: [] for name in ("one call", *layouts)}
    one_call = Layout(32, 4096, 1, tiled=False)
    for number in range(6 if options.quick else 24):
        tokens = [rng.randrange(vocabulary) for _ in range(rng.randint(200, 2000))]
        order = list(times) if number % 2 else list(times)[::-1]
        for name in order:
            times[name].append(seconds(comparer, tokens, layouts.get(name, one_call)))
    costs = {
        name: median(a / b for a, b in zip(times[name], times["one call"], strict=True)) for name in layouts
    }
    for name, cost in costs.items():
        say(f"a cold prompt of 200 to 2,000 tokens, {name}, over one call: {cost:.3f}")
    differing_in = {
        name: sum(len(r["differing_rest_lengths"]) for r in rows if r["layout"] == name) for name in layouts
    }
    emit(
        "exactness",
        figures={
            "compared_each": len(lengths) * len(PREFIXES),
            "differing_blocks_only": differing_in["blocks"],
            "differing_padded": differing_in["blocks, padded"],
            "differing_padded_tiled": differing_in["blocks, padded, tiled"],
            "differing_grid": differing_in["grid"],
            "aligned_cold_cost": costs["blocks, padded, tiled"],
            "grid_cold_cost": costs["grid"],
        },
        rows=[*rows, *({"layout": name, "cold_over_one_call": cost} for name, cost in costs.items())],
        seed=SEED,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
    )


if __name__ == "__main__":
    main()
