"""Do a token's bits depend on what else is computed with it? And what does it cost that they do not?

The same prompts are computed whole, cut into calls in different ways down to single tokens, in one another's
company, and behind one prefix together, with weights as loaded and packed, and calls padded to a multiple of
1, 2, 4 and 16 rows; every bit of keys, values and logits is compared. The engine's probe takes the smallest
multiple without a difference. The control computes both sides with other key tiles, which must show.

    python benchmarks/exactness.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from common import arguments, emit, load, make_engine, say

SEED = 16
MULTIPLES = (1, 2, 4, 16)
CUTS = {
    "long calls": (100, 13, 300, 32, 700),
    "single tokens": (1100, *[1] * 100),
    "2 tokens": (1100, *[2] * 50),
    "3 tokens": (1100, *[3] * 33),
    "5 to 11 tokens": (1100, 5, 7, 9, 10, 11, 6),
}


def differences(comparer: Any, tokens: list[int], company: list[list[int]]) -> Iterator[tuple[str, bool]]:
    """Yield for each way to compute a prompt whether any bit differs from the whole prompt's."""
    with comparer.computed(tokens, ()) as (pages, logits):
        for name, cuts in CUTS.items():
            with comparer.computed(tokens, cuts) as (again, other):
                yield name, not comparer.same(len(tokens), pages, logits, again, other)
        for same in comparer.behind_the_same(tokens[:768], pages, [other[:30] for other in company]):
            yield "behind one prefix", not same
    for same in comparer.in_company(tokens[:640], company, decoded=8):
        yield "in company", not same


def control(comparer: Any, tokens: list[int]) -> bool:
    """Return whether the comparison notices that a prompt was shown keys up to another place."""
    from axolotl_cache.engine import spans

    with comparer.computed(tokens, ()) as (pages, logits):
        tile, spans.KEY_TILE_TOKENS = spans.KEY_TILE_TOKENS, 2 * spans.KEY_TILE_TOKENS
        try:
            with comparer.computed(tokens, ()) as (again, other):
                return not comparer.same(len(tokens), pages, logits, again, other)
        finally:
            spans.KEY_TILE_TOKENS = tile


def cold_cost(engine: Any, lengths: list[int], rounds: int, rng: random.Random) -> list[dict[str, float]]:
    """Time whole prompts against one plain, unpadded call of transformers, the sides taking turns."""
    from axolotl_cache.engine.exactness import Comparer
    from axolotl_cache.engine.plan import GRID

    forward = engine._forward
    layouts = {"ours": engine.exactness.layout, "grid": GRID}
    rows = []
    for length in lengths:
        seconds: dict[str, list[float]] = {"plain": [], "ours": [], "grid": []}
        for turn in range(rounds):
            tokens = [rng.randrange(1000, 40000) for _ in range(length)]
            for side in sorted(seconds, reverse=bool(turn % 2)):
                started = time.perf_counter()
                if side == "plain":
                    forward.plain(tokens).argmax().item()
                else:
                    step = 128 if side == "grid" else 512
                    comparer = Comparer(forward, layouts[side])
                    with comparer.computed(tokens, [step] * length) as (_, logits):
                        logits.argmax().item()
                seconds[side].append(time.perf_counter() - started)
        ms = {f"{side}_ms": median(times) * 1e3 for side, times in seconds.items()}
        rows.append({"part": "cold", "tokens": length, "rounds": rounds, **ms})
        say(
            f"{length:>5} tokens: plain {ms['plain_ms']:.0f} ms, ours {ms['ours_ms']:.0f}, "
            f"grid {ms['grid_ms']:.0f}"
        )
    return rows


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    from axolotl_cache.engine.exactness import Comparer
    from axolotl_cache.engine.plan import invariant

    started, rng = time.time(), random.Random(SEED)  # noqa: S311 - a workload, not a secret
    engines = {
        weights: make_engine(load(options.dtype, packed=weights == "packed"), max_cache_bytes=0)
        for weights in ("plain", "packed")
    }
    engine = engines["packed"]
    rows: list[dict[str, Any]] = []
    for weights, multiple in [("packed", 1), *(("plain", multiple) for multiple in MULTIPLES)]:
        comparer = Comparer(engines[weights]._forward, invariant(multiple))
        found: dict[str, list[bool]] = {}
        for _ in range(1 if options.quick else 4):
            tokens, *company = (
                [rng.randrange(1000, 40000) for _ in range(length)] for length in (1200, 40, 300, 77)
            )
            for name, differs in differences(comparer, tokens, company):
                found.setdefault(name, []).append(differs)
        for name, results in found.items():
            rows.append(
                {
                    "part": "bits",
                    "weights": weights,
                    "row_multiple": multiple,
                    "cut": name,
                    "of": len(results),
                    "differ": sum(results),
                }
            )
        told = ", ".join(f"{name} {sum(results)} of {len(results)}" for name, results in found.items())
        say(f"{weights}, rows padded to a multiple of {multiple:>2}: differing: {told}")
    prompts = [[rng.randrange(1000, 40000) for _ in range(n)] for n in (200, 300, 700, 1200)]
    noticed = [control(Comparer(engine._forward, engine.exactness.layout), tokens) for tokens in prompts]
    rows.append({"part": "control", "prompts": len(noticed), "noticed": sum(noticed)})
    say(f"control, other keys shown: noticed {sum(noticed)} of {len(noticed)} times")
    cold = cold_cost(engine, [200, 1200] if options.quick else [200, 600, 1200, 2000], 5, rng)
    rows += cold

    def differing(weights: str, multiple: int) -> int:
        wanted = (weights, multiple)
        return sum(
            row["differ"]
            for row in rows
            if row["part"] == "bits" and (row["weights"], row["row_multiple"]) == wanted
        )

    figures = {
        **{f"differing_plain_rows_of_{multiple}": differing("plain", multiple) for multiple in MULTIPLES},
        "differing_packed": differing("packed", 1),
        "control_noticed": sum(noticed) / len(noticed),
        "cold_cost": median(row["ours_ms"] / row["plain_ms"] for row in cold),
        "grid_cold_cost": median(row["grid_ms"] / row["plain_ms"] for row in cold),
    }
    emit(
        "exactness",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=["torch", "transformers"],
        dtype=options.dtype,
        quick=options.quick,
        mode=engine.exactness.mode,
    )


if __name__ == "__main__":
    main()
