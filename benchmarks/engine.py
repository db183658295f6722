"""How many tokens a second does the engine give, how soon is the first, and are they the right ones?

Four workloads, served by our engine, by transformers (`generate` one by one, `generate_batch` with prefix
sharing) and by llama-cpp-python in turns: 32 requests behind 512 shared tokens; requests that share nothing;
requests of many lengths that arrive one after another; conversations. Then what our engine alone is
measured by.

    python benchmarks/engine.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pool_operations
import workloads
from common import MODEL, REPOSITORY, arguments, banking77, emit, load, make_engine, say
from peers import llama_cpp_side, run
from peers.compare import NEW_TOKENS, SEED, Comparison, Figures, Rows, all_peers, shared_requests, table
from peers.hugging_face import load_plain
from peers.ours import NAMESPACE, Ours
from workloads import Size, Texts, TokenRequest

CACHE_BYTES = 2 * 10**9
SYSTEM_PROMPT = REPOSITORY / "examples" / "smollm2" / "system_prompt.txt"

FULL = Size(
    slow_requests=None,
    unshared_requests=24,
    unshared_rounds=5,
    mixed_requests=40,
    turns=6,
    latency_rounds=9,
    prompts=1000,
    corruptions=50,
    operations=100_000,
)
QUICK = Size(
    slow_requests=4,
    unshared_requests=12,
    unshared_rounds=3,
    mixed_requests=24,
    turns=3,
    latency_rounds=3,
    prompts=100,
    corruptions=10,
    operations=10_000,
)


class Alone:
    """What our engine is measured by, without peers.

    Args:
        ours: with its cache.
        off: without.
        loaded: the model that both serve.
        plain: the same model and dtype in transformers, untouched.
        texts: makes a source of text.
        size: how much work.
    """

    def __init__(
        self, ours: Any, off: Any, loaded: Any, plain: Any, texts: Callable[[str], Texts], size: Size
    ) -> None:
        self._ours, self._off, self._loaded, self._plain = ours, off, loaded, plain
        self._texts, self._size = texts, size

    def ttft(self) -> tuple[Rows, Figures]:
        """Time to first token on a hit, against the uncached tokens' own compute, and against no cache."""
        rows = [self._ttft_behind(length) for length in (128, 512, 1024, 2000, 2048)]
        return rows, {
            "ttft_hit_over_own_compute": max(row["hit_over_own"] for row in rows),
            "ttft_cold_over_hit_2048": rows[-1]["cold_over_hit"],
        }

    def _ttft_behind(self, prefix: int) -> dict[str, Any]:
        rounds = self._size.latency_rounds
        texts = self._texts(f"ttft{prefix}")
        first, second, *requests = workloads.shared(
            texts, requests=rounds + 2, prefix=prefix, suffix=32, new_tokens=1
        )
        self._ours.forget()
        run(self._ours, [first])
        cached = len(second.tokens) - run(self._ours, [second]).computed_tokens
        own = OwnCompute(self._plain, requests[0].tokens[:cached])
        sides: dict[str, Callable[[TokenRequest], float]] = {
            "hit": lambda request: run(self._ours, [request]).ttft_seconds[0],
            "own": lambda request: own.seconds(request.tokens[cached:]),
            "cold": lambda request: run(self._off, [request]).ttft_seconds[0],
        }
        times = in_turns(sides, requests)
        ratios = [hit / alone for hit, alone in zip(times["hit"], times["own"], strict=True)]
        row = {
            "part": "ttft",
            "prefix_tokens": prefix,
            "cached_tokens": cached,
            "rounds": rounds,
            **{f"{side}_ms": median(values) * 1e3 for side, values in times.items()},
            "hit_over_own": median(ratios),
            "cold_over_hit": median(c / h for c, h in zip(times["cold"], times["hit"], strict=True)),
        }
        say(
            f"prefix {prefix:>5}: cold {row['cold_ms']:.0f} ms, hit {row['hit_ms']:.1f} ms, own compute "
            f"{row['own_ms']:.1f} ms (x {row['hit_over_own']:.3f}), cold over hit {row['cold_over_hit']:.1f}"
        )
        return row

    def limit(self) -> tuple[Rows, Figures]:
        """What the shared workload would take if only the model's matrix products took time."""
        count, prefix, suffix = 32, 512, 32
        prompt = prefix + count * suffix
        seconds = products_seconds(self._loaded, 512) * prompt / 512
        seconds += products_seconds(self._loaded, count) * (NEW_TOKENS - 1)
        rate = count * NEW_TOKENS / seconds
        row = {"part": "limit", "workload": "shared512", "tokens_per_second": rate}
        say(f"shared512 at the speed of its matrix products alone: {rate:.0f} tokens/s")
        return [row], {"products_alone_tokens_per_second": rate}

    def grid(self) -> tuple[Rows, Figures]:
        """A cold prompt of 1,200 tokens, over one call of the plain model."""
        requests = workloads.unshared(
            self._texts("grid"),
            requests=self._size.latency_rounds,
            lengths=(1200, 1200),
            new_tokens=1,
            rng=random.Random(SEED),  # noqa: S311 - a workload, not a secret
        )
        own = OwnCompute(self._plain, [])
        times = in_turns(
            {
                "engine": lambda request: run(self._off, [request]).ttft_seconds[0],
                "plain": lambda request: own.seconds(request.tokens),
            },
            requests,
        )
        cost = median(a / b for a, b in zip(times["engine"], times["plain"], strict=True))
        medians = {f"{side}_ms": median(values) * 1e3 for side, values in times.items()}
        row = {"part": "grid", "prompt_tokens": 1200, **medians}
        say(f"cold prefill of 1,200 tokens: x {cost:.3f} of one plain call")
        return [row], {"grid_cold_cost": cost}

    def decode(self) -> tuple[Rows, Figures]:
        """Seconds a token at batch 1, over the time to read the weights once."""
        (request,) = workloads.shared(
            self._texts("decode"), requests=1, prefix=64, suffix=32, new_tokens=2 * NEW_TOKENS
        )
        limit = weight_bytes(self._plain) / memory_bandwidth()
        engine = self._off.engine
        drafts, times = engine.draft_tokens, dict[int, list[float]]()
        for _ in range(self._size.latency_rounds):
            for tokens in (0, drafts):
                engine.draft_tokens = tokens
                (served,) = run(self._off, [request]).served
                seconds = (served.end_seconds - served.first_token_seconds) / (request.new_tokens - 1)
                times.setdefault(tokens, []).append(seconds)
        plain, drafted = median(times[0]), median(times[drafts])
        row = {
            "part": "decode",
            "ms_a_token": drafted * 1e3,
            "without_drafts_ms_a_token": plain * 1e3,
            "limit_ms": limit * 1e3,
        }
        say(
            f"decode: {drafted * 1e3:.1f} ms a token, {plain * 1e3:.1f} without drafts, "
            f"the weights' bytes take {limit * 1e3:.1f} ms"
        )
        figures = {
            "decode_over_memory_limit": drafted / limit,
            "decode_without_drafts_over_memory_limit": plain / limit,
        }
        return [row], figures

    def differences(self) -> tuple[Rows, Figures]:
        """Greedy answers to real prompts, hit against miss."""
        rows: Rows = []
        for length in (64, 128, 256, 512, 1024):
            texts = self._texts(f"greedy{length}")
            count = self._size.prompts // 5
            warm, *requests = workloads.shared(
                texts, requests=count + 1, prefix=length, suffix=24, new_tokens=16
            )
            self._ours.forget()
            run(self._ours, [warm])
            hits, misses = run(self._ours, requests), run(self._off, requests)
            differing = sum(a.tokens != b.tokens for a, b in zip(hits.served, misses.served, strict=True))
            reused = sum(
                hit.computed_tokens < len(r.tokens) for hit, r in zip(hits.served, requests, strict=True)
            )
            rows.append(
                {
                    "part": "greedy",
                    "prefix_tokens": length,
                    "prompts": count,
                    "hits": reused,
                    "differing": differing,
                }
            )
            say(f"prefix {length:>5}: {differing} of {count} greedy answers differ between hit and miss")
        return rows, {"greedy_differences": sum(row["differing"] for row in rows)}

    def corruptions(self) -> tuple[Rows, Figures]:
        """The same comparison with one cached block overwritten: the control, which must differ."""
        rng = random.Random(SEED)  # noqa: S311 - a workload, not a secret
        tried, texts = self._size.corruptions, self._texts("corrupted")
        first, *requests = workloads.shared(texts, requests=tried + 1, prefix=512, suffix=24, new_tokens=16)
        caught = 0
        for request in requests:
            self._ours.forget()
            run(self._ours, [first])
            (miss,) = run(self._off, [request]).served
            overwrite_block(self._ours.engine, request.tokens, rng)
            (hit,) = run(self._ours, [request]).served
            caught += hit.tokens != miss.tokens
        say(f"one block overwritten: noticed {caught} of {tried} times")
        return [{"part": "corrupted", "tried": tried, "caught": caught}], {
            "corrupted_blocks_caught": caught / tried
        }


