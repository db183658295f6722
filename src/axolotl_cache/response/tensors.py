"""numpy arrays and torch tensors as safetensors. Imported when the first one comes along, and not before."""

from __future__ import annotations

import sys
from typing import Any

_NAME = "value"
_INSTALL = "install it: pip install 'axolotl-cache[tensors]'"


def encode(value: Any) -> tuple[str, bytes]:
    """Return the codec's name and the bytes. Cost: one copy.

    Raises:
        TypeError: not exactly a numpy array or a torch tensor, or one that would come back different.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and type(value) is numpy.ndarray:
        return "numpy", _encode_array(value)
    if torch is not None and type(value) is torch.Tensor:
        return "torch", _encode_tensor(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if numpy is not None and isinstance(value, numpy.generic):
        raise TypeError(
            f"{kind} would come back as another type: store value.item(), or numpy.asarray(value)"
        )
    if torch is not None and isinstance(value, torch.Tensor):
        raise TypeError(
            f"{kind} would come back as a plain tensor: store .detach().as_subclass(torch.Tensor)"
        )
    raise TypeError(f"{kind} can't be cached: store a plain array or tensor, or its JSON form")


def decode(codec: str, payload: bytes) -> Any:
    """Return an array or tensor that shares no memory with anything.

    Raises:
        ImportError: numpy, torch or safetensors is not installed here.
        ValueError: the codec is unknown.
    """
    try:
        if codec == "numpy":
            from safetensors.numpy import load as load_arrays

            # `.copy()`: what safetensors returns may look into a read-only buffer
            return load_arrays(payload)[_NAME].copy()
        if codec == "torch":
            from safetensors.torch import load as load_tensors

            return load_tensors(payload)[_NAME].clone()
    except ImportError as error:
        raise ImportError(
            f"a {codec} value is stored here, and {error.name} is not installed: {_INSTALL}"
        ) from error
    raise ValueError(f"no codec {codec!r} here: the value was stored by a later version")


def _encode_array(value: Any) -> bytes:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save
    except ImportError as error:
        raise TypeError(f"an array needs safetensors to be cached: {_INSTALL}") from error
    if not value.dtype.isnative or value.dtype.hasobject or value.dtype.names is not None:
        raise TypeError(
            f"an array of dtype {value.dtype} can't be cached without loss: use numbers, in native byte order"
        )
    try:
        # not `ascontiguousarray`, which makes an array of no dimensions one of one
        return bytes(save({_NAME: value.copy(order="C")}))
    except (KeyError, ValueError, SafetensorError) as error:
        raise TypeError(
            f"an array of dtype {value.dtype} can't be cached: safetensors does not know it"
        ) from error


def _encode_tensor(value: Any) -> bytes:
    import torch

    try:
        from safetensors import SafetensorError
        from safetensors.torch import save
    except ImportError as error:
        raise TypeError(f"a tensor needs safetensors to be cached: {_INSTALL}") from error
    if value.layout is not torch.strided or value.is_quantized:
        raise TypeError(f"a {value.layout} tensor can't be cached without loss: store value.to_dense()")
    if value.device.type != "cpu":
        raise TypeError(f"a tensor on {value.device} would come back on the CPU: store value.cpu()")
    if value.requires_grad:
        raise TypeError("a tensor with requires_grad would lose its graph: store value.detach()")
    try:
        return bytes(save({_NAME: value.resolve_conj().resolve_neg().contiguous().clone()}))
    except (KeyError, ValueError, SafetensorError) as error:
        raise TypeError(
            f"a tensor of dtype {value.dtype} can't be cached: safetensors does not know it"
        ) from error
