"""Linear layers that keep their weights in the order the processor's kernels read them.

Decoding reads every weight for a few rows of input, so it is as fast as weights are read. As torch keeps them,
oneDNN puts them into its own order at every call; here that is done once, at start. Layers that are given
the same input, as queries, keys and values, are computed as one product besides.

What was measured, what else was tried, and what is left: docs/design/decode-speed.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from axolotl_cache.errors import ModelLoadError

Speed = Literal["plain", "packed"]

_ROWS_HINT: Final = 32
"""Rows that oneDNN is told to expect. For one row it keeps the order of float32 weights, which is slow for more."""

_LEAST_ROWS: Final = 4
"""Products with fewer rows go another way through the kernels: they round otherwise, and take longer."""

_DTYPES: Final = (torch.bfloat16, torch.float32)

_SIBLINGS: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' models give one and the same input, by their names in the module above."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did."""

    how: Speed
    packed: int = 0
    """Layers whose weights are packed now."""
    joined: int = 0
    """Those of them that are computed together with a sibling."""
    left: int = 0
    """Linear layers that stay as they are: another dtype or device, or rows that depend on their number."""
    same_bits: bool = True
    """Whether packed layers gave the bits of unpacked ones. Where not, keys and values of packed and plain
    models must not be mixed: the namespace has to tell them apart."""
    seconds: float = 0.0


def prepare(model: Any, how: Speed) -> Prepared:
    """Make a model decode faster, in place. Call it before anything is computed or probed.

    `packed`: the weights of linear layers are put into the kernels' order, and siblings (q/k/v, gate/up) joined.
    Cost: 0.15 to 0.3 seconds for 135 million parameters. Memory: none but for a head that shares the
    embedding's weights, which gets a copy; while it runs, one layer twice.

    Bits: a row's result does not depend on how many others there are, from one row on; a layer for
    which that is not so on this machine is left as it is. In bfloat16 the results are those of the plain
    model; in float32 they are rounded in another order (see `Prepared.same_bits`).

    The layers stay `nn.Linear`s, for inference only. Their `weight` is a copy made at each reading, and
    writing to it changes nothing: load and merge weights before.

    Args:
        model: a Hugging Face causal LM in eval mode, with or without LoRA adapters. Adapters stay as they
            are, and more can be loaded later.
        how: `plain` changes nothing.

    Raises:
        ModelLoadError: nothing can be packed here; the message says why. The model is unchanged.
    """
    if how == "plain":
        return Prepared(how)
    why_not = why_not_packed(model)
    if why_not:
        raise ModelLoadError(f"weights can't be packed: {why_not}. Use plain.")
    start = time.perf_counter()
    checks: dict[tuple[Any, ...], _Check] = {}
    packed = joined = 0
    with torch.no_grad():
        for layers in list(_groups(model)):
            # A product of several is not worth a layer that rounds by the number of rows.
            for members in (layers, *([layer] for layer in layers)) if len(layers) > 1 else (layers,):
                if all(type(layer) is nn.Linear for layer in members) and _pack(members, checks):
                    packed += len(members)
                    joined += len(members) if len(members) > 1 else 0
    used = [check for check in checks.values() if check.same_rows]
    if not packed:
        raise ModelLoadError("weights can't be packed: rows depend on their number here. Use plain.")
    return Prepared(
        how,
        packed=packed,
        joined=joined,
        left=sum(type(module) is nn.Linear for module in _linears(model)),
        same_bits=all(check.same_bits for check in used),
        seconds=time.perf_counter() - start,
    )


