"""The exactness probe: does a token's result depend on what else is computed with it?

Where it does not ("invariant"), every token's keys, values and logits are one function of the tokens before
it: computed in a long call or a short one, behind a cached prefix, alone while decoding, or beside other
requests, the bits are the same. That is a property of the machine's kernels, of the model's shape, of the
dtype and of the number of threads, so it is measured, at start, on the model itself, and the result
remembered for this very combination. Where it does not hold, or can't hold (experts, 8-bit outliers), the
engine computes prompts on a fixed grid instead, where hit and miss make the very same calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from axolotl_cache.engine.attention import supports_pages
from axolotl_cache.engine.forward import Chunk, Forward
from axolotl_cache.engine.plan import ALONE, AS_GENERATE, GRID, Layout, invariant
from axolotl_cache.engine.pool import Page
from axolotl_cache.engine.spans import KEY_TILE_TOKENS, SEGMENT_TOKENS
from axolotl_cache.paths import make_private

_VERSION = 9

_ROW_MULTIPLES: Final = (1, 2, 4, 8, 16)
"""Candidates, cheapest first. Found so far: 2 in bfloat16 and 4 in float32 with AVX-512."""

_ADAPTERS_MULTIPLE: Final = 4
"""What plain layers need, where adapters are put in later that nobody can measure now."""

_PROMPT_TOKENS: Final = 1245
_CUTS: Final = ((100, 13, 300, 32, 700, 100), (1180, *[1] * 12, *[3] * 7, *[2] * 16))
"""Ways to cut the prompt into calls; what one asks for behind the prompt's end is left out."""
_COMPANY: Final = (40, 300, 77)
"""Lengths of the prompts that are computed in the same calls."""
_TAIL_TOKENS: Final = 7
"""Length of the prompts that are computed behind the same pages."""
_CALL_TOKENS: Final = 512
_SHORT_TOKENS: Final = 300
"""Length of the prompt that shows whether the model can be computed our way at all."""

_ROUNDING: Final = {4: 1e-3, 2: 0.3}
"""By bytes of a number: the difference that rounding may make in logits, relative to their spread (root mean
square). Padding alone makes 2e-6 in float32, 0.1 in bfloat16 on 30 layers; a wrong mask makes about 1."""


@dataclass(frozen=True, slots=True)
class Exactness:
    """How this model must be computed here, so that a hit equals a miss bit for bit."""

    mode: str
    """`invariant`: equal whatever else is computed; `grid`: prompts alone on a grid, in our attention;
    `alone`: all alone, in the model's own attention; `generate`: so, in the very calls of transformers'
    `generate`; `none`: nothing can be reused."""
    reason: str
    comparisons: int = 0
    differences: int = 0
    row_multiple: int = 1
    numerics: str = ""
    """Digest of everything that decides about the bits: model, dtype, machine, threads, versions."""
    prefill_seconds_per_token: float = 0.0
    """What a prompt's token took here: what the first request after a start compares a disk with."""

    @property
    def layout(self) -> Layout:
        """How to cut prompts in this mode."""
        if self.mode == "invariant":
            return invariant(self.row_multiple)
        return {"grid": GRID, "generate": AS_GENERATE}.get(self.mode, ALONE)


_Computed = tuple[list[Page], torch.Tensor]


