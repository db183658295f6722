"""Linear layers that keep their weights in the order in which the processor's kernels read them.

Decoding reads every weight for a few rows of input, so it is as fast as weights are read. Given weights as
torch keeps them, oneDNN puts them into its own order at every call; here that is done once, at start. Layers
with the same input, as those for queries, keys and values, are computed as one product besides.

What was measured, what else was tried, and what is left: docs/design/decode-speed.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, Literal

import torch
from torch import nn

from axolotl_cache.errors import ModelLoadError

Speed = Literal["plain", "packed"]

_ROWS_HINT: Final = 32
"""Rows that oneDNN is told to expect. Told of one, it leaves float32 weights in an order slow for more."""

_LEAST_ROWS: Final = 4
"""Products with fewer rows go another way through the kernels: they round otherwise, and take longer."""

_CHECKED_ROWS: Final = (1, 2, 3, 4, 5, 8, 17, 33, 64)

_SIBLINGS: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' models give one and the same input, by their names in the module above."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did."""

    how: Speed
    """`plain` also where no layer could be packed without rounding by the number of rows."""
    packed: int = 0
    """Layers whose weights are packed now."""
    joined: int = 0
    """Those of them that are computed together with a sibling."""
    left: int = 0
    """Plain linear layers that stay so: of another dtype or device, or whose rows depend on their number."""
    same_bits: bool = True
    """Whether packed layers gave the bits of unpacked ones. Where not, keys and values of packed and plain
    models must not be mixed: the namespace has to tell them apart."""
    seconds: float = 0.0


def prepare(model: Any, how: Speed) -> Prepared:
    """Make a model decode faster, in place. Call it before anything is computed or probed.

    `packed`: the weights of linear layers are put into the kernels' order, and siblings (q/k/v, gate/up)
    become one product. Cost: 0.15 to 0.3 seconds for 135 million parameters. Memory: no more than before,
    but for a head that shared the embedding's weights, which gets its own; one layer twice on the way.

    Bits: a row's result does not depend on how many others there are, from one row on; a layer for which
    that does not hold on this machine is left as it is. In bfloat16 the results are those of the plain
    model; in float32 they are rounded in another order (see `Prepared.same_bits`).

    The layers stay `nn.Linear`s, the same objects, and compute without gradients. Their `weight` is a copy
    made at each reading, and writing to it changes nothing: load and merge weights before.

    Args:
        model: a Hugging Face causal LM in eval mode, with or without LoRA adapters. These stay as they are,
            and more can be loaded later.
        how: `plain` changes nothing.

    Raises:
        ModelLoadError: nothing can be packed here; the message says why. The model is unchanged.
    """
    if how == "plain":
        return Prepared(how)
    why_not = why_not_packed(model)
    if why_not:
        raise ModelLoadError(f"the weights can't be packed: {why_not}. Leave them plain.")
    start = time.perf_counter()
    packing = _Packing()
    with torch.no_grad():
        for layers in list(_groups(model)):
            if not packing.pack(layers) and len(layers) > 1:
                for layer in layers:
                    packing.pack([layer])
    return Prepared(
        "packed" if packing.packed else "plain",
        packed=packing.packed,
        joined=packing.joined,
        left=sum(len(layers) for layers in _groups(model)),
        same_bits=all(check.same_bits for check in packing.checks.values() if check.same_rows),
        seconds=time.perf_counter() - start,
    )


def why_not_packed(model: Any) -> str:
    """Return why a model's weights can't be packed here; empty if they can."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return "this build of torch has no oneDNN, or one without packed weights"
    layers = [layer for group in _groups(model) for layer in group]
    if not layers:
        return "the model has no plain linear layers (quantised ones, or packed already)"
    if any(_packable(layer) for layer in layers):
        return ""
    kinds = ", ".join(
        sorted({f"{x.weight.dtype} on {x.weight.device.type}".removeprefix("torch.") for x in layers})
    )
    return f"its linear layers are {kinds}; on a CPU float32 can be, and bfloat16 where the processor has it"


class PackedLinear(nn.Linear):
    """A linear layer whose weights stand in the kernels' order, alone or together with its siblings'.

    Made of an `nn.Linear` by `prepare`, in place.
    """

    _product: _Product
    _columns: slice

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return x W^T + b: (..., in_features) -> (..., out_features), a view if there are siblings."""
        return self._product.part(input, self._columns)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # a parameter in nn.Linear
        """A copy of the weights in their usual order, (out_features, in_features)."""
        weights: torch.Tensor = self._product.packed.to_dense()
        return weights[self._columns]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # What is saved, and what names a model by its tensors, is the same packed and plain.
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)


@dataclass(slots=True)
class _Held:
    """A product that siblings are still to take their parts of."""

    input: torch.Tensor
    output: torch.Tensor
    left: int