def why_not_packed(model: Any) -> str:
    """Return why a model's weights can't be packed here; empty if they can."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_reorder_linear_weight"):
        return "this build of torch has no oneDNN, or one without packed weights"
    layers = [layer for layer in _linears(model) if type(layer) is nn.Linear]
    if not layers:
        return "it has no plain linear layers (quantised weights, or packed already)"
    if not any(_packable(layer) for layer in layers):
        kinds = {f"{layer.weight.dtype} on {layer.weight.device.type}" for layer in layers}
        return (
            f"its linear layers are {', '.join(sorted(kinds))}; float32 and, where the processor has it, "
            + ("bfloat16 on a CPU can be")
        )
    return ""


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
        return self._product.packed.to_dense()[self._columns]

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
        alone = len(layers) == 1
        weight = layers[0].weight if alone else torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS_HINT)
        self.bias = (biases[0] if alone else torch.cat(biases)).detach() if biases else None
        self._layers = len(layers)
        self._held: _Held | None = None

    def part(self, input: torch.Tensor, columns: slice) -> torch.Tensor:
        """Return one layer's results; the first sibling to ask computes for all of them."""
        if self._layers == 1:
            return self.whole(input)
        held = self._held
        # By identity: an equal input elsewhere is another call. Held, it can't have been freed meanwhile.
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
        return self._run(flat)[:rows].unflatten(0, input.shape[:-1])

    def _run(self, input: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
            input, self.packed, self.bias, "none", [], ""
        )
        return out


@dataclass(frozen=True, slots=True)
class _Check:
    same_rows: bool
    """Whether a row's bits are the same, however many rows there are."""
    same_bits: bool
    """Whether they are those of the plain layer."""


def _pack(layers: Sequence[nn.Linear], checks: dict[tuple[Any, ...], _Check]) -> bool:
    """Pack layers into one product, in place; return whether that was done."""
    if not all(_packable(layer) for layer in layers):
        return False
    product = _Product(layers)
    kind = (product.packed.shape, product.packed.dtype, product.bias is None)
    if kind not in checks:
        checks[kind] = _check(product, layers)
    if not checks[kind].same_rows:
        return False
    start = 0
    for layer in layers:
        del layer.weight
        # The same object, so that whoever holds it computes packed, too.
        layer.__class__ = PackedLinear
        packed: Any = layer
        packed._product = product
        packed._columns = slice(start, start + layer.out_features)
        start += layer.out_features
    return True


def _check(product: _Product, layers: Sequence[nn.Linear]) -> _Check:
    generator = torch.Generator().manual_seed(0)
    shape = (64, layers[0].in_features)
    rows = torch.randn(shape, generator=generator).to(product.packed.dtype)
    whole = product.whole(rows)
    plain = torch.cat([layer(rows) for layer in layers], -1)
    same_rows = all(torch.equal(product.whole(rows[:few]), whole[:few]) for few in (1, 2, 3, 4, 5, 8, 17, 33))
    return _Check(same_rows, torch.equal(whole, plain))


def _packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    right = weight.device.type == "cpu" and weight.dtype in _DTYPES and weight.numel() > 0
    narrow = weight.dtype == torch.bfloat16
    return right and (not narrow or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    """Yield the base model's linear layers, each once, whatever wraps them; packed ones, too."""
    seen: set[int] = set()
    for group in _groups(module):
        for layer in group:
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer


def _groups(module: nn.Module) -> Iterator[list[nn.Linear]]:
    """Yield the base model's linear layers: siblings together, all others alone."""
    children = {name: _base(child) for name, child in module.named_children()}
    taken: set[str] = set()
    for names in _SIBLINGS:
        found = [children.get(name) for name in names]
        layers = [layer for layer in found if isinstance(layer, nn.Linear)]
        if len(layers) == len(names) and _joinable(layers):
            taken.update(names)
            yield layers
    for name, child in children.items():
        if name in taken or child is None:
            continue
        if isinstance(child, nn.Linear):
            yield [child]
        else:
            yield from _groups(child)


def _joinable(layers: Sequence[nn.Linear]) -> bool:
    return len({(layer.in_features, layer.bias is None, type(layer)) for layer in layers}) == 1 and (
        len({(layer.weight.dtype, layer.weight.device) for layer in layers}) == 1
    )


def _base(module: nn.Module) -> nn.Module | None:
    """Return the base layer of an adapter's, any other module as it is; None for what must stay as it is."""
    if not hasattr(module, "base_layer"):
        return module
    # DoRA reads the base layer's weights at every call, which packed ones are too slow for.
    return None if len(getattr(module, "lora_magnitude_vector", ())) else _base(module.base_layer)