class Comparer:
    """Computes the same prompt in different ways, and compares every bit.

    Args:
        forward: the model.
        layout: how calls are padded.
    """

    def __init__(self, forward: Forward, layout: Layout) -> None:
        self._forward = forward
        self._layout = layout
        self._pool = forward.pool

    @contextmanager
    def computed(self, tokens: Sequence[int], cuts: Sequence[int]) -> Iterator[_Computed]:
        """Compute a prompt in calls of these many tokens; give its pages, for a while, and its logits."""
        pages = self._pages(len(tokens))
        try:
            yield pages, self._compute(pages, 0, tokens, cuts)
        finally:
            self._pool.release(pages)

    @contextmanager
    def behind(
        self, tokens: Sequence[int], known: Sequence[Page], reused: int, cuts: Sequence[int] = ()
    ) -> Iterator[_Computed]:
        """Do the same behind the first `reused` tokens of `known`, whole blocks."""
        pages = self._pages(len(tokens))
        try:
            for index in range(reused // self._pool.block_size):
                self._pool.fill(pages[index], self._pool.read(known[index]))
            yield pages, self._compute(pages, reused, tokens, cuts)
        finally:
            self._pool.release(pages)

    def in_company(
        self, tokens: Sequence[int], others: Sequence[Sequence[int]], decoded: int
    ) -> Iterator[bool]:
        """Compute prompts together in one call and decode `decoded` tokens of each together.

        Yields:
            For each prompt, whether all bits are those of the prompt alone.
        """
        prompts = [tokens, *others]
        sets = [self._pages(len(p)) for p in prompts]
        try:
            starts = [0] * len(prompts)
            logits: list[torch.Tensor] = []
            for step in range(decoded + 1):
                stops = [len(p) - decoded + step for p in prompts]
                chunks = [
                    Chunk(pages, start, p[start:stop])
                    for pages, p, start, stop in zip(sets, prompts, starts, stops, strict=True)
                ]
                logits = self._forward.run(chunks, self._layout)
                starts = stops
            for prompt, pages, last in zip(prompts, sets, logits, strict=True):
                with self.computed(prompt, [_CALL_TOKENS] * len(prompt)) as (alone, expected):
                    yield self.same(len(prompt), alone, expected, pages, last)
        finally:
            for pages in sets:
                self._pool.release(pages)

    def behind_the_same(
        self, tokens: Sequence[int], known: Sequence[Page], tails: Sequence[Sequence[int]]
    ) -> Iterator[bool]:
        """Compute tails together that stand behind the same pages, whole blocks.

        Yields:
            For each, whether all bits are those of the tail alone.
        """
        size, start = self._pool.block_size, len(tokens)
        shared = list(known[: start // size])
        own = [self._pages(len(tail)) for tail in tails]
        try:
            chunks = [Chunk(shared + pages, start, tail) for pages, tail in zip(own, tails, strict=True)]
            together = self._forward.run(chunks, self._layout)
            for chunk, last in zip(chunks, together, strict=True):
                prompt = [*tokens, *chunk.tokens]
                with self.behind(prompt, known, start) as (alone, expected):
                    yield self.same(len(prompt), alone, expected, chunk.pages, last)
        finally:
            for pages in own:
                self._pool.release(pages)

    def same(
        self,
        length: int,
        pages: Sequence[Page],
        logits: torch.Tensor,
        others: Sequence[Page],
        other: torch.Tensor,
    ) -> bool:
        """Return whether two computations of a prompt of `length` tokens gave the same bits."""
        size = self._pool.block_size
        return same_bits(logits, other) and all(
            same_bits(a[:, :, : length - i * size], b[:, :, : length - i * size])
            for i, (one, two) in enumerate(zip(pages, others, strict=True))
            for a, b in zip(self._pool.read(one), self._pool.read(two), strict=True)
        )

    def _pages(self, tokens: int) -> list[Page]:
        return self._pool.allocate(-(-tokens // self._pool.block_size))

    def _compute(
        self, pages: list[Page], start: int, tokens: Sequence[int], cuts: Sequence[int]
    ) -> torch.Tensor:
        logits: torch.Tensor | None = None
        for cut in [*cuts, *[_CALL_TOKENS] * len(tokens)]:
            if start == len(tokens):
                break
            chunk = tokens[start : start + cut]
            (logits,) = self._forward.run([Chunk(pages, start, chunk)], self._layout)
            start += len(chunk)
        if logits is None:
            raise ValueError("nothing was left to compute")
        return logits.clone()


def probe(
    forward: Forward,
    memo: Path | None,
    report: Callable[[str], None] = lambda line: None,
    *,
    adapters: bool = False,
) -> Exactness:
    """Decide how this model is computed on this machine.

    Cost: about 6,000 tokens of prefill the first time; a small file read afterwards.

    Args:
        forward: the model, over a pool with the blocks of the invariant layout.
        memo: folder where results are remembered; None measures every time.
        report: is told before anything is measured.
        adapters: adapters will be put in later. They are not there to be measured, and their layers are plain
            ones, whatever was done to the model's own.
    """
    numerics = fingerprint(forward, adapters)
    file = memo / f"exactness-{numerics}.json" if memo else None
    known = read_memo(file) if file else None
    if known:
        return known
    report("checking that a reused prefix gives the same bits (once for this model on this machine)")
    result = replace(_measure(forward, adapters), numerics=numerics)
    if result.mode != "none":
        result = replace(result, prefill_seconds_per_token=seconds_per_token(forward, result.layout))
    if file:
        write_memo(file, result)
    return result


def _measure(forward: Forward, adapters: bool) -> Exactness:
    tokens = random_tokens(forward, min(_SHORT_TOKENS, forward.context_length_tokens))
    expected = forward.plain(tokens)
    obstacle = (
        _why_never_paged(forward.model)
        or _why_different(forward, tokens, expected, GRID)
        or _why_other_keys(forward)
    )
    if obstacle:
        hopeless = _why_different(forward, tokens, expected, ALONE)
        return Exactness("none", f"behind a prefix, {hopeless}") if hopeless else Exactness("alone", obstacle)
    varying = _why_never_invariant(forward.model)
    if varying:
        return Exactness("grid", varying)
    done = differences = 0
    for multiple in _ROW_MULTIPLES:
        if adapters and multiple < _ADAPTERS_MULTIPLE:
            continue
        for same in _compare_all(forward, invariant(multiple)):
            done, differences = done + 1, differences + (not same)
            if not same:
                break
        else:
            reason = "results do not depend on what else is computed with a token"
            return Exactness("invariant", reason, done, differences, multiple)
    return Exactness("grid", "results depend on the size of a call on this machine", done, differences)


def seconds_per_token(forward: Forward, layout: Layout) -> float:
    """Return what a prompt's token takes: one short prompt is computed."""
    tokens = random_tokens(forward, min(128, forward.context_length_tokens))
    pages = forward.pool.allocate(-(-len(tokens) // forward.pool.block_size))
    started = time.perf_counter()
    try:
        forward.run([Chunk(pages, 0, tokens)], layout)
    finally:
        forward.pool.release(pages)
    return (time.perf_counter() - started) / len(tokens)


def _why_different(forward: Forward, tokens: Sequence[int], expected: torch.Tensor, layout: Layout) -> str:
    """Return why a prompt in two calls gives logits that rounding can't explain; nothing if it does not.

    Two calls, because a layer that does not see what an earlier call left behind may be right in one.
    """
    first = len(tokens) * 2 // 3
    pages = forward.pool.allocate(-(-len(tokens) // forward.pool.block_size))
    try:
        forward.run([Chunk(pages, 0, tokens[:first], wanted=0)], layout)
        (last,) = forward.run([Chunk(pages, first, tokens[first:])], layout)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # A model whose attention is not what it seemed; it may still be able to run as it is.
        return f"its attention can't be ours ({error})" if layout.tiled else f"it fails ({error})"
    finally:
        forward.pool.release(pages)
    # Kernels for quantised weights round to 16 bits inside, whatever dtype they hand out.
    itemsize = 2 if _is_quantised(forward.model) else forward.pool.layout.dtype.itemsize
    allowed = _ROUNDING.get(itemsize, 1e-3) * expected.float().std()
    if last is not None and bool((expected.float() - last.float()).square().mean().sqrt() <= allowed):
        return ""
    return (
        f"{'its attention' if layout.tiled else 'it'} gives something else{' when it is ours' * layout.tiled}"
    )


def _why_other_keys(forward: Forward) -> str:
    """Return why its masks show a token other keys than our attention does; nothing if they are the same.

    A short prompt does not tell: a sliding window may be longer.
    """
    windows = {window for window in forward.masks_seen if window is not None}
    if windows != forward.windows_seen:
        return f"its masks have windows {sorted(windows)}, its attention {sorted(forward.windows_seen)}"
    context = forward.context_length_tokens
    for window, mask in forward.masks_seen.items():
        size = window or SEGMENT_TOKENS
        places = sorted({p + d for p in (1, size, 2 * size, 3 * size + 5, context - 2) for d in (-1, 0, 1)})
        at = torch.tensor([place for place in places if place < context], device=forward.pool.layout.device)
        first, query, key = at.new_zeros(()), at[:, None], at[None, :]
        ours = (key <= query) & (key > query - (window or context))
        if not torch.equal(mask(first, first, query, key).expand_as(ours), ours):
            return "its masks are not those of a sliding window" if window else "its masks are not causal"
    return ""


def random_tokens(forward: Forward, count: int, seed: int = 0) -> list[int]:
    """Return `count` ids of the model's vocabulary, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(getattr(forward.model.config.get_text_config(), "vocab_size", 1000))
    tokens: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return tokens


def _compare_all(forward: Forward, layout: Layout) -> Iterator[bool]:
    """Yield for each comparison whether the bits were the same; the ones that tell most come first."""
    comparer = Comparer(forward, layout)
    room = forward.context_length_tokens
    company = [random_tokens(forward, min(n, room), seed=n) for n in _COMPANY]
    with comparer.computed(company[0], ()) as (pages, logits):
        last = len(company[0])
        ends: tuple[tuple[int, ...], ...] = ((last - 4, 1, 1, 1, 1), (last - 5, 3, 2))
        for cuts in ends:
            with comparer.computed(company[0], cuts) as (again, other):
                yield comparer.same(len(company[0]), pages, logits, again, other)
    tokens = random_tokens(forward, min(_PROMPT_TOKENS, room))
    with comparer.computed(tokens, ()) as (pages, logits):
        for cuts in _CUTS:
            with comparer.computed(tokens, cuts) as (again, other):
                yield comparer.same(len(tokens), pages, logits, again, other)
        shared = min(2 * SEGMENT_TOKENS, (room - 1) // layout.block_size * layout.block_size)
        tails = [prompt[: min(_TAIL_TOKENS, room - shared)] for prompt in company]
        yield from comparer.behind_the_same(tokens[:shared], pages, tails)
    yield from comparer.in_company(tokens[: min(640, room)], company, decoded=5)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors of one dtype and shape are the same, bit for bit: 0 is not -0."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _why_never_paged(model: Any) -> str:
    config = model.config.get_text_config()
    if not supports_pages(model.config):
        return f"its attention ({config._attn_implementation}) is not the one that ours can stand in for"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return f"it has layers of the kinds {', '.join(sorted(kinds))}" if kinds else ""


def _why_never_invariant(model: Any) -> str:
    if any("expert" in name or "Expert" in type(module).__name__ for name, module in model.named_modules()):
        return "a mixture of experts: how many tokens meet in a matrix product depends on the others"
    if _is_quantised(model):
        return "quantised weights: their kernels look at all tokens of a call at once"
    return ""


def _is_quantised(model: Any) -> bool:
    return getattr(model, "quantization_method", None) is not None or getattr(model, "is_quantized", False)


def fingerprint(forward: Forward, adapters: bool) -> str:
    """Return a digest of everything that decides about the bits: model, dtype, machine, threads, versions."""
    import transformers

    model, kv = forward.model, forward.pool.layout
    config = {k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"}
    parameters = [(n, list(p.shape), str(p.dtype)) for n, p in model.named_parameters()]
    facts = {
        "version": _VERSION,
        "cases": [
            _PROMPT_TOKENS,
            _CUTS,
            _COMPANY,
            _TAIL_TOKENS,
            _ROW_MULTIPLES,
            KEY_TILE_TOKENS,
            SEGMENT_TOKENS,
        ],
        "context": forward.context_length_tokens,
        "config": config,
        "parameters": hashlib.blake2b(json.dumps(parameters).encode()).hexdigest(),
        "attention": getattr(model.config, "_attn_implementation", ""),
        "kv": str(kv),
        "device": torch.cuda.get_device_name(kv.device) if kv.device.type == "cuda" else kv.device.type,
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_model()],
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    found = {line.split(":")[0].strip(): line for line in lines[:40] if line.split(":")[0].strip() in wanted}
    return "|".join(found.values())


def read_memo(file: Path) -> Exactness | None:
    """Return what a probe found before, or None."""
    try:
        known = Exactness(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return known if known.mode in {"invariant", "grid", "alone", "generate", "none"} else None


def write_memo(file: Path, result: Exactness) -> None:
    """Remember what a probe found; where that can't be written, the next start measures again."""
    try:
        make_private(file.parent)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as new:
            json.dump(asdict(result), new)
        os.replace(new.name, file)
    except OSError:
        return  # only a memo: without it the next start measures again
