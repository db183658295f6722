"""The namespace of a model that lives in somebody else's program, which may change it at any time."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from axolotl_cache.engine.digest import combine
from axolotl_cache.engine.identity import describe_compute, describe_quantisation, digest_model
from axolotl_cache.engine.loader import context_length
from axolotl_cache.namespace import Namespace

_REMEMBERED: Final = 8
"""Marks whose digests are kept, so that switching adapters to and fro reads no weights."""


class LiveModel:
    """Names a model in memory by what it is at the moment of asking.

    Args:
        model: a Hugging Face causal LM, or a PeftModel around one.
        environment_tag: part of the namespace.
        cache_version: part of the namespace.
    """

    def __init__(self, model: Any, *, environment_tag: str, cache_version: str) -> None:
        self.model = model
        self._environment_tag = environment_tag
        self._cache_version = cache_version
        self._known: OrderedDict[tuple[Any, ...], Namespace] = OrderedDict()

    def namespace(self) -> Namespace:
        """Return the namespace; tokens are the keys in it, so that it holds no tokenizer.

        Cost: about a millisecond while nothing has changed; else every weight is read once, about 1 GB a
        second. A write to a tensor is seen if torch counts it, as it does those of training, of
        `load_state_dict` and of `merge_adapter`; one through `.data` is not.
        """
        mark = self._mark()
        if mark not in self._known:
            self._known[mark] = self._digested()
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(mark)
        return self._known[mark]

    def placement(self) -> tuple[str, ...]:
        """Return what an engine is made for: where the model is, its dtype, and its attention."""
        attention = getattr(self.model.config, "_attn_implementation", None)
        return str(self.model.device), str(self.model.dtype), str(attention)

    def context_length_tokens(self) -> int:
        """Return how many tokens the model accepts."""
        return context_length(self.model.config)[0]

    @contextmanager
    def same_random_numbers(self) -> Iterator[None]:
        """Leave torch's random numbers as they were: whoever calls has set their seed."""
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield

    def _digested(self) -> Namespace:
        model = self.model
        return Namespace(
            weights=digest_model(model),
            adapter=combine("adapters in use", _adapters(model)),
            tokenizer="",
            chat_template="",
            dtype=str(model.dtype).removeprefix("torch."),
            quantisation=describe_quantisation(model),
            compute=describe_compute(model),
            environment_tag=self._environment_tag,
            cache_version=self._cache_version,
        )

    def _mark(self) -> tuple[Any, ...]:
        """Return what differs after any write to a weight that torch knows of.

        Weak references to the storages, not addresses: an address is used again for other weights, and a
        reference that is held keeps its storage's name from being.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        return (
            json.dumps(_adapters(self.model)),
            describe_compute(self.model),
            *((_name(t), _version(t), t.dtype, t.shape) for t in tensors),
        )


def _name(tensor: torch.Tensor) -> Any:
    """Return what equals no other storage's as long as it is held; it does not keep the storage."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _adapters(model: Any) -> list[list[Any]]:
    """Return which adapters are in use, as PEFT's layers have it: all alike, but for the layers' names."""
    found = {
        (bool(layer.disable_adapters), tuple(layer.active_adapters), tuple(layer.merged_adapters))
        for layer in model.modules()
        if hasattr(layer, "disable_adapters") and hasattr(layer, "merged_adapters")
    }
    return sorted([disabled, list(active), list(merged)] for disabled, active, merged in found)
