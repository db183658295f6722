"""Values as bytes and back, without pickle: what comes back equals what went in, type included."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from axolotl_cache.response import strict_json
from axolotl_cache.stores import Record

TEXT = "text"
BYTES = "bytes"
JSON = "json"

_JSON_TYPES = frozenset({dict, list, int, float, bool, type(None)})


class _Tensors(Protocol):
    def encode(self, value: Any) -> tuple[str, bytes]: ...
    def decode(self, codec: str, payload: bytes) -> Any: ...


def encode(value: Any) -> tuple[str, bytes]:
    """Return the codec's name and the bytes.

    Args:
        value: str, bytes, JSON (dicts with str keys, lists, int, finite float, bool, None), a numpy array
            or a torch tensor.

    Raises:
        TypeError: anything else; the message says what to do.
    """
    kind = type(value)
    if kind is str:
        return TEXT, value.encode("utf-8", "surrogatepass")
    if kind is bytes:
        return BYTES, value
    if kind in _JSON_TYPES:
        return JSON, strict_json.to_bytes(value, "the value")
    if kind.__module__.partition(".")[0] in ("numpy", "torch"):
        return _tensors().encode(value)
    if kind in (bytearray, memoryview):
        raise TypeError(f"a {kind.__name__} would come back as bytes: store bytes(value)")
    try:
        strict_json.to_bytes(value, "the value")
    except TypeError as error:
        raise TypeError(
            f"can't be cached without loss: {error}. Values: str, bytes, JSON, numpy arrays, torch tensors."
        ) from None
    raise AssertionError("unreachable: every JSON type was handled above")  # pragma: no cover - for mypy


def decode(record: Record) -> Any:
    """Return the value, built anew unless it is immutable. Cost: O(size)."""
    codec = record.codec
    if codec == TEXT:
        return record.payload.decode("utf-8", "surrogatepass")
    if codec == BYTES:
        return record.payload
    if codec == JSON:
        return strict_json.from_bytes(record.payload)
    return _tensors().decode(codec, record.payload)


def _tensors() -> _Tensors:
    return cast(_Tensors, import_module("axolotl_cache.response.tensors"))
