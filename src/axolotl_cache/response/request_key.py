"""The canonical form of a whole request, and keys that can say what is in them.

`generate_key` takes anything, and normalises nothing. Of a request in OpenAI's shape more is known: which
fields do not reach the model, and which ways of writing one field mean the same. `CanonicalRequest` knows
that, and is an input for `generate_key` like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.response import strict_json

NEVER_IN: Final = frozenset(
    {
        "extra_headers",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "timeout",
        "user",
    }
)
"""Fields that say how an answer is delivered, billed or filed, and change nothing in it."""

ALWAYS_IN: Final = frozenset({"input", "messages", "prompt"})
"""Without these, requests that ask for different things would have one key."""

_REAL_NUMBERS: Final = frozenset(
    {"frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "temperature", "top_p"}
)
"""Here 1 means 1.0. Counts and seeds are whole numbers."""
_EXACT_IN_A_FLOAT: Final = 2**53


class CanonicalRequest:
    """A whole request in OpenAI's shape, for `cache.generate_key(CanonicalRequest(request))`.

    The order of the fields does not matter, any other order does: that of
    a schema reaches the model. Two ways of writing one thing are made one where that is certain: 1 and 1.0
    where a real number is meant, `stop` as a text or a list of one. Nothing else is normalised: a field that
    is not there is another request than one with the default. A field that is not known is part of the key.

    Args:
        request: as it would be sent: `model`, `messages`, `tools`, `response_format`, `temperature`, ...
        leave_out: further fields to leave out of the key, as `["seed"]`: requests that differ there share an
            answer from then on.

    Raises:
        TypeError: the request is no dict with str keys, or not JSON-like; the message says where.
        ValueError: `leave_out` names what tells questions apart.
    """

    __slots__ = ("left_out", "parts")

    def __init__(self, request: Mapping[str, Any], *, leave_out: Iterable[str] = ()) -> None:
        if not isinstance(request, Mapping):
            raise TypeError(f"a request is a dict in OpenAI's shape, not {type(request).__name__}")
        if isinstance(leave_out, str):
            raise TypeError(f"leave_out is several: write leave_out=[{leave_out!r}]")
        chosen = frozenset(leave_out)
        if chosen & ALWAYS_IN:
            name = min(chosen & ALWAYS_IN)
            raise ValueError(
                f"{name} can't be left out of the key: different questions would share an answer"
            )
        out = chosen | NEVER_IN
        fields: dict[str, bytes] = {}
        for name in request:
            if type(name) is not str:
                raise TypeError(f"the request: the field {name!r} is not named by a str")
            if name not in out:
                fields[name] = _encoded(name, request[name])
        self.parts = tuple(sorted(fields.items()))
        """The fields that are in the key, by name, each as JSON in UTF-8."""
        self.left_out = tuple(sorted(name for name in request if name in out))
        """Names of the fields that the request has and the key does not."""


def _encoded(name: str, value: Any) -> bytes:
    if name == "stop" and type(value) is str:
        value = [value]
    elif name in _REAL_NUMBERS and type(value) in (int, float) and abs(value) <= _EXACT_IN_A_FLOAT:
        value = float(value) + 0.0  # which makes -0.0 what it equals
    # A bias is by token: the only dict of OpenAI's whose order never reaches a model.
    return strict_json.to_bytes(value, f"the request[{name!r}]", sort_keys=name == "logit_bias")


@dataclass(frozen=True, slots=True)
class KeyField:
    """One part of what a key was made of."""

    name: str
    digest: str
    """32 hexadecimal digits, of its value alone."""
    size_bytes: int
    """Length of its value as JSON in UTF-8."""


@dataclass(frozen=True, slots=True)
class KeyExplanation:
    """What a key was made of: names, digests and lengths, and no value, so that it may be logged.

    The digest of a value that can be guessed can be found out by trying.
    """

    key: str
    fields: tuple[KeyField, ...]
    left_out: tuple[str, ...]
    """Fields of the request that are not in the key."""
    namespace: str
    """Digest of what the cache is bound to; empty for nothing."""

    def difference(self, other: KeyExplanation) -> tuple[str, ...]:
        """Return the names of what differs between two keys; empty if they are one key."""
        mine, theirs = ({field.name: field.digest for field in each.fields} for each in (self, other))
        names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        return (*(["namespace"] if self.namespace != other.namespace else []), *names)

    def __str__(self) -> str:
        width = max((len(field.name) for field in self.fields), default=0)
        lines = [self.key, f"  namespace {self.namespace[:8] or 'none'}"]
        lines += [f"  {f.name:<{width}}  {f.digest[:8]}  {f.size_bytes:,} bytes" for f in self.fields]
        if self.left_out:
            lines.append(f"  left out: {', '.join(self.left_out)}")
        return "\n".join(lines)


def key_field(name: str, encoded: bytes) -> KeyField:
    """Return what an explanation says about a value, given as JSON."""
    return KeyField(name, blake2b(encoded, digest_size=16, person=b"axc-key-field").hexdigest(), len(encoded))