def in_turns(
    sides: dict[str, Callable[[TokenRequest], float]], requests: Sequence[TokenRequest]
) -> dict[str, list[float]]:
    """Time each request on every side, the order turned round each time; return the seconds by side."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number, request in enumerate(requests):
        for name in sides if number % 2 else reversed(sides):
            times[name].append(sides[name](request))
    return times


class OwnCompute:
    """What tokens cost alone: one plain call of transformers' model, what precedes them being in place."""

    def __init__(self, model: Any, prefix: list[int]) -> None:
        import torch
        from transformers import DynamicCache

        self._model, self._prefix = model, len(prefix)
        self._cache = DynamicCache(config=model.config)
        if prefix:
            with torch.inference_mode():
                model(torch.tensor([prefix]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def seconds(self, tokens: list[int]) -> float:
        """Return the seconds from the tokens to the most likely next one."""
        import torch
        from transformers import DynamicCache

        ids = torch.tensor([tokens])
        cache = self._cache if self._prefix else DynamicCache(config=self._model.config)
        with torch.inference_mode():
            started = time.perf_counter()
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            out.logits[0, -1].argmax().item()
            taken = time.perf_counter() - started
        cache.crop(-len(tokens))
        return taken


def products_seconds(loaded: Any, rows: int) -> float:
    """Return the seconds that all linear layers take for so many rows, the head left out; best of five."""
    import torch

    head = loaded.model.get_output_embeddings()
    layers = [m for m in loaded.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    inputs = {
        n: torch.randn(rows, n, dtype=loaded.model.dtype) for n in {layer.in_features for layer in layers}
    }
    times = []
    with torch.inference_mode():
        for _ in range(5):
            started = time.perf_counter()
            for layer in layers:
                layer(inputs[layer.in_features])
            times.append(time.perf_counter() - started)
    return min(times)


def weight_bytes(model: Any) -> int:
    """Return the bytes of weights that one token needs: all, but an embedding that is not the head too."""
    parameters = {id(p): p for p in model.parameters()}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if embedding is not head:
        del parameters[id(embedding)]
    return sum(p.nbytes for p in parameters.values())


def memory_bandwidth() -> float:
    """Return the bytes per second that all threads move together: the best of reading and of copying."""
    import torch

    source = torch.ones(2**28)
    target = torch.empty_like(source)
    reading, copying = [], []
    for _ in range(5):
        started = time.perf_counter()
        source.sum().item()
        reading.append(source.nbytes / (time.perf_counter() - started))
        started = time.perf_counter()
        target.copy_(source)
        copying.append(2 * source.nbytes / (time.perf_counter() - started))
    return max(*reading, *copying)


def overwrite_block(engine: Any, tokens: list[int], rng: random.Random) -> None:
    """Put noise where one cached block of a prompt was."""
    import torch

    pool, tree = engine._pool, engine._cache.tree
    match = tree.match(tokens, namespace=NAMESPACE)
    page = rng.choice(match.payloads)
    pool.fill(page, [torch.randn_like(tensor) for tensor in pool.read(page)])
    tree.release(match)


def pool_violations(operations: int) -> tuple[Rows, Figures]:
    """Random operations on pool and tree: after how many was something wrong?"""
    wrong = pool_operations.drive(operations, SEED, report=say)
    say(f"{operations:,} random operations on pool and tree: something was wrong after {wrong}")
    return [{"part": "pool", "operations": operations, "violations": wrong}], {"pool_violations": wrong}


def text_source(tokenizer: Any, questions: list[str]) -> Callable[[str], Texts]:
    """Return what makes a source of text, the same for the same name whatever was made before."""
    system_prompt = SYSTEM_PROMPT.read_text(encoding="utf-8")

    def tokenize(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def texts(name: str) -> Texts:
        rng = random.Random(f"{SEED} {name}")  # noqa: S311 - a workload, not a secret
        return Texts(tokenize, system_prompt, questions, rng)

    return texts


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started = time.time()
    size = QUICK if options.quick else FULL
    questions = banking77()
    loaded = load(options.dtype)
    texts = text_source(loaded.tokenizer, questions)
    engine = make_engine(loaded, max_cache_bytes=CACHE_BYTES, ignore_end=True)
    ours, off = Ours(engine, options.dtype), Ours(engine, options.dtype, reuse=False)

    say("which settings are quickest here")
    sides, rows = all_peers(shared_requests(texts("choice"), 3))
    comparison = Comparison(ours, off, sides, texts, size)
    alone = Alone(ours, off, loaded, load_plain(MODEL, options.dtype), texts, size)
    figures: Figures = {}
    for part in (comparison.shared, comparison.unshared, comparison.mixed):
        say(f"\n{part.__doc__}")
        found, measured = part()
        table(found)
        rows += found
        figures |= measured
    say(f"\n{comparison.turns.__doc__}")
    turns = comparison.turns()
    table(turns)
    rows += turns
    for side in sides:
        side.close()
    say("\nour engine alone")
    for part in (alone.limit, alone.ttft, alone.grid, alone.decode, alone.differences, alone.corruptions):
        found, measured = part()
        rows += found
        figures |= measured
    found, measured = pool_violations(size.operations)
    emit(
        "engine",
        figures=figures | measured,
        rows=rows + found,
        seed=SEED,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
        new_tokens=NEW_TOKENS,
        exactness=engine.exactness.mode,
        llama_cpp_python=llama_cpp_side.version(),
    )


if __name__ == "__main__":
    main()
