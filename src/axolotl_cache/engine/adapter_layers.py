"""The layers of LoRA adapters: made by PEFT on a copy of the module tree, put where the base's own stand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from axolotl_cache.engine.speed import PackedLinear
from axolotl_cache.errors import ModelLoadError

_KEY: Final = "axolotl_cache"  # PEFT's name for an adapter; each has a tree of its own, and so the same one

_SMALL: Final = 16 * 16 * 16
"""Products of up to this many multiplications take another way through torch on a CPU in 16 bits, and round
otherwise: the few rows of a decoding step would not get a prompt's bits. Source: `checksize` in
aten/src/ATen/native/mkldnn/Matmul.cpp."""


@dataclass(frozen=True, slots=True)
class _Place:
    siblings: dict[str, nn.Module | None]
    """The children of the module above."""
    name: str
    module: nn.Module
    """The base model's own."""


class LayerTree:
    """A model's modules as the base model has them, and what stands in their places now."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._places: dict[str, _Place] = {}
        self.own: dict[str, nn.Module] = {}
        """Layers of the adapter that the model came with."""
        self._index(root, "")
        plain = [root, *(place.module for place in self._places.values())]
        self._shared = {id(p): p for m in plain for p in m._parameters.values() if p is not None}
        """The base model's weights."""
        self._now: Mapping[str, nn.Module] | None = self.own

    def _index(self, module: nn.Module, path: str) -> None:
        for name, child in module._modules.items():
            if child is None:
                continue
            at = f"{path}.{name}" if path else name
            plain = _plain(child)
            if plain is not child:
                self.own[at] = child
            self._places[at] = _Place(module._modules, name, plain)
            self._index(plain, at)

    def put(self, layers: Mapping[str, nn.Module]) -> None:
        """Let these layers stand in their places, and the base model's modules in all others."""
        if layers is self._now:
            return
        # Cut off in the midst, as by Ctrl-C, nobody knows what stands where.
        before, self._now = self._now, None
        for path in self._places if before is None else before:
            place = self._places[path]
            place.siblings[place.name] = place.module
        for path, layer in layers.items():
            place = self._places[path]
            place.siblings[place.name] = layer
        self._now = layers

    def layers(
        self, config: Any, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> tuple[dict[str, nn.Module], int]:
        """Return the layers that an adapter puts in place of the base model's, and their own bytes.

        Raises:
            ModelLoadError: the weights are not those of an adapter of this model; PEFT's own errors, too.
        """
        from peft import PeftModel, set_peft_model_state_dict

        with _unchanged(self._shared.values()):
            originals: dict[int, nn.Module] = {}
            adapted = PeftModel(self._twin(originals), config, _KEY, autocast_adapter_dtype=False)
            result = set_peft_model_state_dict(
                adapted, self._without_base(adapted, weights), adapter_name=_KEY
            )
            found = dict(_wrappers(adapted.base_model.model, ""))
        lacking = _not_loaded(adapted, set(result.missing_keys))
        for keys, said in ((lacking, "lacks"), (result.unexpected_keys, "has too many:")):
            if keys:
                names = ", ".join(sorted(keys)[:3])
                raise ModelLoadError(
                    f"it was made for another model: it {said} {len(keys)} tensors ({names})"
                )
        for layer in found.values():
            _restore(layer, originals)
            layer.eval()
        for parameter in self._own_weights(found):
            parameter.requires_grad_(False)
            if parameter.is_floating_point() and not hasattr(parameter, "quant_state"):
                parameter.data = parameter.data.to(dtype)
        for layer in found.values():
            _fill_up(layer)
        nbytes = sum(p.nbytes for p in self._own_weights(found))
        return {path: _lean(layer) for path, layer in found.items()}, nbytes

    def _own_weights(self, layers: Mapping[str, nn.Module]) -> list[nn.Parameter]:
        """Return the weights of layers that are not the base model's, each once."""
        all_of_them = {id(p): p for layer in layers.values() for p in layer.parameters()}
        return [parameter for key, parameter in all_of_them.items() if key not in self._shared]

    def _twin(self, originals: dict[int, nn.Module]) -> nn.Module:
        """Return a copy of the plain tree for PEFT to change; `originals` gets the copied by their copy's id.

        Modules without children are shared, and so are all weights. It is never run.
        """

        def copied(module: nn.Module, path: str) -> nn.Module:
            if not module._modules:
                return module
            twin = type(module).__new__(type(module))
            twin.__dict__ = dict(module.__dict__)
            twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
            # The base model's, whatever stands in their places while this runs.
            twin._modules = {
                name: None if child is None else copied(self._places[path + name].module, f"{path}{name}.")
                for name, child in module._modules.items()
            }
            originals[id(twin)] = module
            return twin

        root = copied(self._root, "")
        root.__dict__.pop("peft_config", None)
        return root

    def _without_base(
        self, adapted: nn.Module, weights: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return the weights without copies of the base model's own, which PEFT would write into them.

        PEFT saves embeddings along when an adapter acts on them.
        """
        from peft.utils.other import AuxiliaryTrainingWrapper

        trained = {
            f"{name}.{key}"
            for name, module in adapted.named_modules()
            if isinstance(module, AuxiliaryTrainingWrapper)
            for key in module.adapter_state_dict_load_map(_KEY)
        }
        kept: dict[str, torch.Tensor] = {}
        for name, tensor in weights.items():
            base = None if name in trained or "lora_" in name else self._base_tensor(name)
            if base is None:
                kept[name] = tensor
            elif base.shape != tensor.shape or not torch.equal(base.cpu(), tensor.to(base.dtype)):
                raise ModelLoadError(
                    f"it holds other weights for {name} than the base model, and all adapters share "
                    "those; train such layers as modules_to_save"
                )
        return kept

    def _base_tensor(self, name: str) -> torch.Tensor | None:
        path, _, tensor = name.removeprefix("base_model.model.").replace(".base_layer.", ".").rpartition(".")
        place = self._places.get(path)
        return getattr(place.module, tensor, None) if place else None


def _not_loaded(adapted: nn.Module, missing: set[str]) -> list[str]:
    """Return those of the missing tensors that are an adapter's own, and that no other name of theirs set."""
    named = dict(adapted.named_parameters(remove_duplicate=False))  # tied layers share theirs
    loaded = {id(parameter) for name, parameter in named.items() if name not in missing}
    own = [name for name in missing if f".{_KEY}." in name or name.endswith(f".{_KEY}")]
    return [name for name in own if id(named.get(name)) not in loaded]


def _plain(module: nn.Module) -> nn.Module:
    """Return what an adapter's layer stands for; any other module as it is."""
    if not type(module).__module__.startswith("peft."):
        return module
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        is_tuner = isinstance(module, BaseTunerLayer)
        module = module.get_base_layer() if is_tuner else module.original_module
    return module


def _wrappers(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield an adapter's layers in a tree, the outermost ones, with their paths."""
    for name, child in module._modules.items():
        if child is None:
            continue
        at = f"{path}.{name}" if path else name
        if _plain(child) is child:
            yield from _wrappers(child, at)
        else:
            yield at, child


def _restore(layer: nn.Module, originals: Mapping[int, nn.Module]) -> None:
    """Let a layer stand on the model's own modules where it stands on copies of them."""
    for module in layer.modules():
        for name, child in module._modules.items():
            if id(child) in originals:
                module._modules[name] = originals[id(child)]


def _fill_up(layer: nn.Module) -> None:
    """Fill ranks up with zeros, which change no result, so that a single row is no small product."""
    from peft.tuners.lora.layer import LoraLayer

    for module in layer.modules():
        if not isinstance(module, LoraLayer):
            continue
        if _KEY in module.lora_A:
            down, up = module.lora_A[_KEY], module.lora_B[_KEY]
            down.weight, up.weight = _filled_up(down.weight, up.weight)
        if _KEY in module.lora_embedding_A:
            both = _filled_up(module.lora_embedding_A[_KEY], module.lora_embedding_B[_KEY])
            module.lora_embedding_A[_KEY], module.lora_embedding_B[_KEY] = both


def _filled_up(down: nn.Parameter, up: nn.Parameter) -> tuple[nn.Parameter, nn.Parameter]:
    """Return (rank, in) and (out, rank) with as large a rank as it takes."""
    missing = _SMALL // min(down.shape[1], up.shape[0]) + 1 - down.shape[0]
    if missing <= 0 or down.dtype.itemsize != 2 or down.device.type != "cpu":
        return down, up
    down = nn.Parameter(nn.functional.pad(down.data, (0, 0, 0, missing)), requires_grad=False)
    return down, nn.Parameter(nn.functional.pad(up.data, (0, missing)), requires_grad=False)


def _lean(layer: Any) -> Any:
    """Return a layer that computes the same bits in fewer steps, where it is a plain one."""
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or type(layer.base_layer) not in {nn.Linear, PackedLinear}:
        return layer
    down, up = layer.lora_A[_KEY].weight, layer.lora_B[_KEY].weight
    same = down.dtype == up.dtype == layer.base_layer.weight.dtype
    if layer.lora_variant or layer.lora_B[_KEY].bias is not None or not same:
        return layer
    return _LoraLinear(layer.base_layer, down, up, layer.scaling[_KEY])


class _LoraLinear(nn.Module):
    """PEFT's plain LoRA on a linear layer, without what it asks at every call.

    Args:
        base: (out, in).
        down: (rank, in).
        up: (out, rank).
        scale: factor of what is added.
    """

    def __init__(self, base: nn.Linear, down: nn.Parameter, up: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.base_layer = base
        self.down = down
        # A power of two changes exponents only, so that it may as well be in the weights: nothing rounds,
        # but for float16, which has few of them.
        folds = math.frexp(scale)[0] == 0.5 and up.dtype != torch.float16
        self.up = nn.Parameter(up.data * scale, requires_grad=False) if folds else up
        self._scale = 1.0 if folds else scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for (..., in)."""
        added = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        if self._scale != 1.0:
            added = added * self._scale
        result: torch.Tensor = self.base_layer(x)
        return result + added


@contextmanager
def _unchanged(parameters: Any) -> Iterator[None]:
    """Leave it to the model's owner which weights are trained: PEFT freezes all but its own."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)
