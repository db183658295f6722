"""Keys: a digest of everything that was asked, and of nothing else."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from axolotl_cache.namespace import Namespace
from axolotl_cache.response import strict_json
from axolotl_cache.response.request_key import CanonicalRequest, KeyExplanation, key_field

KEY_VERSION = "r1"
"""Stands in front of every key; raised when the same input would give another digest."""
REQUEST_KEY_VERSION = "q1"
"""Likewise, in front of the keys of canonical requests."""


class KeyMaker:
    """Makes keys that are equal in every process, on every machine and in every later version.

    Nothing is normalised: two inputs that differ in one space, in the order of messages, or in 1 against
    1.0 give two keys. Only the order of a dict's keys does not matter, as it does not to Python.

    Args:
        namespace: what the keys are bound to; keys of another one are different keys. None is a
            namespace of its own.
    """

    def __init__(self, namespace: Namespace | str | None) -> None:
        name = namespace_name(namespace)
        base = blake2b(digest_size=32, person=b"axc-response-key")
        # framed by its length, so that no namespace can be mistaken for the beginning of a text
        base.update(b"%d:%b;" % (len(name), name))
        self._text = base.copy()
        self._text.update(b"text:")
        self._json = base.copy()
        self._json.update(b"json:")
        self._request = base
        self._request.update(b"request:")
        self._namespace = blake2b(name, digest_size=16, person=b"axc-key-field").hexdigest() if name else ""

    def __call__(self, user_input: Any, context: dict[str, Any]) -> str:
        """Return the key. Cost: 1 us for 500 characters of text; a JSON structure costs its length.

        Raises:
            TypeError: the input is not JSON-like.
        """
        if type(user_input) is str and not context:
            digest = self._text.copy()
            digest.update(user_input.encode("utf-8", "surrogatepass"))
        elif type(user_input) is CanonicalRequest:
            return self._of_request(_request_parts(user_input, context))
        else:
            digest = self._json.copy()
            digest.update(strict_json.to_bytes(user_input, "the input", sort_keys=True))
            if context:
                digest.update(b"\n")  # never part of JSON written without spaces
                digest.update(strict_json.to_bytes(context, "the context", sort_keys=True))
        return f"{KEY_VERSION}-{digest.hexdigest()}"

    def explain(self, user_input: Any, context: dict[str, Any]) -> KeyExplanation:
        """Return the key with what it was made of, part by part."""
        if type(user_input) is CanonicalRequest:
            parts, left_out = _request_parts(user_input, context), user_input.left_out
        else:
            parts, left_out = [*_parts(user_input), *_context_parts(context)], ()
        fields = tuple(key_field(name, encoded) for name, encoded in parts)
        return KeyExplanation(self(user_input, context), fields, left_out, self._namespace)

    def _of_request(self, parts: list[Part]) -> str:
        digest = self._request.copy()
        for name, encoded in parts:
            label = name.encode("utf-8", "surrogatepass")
            # Both framed by their lengths, so that no value can be mistaken for the next name.
            digest.update(b"%d:%b%d:" % (len(label), label, len(encoded)))
            digest.update(encoded)
        return f"{REQUEST_KEY_VERSION}-{digest.hexdigest()}"


Part = tuple[str, bytes]
"""Name, and value as JSON in UTF-8."""


def _request_parts(request: CanonicalRequest, context: dict[str, Any]) -> list[Part]:
    if not context:
        return list(request.parts)
    return sorted([*request.parts, *_context_parts(context)])


def _context_parts(context: dict[str, Any]) -> list[Part]:
    return [
        (f"context.{name}", strict_json.to_bytes(context[name], "the context", sort_keys=True))
        for name in sorted(context)
    ]


def _parts(user_input: Any) -> list[Part]:
    """Return the parts of an input one by one, as far as it has any."""
    named: list[tuple[str, Any]] = [("input", user_input)]
    if type(user_input) is dict and user_input:
        named = [(f"input.{name}", user_input[name]) for name in sorted(user_input)]
    elif type(user_input) is list and user_input:
        named = [(f"input[{index}]", item) for index, item in enumerate(user_input)]
    return [(name, strict_json.to_bytes(value, "the input", sort_keys=True)) for name, value in named]


def namespace_name(namespace: Namespace | str | None) -> bytes:
    """Return what stands for a namespace in digests; empty for none.

    Raises:
        TypeError: it is something else.
        ValueError: it is an empty string, which would be no namespace unseen.
    """
    if namespace is None:
        return b""
    if isinstance(namespace, Namespace):
        return namespace.digest.encode()
    if not isinstance(namespace, str):
        raise TypeError(f"namespace is a Namespace, a str or None, not {type(namespace).__name__}")
    if not namespace:
        raise ValueError("namespace is an empty string: give None to bind the cache to nothing")
    return namespace.encode("utf-8", "surrogatepass")


def scope_of(namespace: Namespace | str | None) -> bytes:
    """Return the 16 bytes under which a store keeps this namespace's entries; empty for none."""
    name = namespace_name(namespace)
    return blake2b(name, digest_size=16, person=b"axc-scope").digest() if name else b""