class _Product:
    """x W^T + b of one or several layers, whose results stand side by side.

    Args:
        layers: with equally many inputs, and all with a bias or none.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(
            _side_by_side([layer.weight for layer in layers]), _ROWS_HINT
        )
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = _side_by_side(biases) if biases else None
        self._layers = len(layers)
        self._held: _Held | None = None

    def part(self, input: torch.Tensor, columns: slice) -> torch.Tensor:
        """Return one layer's results; the first sibling to ask computes them for all."""
        if self._layers == 1:
            return self.whole(input)
        held = self._held
        # By identity: it can't be another tensor at the same address, because it is held.
        if held is None or held.input is not input:
            held = self._held = _Held(input, self.whole(input), self._layers)
        held.left -= 1
        if not held.left:
            self._held = None
        return held.output[..., columns]

    def whole(self, input: torch.Tensor) -> torch.Tensor:
        """Return the results of all layers, (..., out)."""
        rows = input.shape[:-1].numel()
        if rows >= _LEAST_ROWS:
            return self._run(input)
        flat = nn.functional.pad(input.reshape(rows, input.shape[-1]), (0, 0, 0, _LEAST_ROWS - rows))
        return self._run(flat)[:rows].view(*input.shape[:-1], self.packed.shape[0])

    def _run(self, input: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
            input, self.packed, self._bias, "none", [], ""
        )
        return out


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return (tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))).detach()


@dataclass(frozen=True, slots=True)
class _Check:
    same_rows: bool
    """Whether a row's bits are the same, however many rows there are."""
    same_bits: bool
    """Whether they are those of the plain layers."""


@dataclass(slots=True)
class _Packing:
    """Packs layers, and checks each shape of them once."""

    packed: int = 0
    joined: int = 0
    checks: dict[tuple[Any, ...], _Check] = field(default_factory=dict)

    def pack(self, layers: Sequence[nn.Linear]) -> bool:
        """Pack layers into one product, in place; return whether that was done."""
        # A layer that stands at two places in the model is packed at the first.
        if not all(type(layer) is nn.Linear and _packable(layer) for layer in layers):
            return False
        first = layers[0]
        widths = [layer.out_features for layer in layers]
        kind = (*widths, first.in_features, first.weight.dtype, first.bias is None)
        known = self.checks.get(kind)
        if known and not known.same_rows:
            return False
        product = _Product(layers)
        if not known:
            known = self.checks[kind] = _check(product, layers)
        if not known.same_rows:
            return False
        for layer, stop in zip(layers, accumulate(widths), strict=True):
            _replace(layer, product, slice(stop - layer.out_features, stop))
        self.packed += len(layers)
        self.joined += len(layers) if len(layers) > 1 else 0
        return True


def _check(product: _Product, layers: Sequence[nn.Linear]) -> _Check:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((_CHECKED_ROWS[-1], layers[0].in_features), generator=generator)
    rows = rows.to(layers[0].weight.dtype)
    whole = product.whole(rows)
    plain = torch.cat([layer(rows) for layer in layers], -1)
    return _Check(
        same_rows=all(torch.equal(product.whole(rows[:few]), whole[:few]) for few in _CHECKED_ROWS),
        same_bits=torch.equal(whole, plain),
    )


def _replace(layer: nn.Linear, product: _Product, columns: slice) -> None:
    del layer.weight
    # The same object goes on, so that adapters and whoever else holds it compute packed, too.
    packed: Any = layer
    packed.__class__ = PackedLinear
    packed._product, packed._columns = product, columns


def _packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    if weight.device.type != "cpu" or "forward" in vars(layer):  # such as accelerate's, which moves weights
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _groups(module: nn.Module) -> Iterator[list[nn.Linear]]:
    """Yield the base model's plain linear layers: siblings together, all others alone."""
    children = {name: _base(child) for name, child in module.named_children()}
    plain = {name: child for name, child in children.items() if type(child) is nn.Linear}
    for names in _SIBLINGS:
        layers = [plain[name] for name in names if name in plain]
        if len(layers) == len(names) and _share_input(module, layers):
            for name in names:
                del plain[name]
            yield layers
    for layer in plain.values():
        yield [layer]
    for child in children.values():
        if child is not None and type(child) is not nn.Linear:
            yield from _groups(child)


def _share_input(module: nn.Module, layers: Sequence[nn.Linear]) -> bool:
    """Return whether layers can be one product, and the module uses them all."""
    kinds = {(x.in_features, x.bias is None, x.weight.dtype, x.weight.device) for x in layers}
    return len(kinds) == 1 and not getattr(module, "is_kv_shared_layer", False)


def _base(module: nn.Module) -> nn.Module | None:
    """Return an adapter's base layer, any other module as it is; None for what must stay as it is."""
    base = getattr(module, "base_layer", None)
    if not isinstance(base, nn.Module):
        return module
    # DoRA reads the base layer's weights at every call, which is slow where they are packed.
    magnitudes: Any = getattr(module, "lora_magnitude_vector", ())
    return None if len(magnitudes) else _base(base)
