"""The exactness probe: may a prefix be reused at any block boundary without changing a bit?

It may when a token's keys, values and logits do not depend on how many other tokens are computed in the
same call. That is a property of the machine's matrix kernels, of the model's shape, of the dtype and of the
number of threads, so it is measured, at start, on the model itself, and the result remembered for this
very combination. Where it does not hold, or can't hold (experts and 8-bit outliers make the shape of a
matrix product depend on the data), the engine computes on a fixed grid instead, where hit and miss make
the very same calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

from axolotl_cache.engine.attention import supports_tiles
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.kv import KVLayout, Slot
from axolotl_cache.engine.plan import ALIGNED, GRID, Layout
from axolotl_cache.paths import make_private

_VERSION = 4


@dataclass(frozen=True, slots=True)
class Exactness:
    """How this model must be computed here, so that a hit equals a miss bit for bit."""

    mode: str
    """`aligned` or `grid`."""
    reason: str
    comparisons: int = 0
    differences: int = 0

    @property
    def layout(self) -> Layout:
        """How to cut prompts in this mode."""
        return ALIGNED if self.mode == "aligned" else GRID


_CASES: Final = (
    (1245, (1184, 224)),
    (544, (512, 480, 448, 416, 352, 288, 224, 160, 96, 32)),
    (528, (512, 480, 448, 384, 256)),
    (45, (32,)),
)
"""Lengths of prompts, and how many tokens a hit finds there: 15 sizes of a call, at all kinds of places."""

_ROUNDING: Final = {4: 1e-3, 2: 0.3}
"""By bytes of a number: the difference that rounding may make in logits, relative to their spread (root mean
square). Padding alone makes 2e-6 in float32, 0.1 in bfloat16 on 30 layers; a wrong mask makes about 1."""


class Comparer:
    """Computes prompts in full and behind a prefix that is in place, and compares every bit.

    Args:
        forward: the model.
        kv: the shape of its keys and values.
    """

    def __init__(self, forward: Forward, kv: KVLayout) -> None:
        self._forward = forward
        self.full, self._behind = Slot(kv), Slot(kv)

    def compute(self, tokens: Sequence[int], layout: Layout) -> torch.Tensor:
        """Compute a whole prompt into `full`; return the last token's logits."""
        self.full.begin((), layout.block_size, len(tokens) + layout.block_size)
        return self._forward.prefill(self.full, tokens, layout).clone()

    def differs(self, tokens: Sequence[int], logits: torch.Tensor, reused: int, layout: Layout) -> bool:
        """Return whether a hit on the first `reused` tokens of what `full` holds gives any other bit.

        Args:
            tokens: the prompt that `full` holds.
            logits: of its last token.
            reused: tokens that the hit finds there; whole blocks.
            layout: how to cut prompts.
        """
        self._behind.begin((), layout.block_size, len(tokens) + layout.block_size)
        for (keys, values), (our_keys, our_values) in self._layers():
            our_keys[:, :reused] = keys[:, :reused]
            our_values[:, :reused] = values[:, :reused]
        self._behind.length_tokens = reused
        again = self._forward.prefill(self._behind, tokens, layout)
        return not (_same_bits(logits, again) and self._same_kv(len(tokens)))

    def differs_from_longer(self, tokens: Sequence[int], longer: Sequence[int], layout: Layout) -> bool:
        """Return whether the whole blocks of a prompt differ from those of one that goes on behind it."""
        self.compute(tokens, layout)
        self._behind.begin((), layout.block_size, len(longer) + layout.block_size)
        self._forward.prefill(self._behind, longer, layout)
        return not self._same_kv(len(tokens) // layout.block_size * layout.block_size)

    def _layers(self) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], ...]]:
        return zip(self.full.layer_tensors(), self._behind.layer_tensors(), strict=True)

    def _same_kv(self, length: int) -> bool:
        return all(
            _same_bits(a[:, :length], b[:, :length])
            for pair in self._layers()
            for a, b in zip(*pair, strict=True)
        )


