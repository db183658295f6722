"""What does the prefix cache save, what does it cost, and does it change an answer?

Real customers' questions (Banking77) behind prefixes of 100 to 2,000 tokens made of other ones.

    python benchmarks/prefix.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import copy
import random
import time
from statistics import median
from typing import Any

from common import arguments, banking77, build, emit, load, say

LENGTHS = (100, 200, 400, 700, 1000, 1300, 1600, 2000)
TTFT_LENGTHS = (128, 512, 1024, 2048)
NEW_TOKENS = 16
SEED = 20
GIGABYTE = 10**9


def system_of(renderer: Any, questions: list[str], tokens: int, rng: random.Random) -> str:
    """Return a system prompt of about `tokens` tokens: what the desk should know customers ask."""
    lines = [
        "You are the help desk of a bank. Answer in one short sentence. Customers ask, among other things:"
    ]
    while len(renderer.tokens("\n".join(lines), is_plain=False)) < tokens:
        lines.append(f"- {rng.choice(questions)}")
    return "\n".join(lines)


def request_of(system: str, question: str, new_tokens: int = NEW_TOKENS) -> Any:
    """Return the request of a customer behind a system prompt."""
    from axolotl_cache.request import Message, Request, Sampling

    return Request(
        messages=(Message("system", system), Message("user", question)),
        sampling=Sampling(max_new_tokens=new_tokens),
    )


def identical(pipeline: Any, questions: list[str], count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Answer `count` questions behind prefixes of every length, cache off and on, and compare."""
    from axolotl_cache.measure import compare

    rows = []
    for length in LENGTHS:
        system = system_of(pipeline.renderer, questions, length, rng)
        requests = [request_of(system, q) for q in rng.sample(questions, count // len(LENGTHS))]
        pipeline.answer(request_of(system, "Hello", 1))  # the prefix is known from here on
        result = compare(pipeline, requests, done=lambda: None)
        rows.append(
            {
                "part": "identical",
                "prefix_tokens": length,
                "requests": len(requests),
                "identical": result.identical,
                "cached_share": sum(a.usage.cached_tokens for a in result.on.answers)
                / sum(a.usage.prompt_tokens for a in result.on.answers),
                "ttft_off_ms": result.off.median_ttft_seconds * 1e3,
                "ttft_on_ms": result.on.median_ttft_seconds * 1e3,
                "throughput_on_over_off": result.throughput_ratio,
            }
        )
        say(
            f"prefix {length:>5}: {result.identical} of {len(requests)} answers identical, TTFT "
            f"{rows[-1]['ttft_off_ms']:.0f} -> {rows[-1]['ttft_on_ms']:.0f} ms"
        )
    return rows


def ttft(pipeline: Any, questions: list[str], rounds: int, rng: random.Random) -> list[dict[str, Any]]:
    """Time to first token: in full, on a hit, of the uncached tokens alone, and by transformers' recipe."""
    engine, renderer = pipeline.engine, pipeline.renderer
    rows = []
    for length in TTFT_LENGTHS:
        system = system_of(renderer, questions, length, rng)
        asked = rng.sample(questions, rounds)
        pipeline.answer(request_of(system, "Hello", 1))
        theirs = HuggingFaceRecipe(engine, renderer.shared_prefix(system))
        times: dict[str, list[float]] = {"cold": [], "hit": [], "own": [], "transformers": []}
        for number, question in enumerate(asked):
            request = request_of(system, question, 1)
            order = ["cold", "hit", "own", "transformers"]
            tokens = renderer.tokens(renderer.text(request), is_plain=False)
            # Taken before any side runs, as a hit stores the question's own whole blocks.
            table = engine._cache.find(tokens, pipeline.namespace.digest)
            for side in order if number % 2 else reversed(order):
                pipeline.prefix_enabled = side == "hit"
                if side == "own":
                    times[side].append(own_compute(engine, tokens, table))
                elif side == "transformers":
                    times[side].append(theirs.first_token_seconds(tokens))
                else:
                    times[side].append(pipeline.answer(request).ttft_seconds)
            engine._cache.close(table)
        pipeline.prefix_enabled = True
        ms = {side: median(t) * 1e3 for side, t in times.items()}
        ratios = [h / o for h, o in zip(times["hit"], times["own"], strict=True)]
        rows.append(
            {
                "part": "ttft",
                "prefix_tokens": length,
                "rounds": rounds,
                **{f"{side}_ms": value for side, value in ms.items()},
                "hit_over_own": median(ratios),
                "cold_over_hit": ms["cold"] / ms["hit"],
                "transformers_over_hit": ms["transformers"] / ms["hit"],
            }
        )
        say(
            f"prefix {length:>5}: cold {ms['cold']:.0f} ms, hit {ms['hit']:.0f} ms, own compute "
            f"{ms['own']:.0f} ms (x {rows[-1]['hit_over_own']:.3f}), transformers' deep-copied cache "
            f"{ms['transformers']:.0f} ms"
        )
    return rows


def own_compute(engine: Any, tokens: list[int], table: Any) -> float:
    """Return the seconds that the uncached tokens of a hit take alone, their prefix being in place."""
    from axolotl_cache.engine.forward import Chunk

    found = table.cached_tokens
    more = -(-len(tokens) // engine.block_size) - len(table.pages)
    own = engine._pool.allocate(more)
    started = time.perf_counter()
    (logits,) = engine._forward.run(
        [Chunk([*table.pages, *own], found, tokens[found:])], engine.exactness.layout
    )
    logits.argmax().item()
    seconds = time.perf_counter() - started
    engine._pool.release(own)
    return seconds


class HuggingFaceRecipe:
    """Prefix reuse as transformers' documentation shows it: one prefilled cache, deep-copied a request."""

    def __init__(self, engine: Any, prefix: list[int]) -> None:
        import torch
        from transformers import DynamicCache

        self._model = engine._forward.model
        with torch.inference_mode():
            cache = DynamicCache(config=self._model.config)
            self._cache = self._model(
                input_ids=torch.tensor([prefix]), past_key_values=cache, use_cache=True
            ).past_key_values

    def first_token_seconds(self, tokens: list[int]) -> float:
        """Return the seconds that `generate` takes for one token."""
        import torch

        ids = torch.tensor([tokens])
        started = time.perf_counter()
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=copy.deepcopy(self._cache),
            max_new_tokens=1,
            do_sample=False,
        )
        return time.perf_counter() - started


def no_hits(pipeline: Any, questions: list[str], count: int, rng: random.Random) -> dict[str, Any]:
    """Throughput where nothing repeats, cache off and on, in pairs."""
    from axolotl_cache.measure import compare

    requests = []
    for number in range(count):
        system = system_of(pipeline.renderer, questions, rng.choice((150, 300, 600)), rng)
        requests.append(request_of(f"Desk {number:03d}. {system}", rng.choice(questions)))
    result = compare(pipeline, requests, done=lambda: None)
    pairs = zip(result.off.answers, result.on.answers, strict=True)
    ratio = median(off.total_seconds / on.total_seconds for off, on in pairs)
    hits = sum(a.usage.cached_tokens for a in result.on.answers)
    say(f"nothing shared: throughput on over off {ratio:.3f} (median of {count} pairs; {hits} tokens hit)")
    return {
        "part": "no_hits",
        "requests": count,
        "cached_tokens": hits,
        "median_pair_ratio": ratio,
        "total_ratio": result.throughput_ratio,
        "evicted_blocks": pipeline.engine.prefix_stats.evicted_blocks,
        "identical": result.identical,
    }


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started, rng = time.time(), random.Random(SEED)  # noqa: S311 - a workload, not a secret
    questions = banking77()
    loaded = load(options.dtype)
    # A bound that the parts without sharing overrun, so that eviction is part of what is measured.
    pipeline = build(loaded, max_cache_bytes=GIGABYTE // 4)
    timing = ttft(pipeline, questions, 5 if options.quick else 15, rng)
    unshared = no_hits(pipeline, questions, 10 if options.quick else 40, rng)
    exact = identical(pipeline, questions, 24 if options.quick else 200, rng)
    at_512 = next(row for row in timing if row["prefix_tokens"] == 512)
    emit(
        "prefix",
        figures={
            # The worst of the four prefix lengths; the others stand in the rows.
            "ttft_hit_over_own_compute": max(row["hit_over_own"] for row in timing),
            "ttft_cold_over_hit": at_512["cold_over_hit"],
            "throughput_no_hits_on_over_off": unshared["median_pair_ratio"],
            "identical_fraction": sum(r["identical"] for r in exact) / sum(r["requests"] for r in exact),
        },
        rows=[*timing, unshared, *exact],
        seed=SEED,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
        new_tokens=NEW_TOKENS,
        exactness=pipeline.engine.exactness.mode,
    )


if __name__ == "__main__":
    main()
