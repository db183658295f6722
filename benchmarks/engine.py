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
        plain: the same model and dtype in transformers, untouched.
        texts: makes a source of text.
        size: how much work.
    """

    def __init__(self, ours: Any, off: Any, plain: Any, texts: Callable[[str], Texts], size: Size) -> None:
        self._ours, self._off, self._plain = ours, off, plain
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
        times, ratios = [], []
        for _ in range(self._size.latency_rounds):
            (served,) = run(self._off, [request]).served
            times.append((served.end_seconds - served.first_token_seconds) / (request.new_tokens - 1))
            ratios.append(times[-1] / limit)
        row = {"part": "decode", "ms_a_token": median(times) * 1e3, "limit_ms": limit * 1e3}
        say(f"decode: {row['ms_a_token']:.1f} ms a token, the weights' bytes take {row['limit_ms']:.1f} ms")
        return [row], {"decode_over_memory_limit": median(ratios)}

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


class RandomOperations:
    """Random operations on a small block pool and prefix tree, each followed by every check there is.

    Pages are marked with the tokens that lead to them, so that a page found for other tokens shows.
    """

    _BLOCK, _BLOCKS_HELD, _RUNNING = 4, 40, 6

    def __init__(self, rng: random.Random) -> None:
        import torch

        from axolotl_cache.engine.cache import KVCache
        from axolotl_cache.engine.pool import KVLayout, KVPool, LayerGroup

        self._rng = rng
        self._seconds = 0.0
        layout = KVLayout((LayerGroup((0, 1), 1, 1, 1),), torch.float32, torch.device("cpu"))
        self._pool = KVPool(layout, self._BLOCK)
        self._bound = self._BLOCKS_HELD * self._pool.page_bytes
        self._cache = KVCache(
            self._pool, max_bytes=self._bound, ttl_seconds=50.0, clock=lambda: self._seconds
        )
        self._running: list[tuple[list[int], Any]] = []
        self._marks: dict[tuple[str, tuple[int, ...]], float] = {}

    def violations(self, operations: int) -> int:
        """Do `operations` of them; return after how many something was wrong."""
        choices = (self._start, self._grow, self._end, self._pin, self._clear, self._shrink, self._wait)
        weights = (30, 30, 30, 1, 1, 4, 4)
        wrong = 0
        for operation in self._rng.choices(choices, weights, k=operations):
            try:
                operation()
                self._check()
            except (AssertionError, ValueError) as error:
                wrong += 1
                say(f"  {operation.__name__}: {error}")
        return wrong

    def _prompt(self) -> list[int]:
        """Few different blocks, so that much is shared, and a tail that fills none."""
        blocks = [self._rng.randrange(3) for _ in range(self._rng.randint(0, 8))]
        tail = [9] * self._rng.randint(1, self._BLOCK - 1)
        return [token for block in blocks for token in [block] * self._BLOCK] + tail

    def _start(self) -> None:
        if len(self._running) == self._RUNNING:
            return
        tokens = self._prompt()
        table = self._cache.find(tokens, self._rng.choice(("a", "b")))
        self._running.append((tokens, table))
        for index, page in enumerate(table.pages):
            found = float(self._pool.read(page)[0].flatten()[0])
            if found != self._mark(table, tokens, index):
                raise AssertionError(f"block {index} holds another prompt's keys and values")
        self._compute(tokens, table)

    def _grow(self) -> None:
        if self._running:
            tokens, table = self._rng.choice(self._running)
            tokens += [self._rng.randrange(3)] * self._rng.randint(1, self._BLOCK)
            self._compute(tokens, table)

    def _compute(self, tokens: list[int], table: Any) -> None:
        """Fill the pages behind those that are kept, and keep the whole ones."""
        missing = -(-len(tokens) // self._BLOCK) - len(table.pages)
        if missing:
            table.pages += self._pool.allocate(missing)
        whole = len(tokens) // self._BLOCK
        for index in range(table.kept_blocks, whole):
            page = table.pages[index]
            mark = self._mark(table, tokens, index)
            self._pool.fill(page, [t.fill_(mark) for t in self._pool.read(page)])
        if self._rng.random() < 0.8:
            self._cache.keep(tokens[: whole * self._BLOCK], table)

    def _mark(self, table: Any, tokens: list[int], index: int) -> float:
        path = (table.namespace, tuple(tokens[: (index + 1) * self._BLOCK]))
        return self._marks.setdefault(path, float(len(self._marks) + 1))

    def _end(self) -> None:
        if self._running:
            _, table = self._running.pop(self._rng.randrange(len(self._running)))
            self._cache.close(table)

    def _pin(self) -> None:
        from axolotl_cache.errors import CapacityError

        tokens = [self._rng.randrange(3)] * self._BLOCK * 2
        table = self._cache.find([*tokens, 9], "a")
        self._compute(tokens, table)
        try:
            self._cache.keep(tokens, table, pinned=True)
        except CapacityError:
            pass
        finally:
            self._cache.close(table)

    def _clear(self) -> None:
        self._cache.clear(self._rng.choice((None, "a", "b")))

    def _shrink(self) -> None:
        self._cache.tree.shrink_to(self._rng.randrange(self._bound))
        self._pool.trim()

    def _wait(self) -> None:
        self._seconds += self._rng.uniform(0, 40)
        self._cache.tree.expire()

    def _check(self) -> None:
        self._pool.check_invariants()
        self._cache.tree.check_invariants()
        held = self._cache.stats.held_bytes
        if held > self._bound:
            raise AssertionError(f"{held} bytes held, the bound is {self._bound}")
        holders = self._cache.stats.held_blocks + sum(len(table.pages) for _, table in self._running)
        references = sum(page.references for page in self._pool._used.values())
        if references != holders:
            raise AssertionError(f"{references} references to pages, and {holders} that hold one")


def pool_violations(operations: int) -> tuple[Rows, Figures]:
    """Random operations on pool and tree: after how many was an invariant broken?"""
    rng = random.Random(SEED)  # noqa: S311 - a workload, not a secret
    wrong = RandomOperations(rng).violations(operations)
    say(f"{operations:,} random operations on pool and tree: {wrong} with an invariant broken")
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
    alone = Alone(ours, off, load_plain(MODEL, options.dtype), texts, size)
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
    for part in (alone.ttft, alone.grid, alone.decode, alone.differences, alone.corruptions):
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