def probe(
    forward: Forward, kv: KVLayout, memo: Path | None, report: Callable[[str], None] = lambda line: None
) -> Exactness:
    """Decide between aligned and grid mode for this model on this machine.

    Cost: about 8,000 tokens of prefill the first time; a small file read afterwards.

    Args:
        forward: the model.
        kv: the shape of its keys and values.
        memo: folder where results are remembered; None measures every time.
        report: is told before anything is measured.
    """
    hopeless = _why_never_aligned(forward.model)
    if hopeless:
        return Exactness("grid", hopeless)
    file = memo / f"exactness-{_fingerprint(forward, kv)}.json" if memo else None
    known = _read(file) if file else None
    if known:
        return known
    report("checking that a reused prefix gives the same bits (once for this model on this machine)")
    result = _measure(forward, kv)
    if file:
        _write(file, result)
    return result


def _measure(forward: Forward, kv: KVLayout) -> Exactness:
    try:
        if _tiles_change_results(forward, kv):
            return Exactness("grid", "its attention gives something else when it is tiled")
        outcomes = list(_compare_all(forward, kv))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        # A model whose attention is not what it seemed; it may still be able to run as it is.
        return Exactness("grid", f"its attention can't be tiled ({error})")
    differences = sum(not same for same in outcomes)
    if not outcomes:
        return Exactness("grid", "the model's context is too short to compare calls of different sizes")
    if differences:
        reason = "results depend on the size of a call on this machine"
        return Exactness("grid", reason, len(outcomes), differences)
    return Exactness("aligned", "results do not depend on the size of a call", len(outcomes), 0)


def _tiles_change_results(forward: Forward, kv: KVLayout) -> bool:
    """Return whether tiles give logits that rounding can't explain: the model wants more than a mask."""
    tokens = _random_tokens(forward, min(300, forward.context_length_tokens))
    comparer = Comparer(forward, kv)
    own = comparer.compute(tokens, replace(ALIGNED, tiled=False)).float()
    tiled = comparer.compute(tokens, ALIGNED).float()
    allowed = _ROUNDING.get(kv.dtype.itemsize, 1e-3)
    return not bool((own - tiled).square().mean().sqrt() <= allowed * own.std())


def _random_tokens(forward: Forward, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(getattr(forward.model.config.get_text_config(), "vocab_size", 1000))
    tokens: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return tokens


def _compare_all(forward: Forward, kv: KVLayout) -> Iterator[bool]:
    """Yield for each comparison whether a hit gave the miss's bits, in keys, values and logits."""
    tokens = _random_tokens(forward, _CASES[0][0])
    comparer = Comparer(forward, kv)
    cases = [case for case in _CASES if case[0] <= forward.context_length_tokens]
    for length, reuses in cases:
        logits = comparer.compute(tokens[:length], ALIGNED)
        for reused in reuses:
            yield not comparer.differs(tokens[:length], logits, reused, ALIGNED)
    for (longer, _), (shorter, _) in pairwise(cases):
        yield not comparer.differs_from_longer(tokens[:shorter], tokens[:longer], ALIGNED)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _why_never_aligned(model: Any) -> str:
    config = model.config.get_text_config()
    if not supports_tiles(model.config):
        return f"its attention ({config._attn_implementation}) is not the one that can be tiled"
    if any("expert" in name for name, _ in model.named_modules()):
        return "a mixture of experts: how many tokens meet in a matrix product depends on the others"
    if getattr(model, "quantization_method", None) is not None or getattr(model, "is_quantized", False):
        return "quantised weights: their kernels look at all tokens of a call at once"
    return ""


def _fingerprint(forward: Forward, kv: KVLayout) -> str:
    import transformers

    model = forward.model
    config = {k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"}
    parameters = [(n, list(p.shape), str(p.dtype)) for n, p in model.named_parameters()]
    facts = {
        "version": _VERSION,
        "cases": _CASES,
        "layout": asdict(ALIGNED),
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


def _read(file: Path) -> Exactness | None:
    try:
        known = Exactness(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return known if known.mode in {"aligned", "grid"} else None


def _write(file: Path, result: Exactness) -> None:
    try:
        make_private(file.parent)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as new:
            json.dump(asdict(result), new)
        os.replace(new.name, file)
    except OSError:
        return  # only a memo: without it the next start measures again
