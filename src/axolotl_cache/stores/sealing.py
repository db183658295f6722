"""What encryption does to names and records: sealed here, and opened again. Needs the extra `encryption`.

Names (keys and tags) are sealed by AES-256-SIV (RFC 5297): one name always gives the same bytes, so that they
can be looked up, and gives itself back to whoever has the key. Records are sealed by AES-256-GCM (NIST SP
800-38D), each under a key of its own and a nonce of 96 random bits.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.stores.base import Record

CODEC: Final = "sealed1"
"""Of every sealed record: which form it has. The codec of what is in it is sealed with it."""

_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class NotGenuine(ValueError):
    """These bytes were not sealed with this key, for this place; or they have changed since."""


class Sealer:
    """Seals and opens what a cache writes to disk, by keys derived from the one that is given.

    Args:
        key: the 32 bytes.
        random_bytes: returns so many random bytes, fit for cryptography.

    Raises:
        ImportError: the package `cryptography` is missing.
    """

    def __init__(self, key: bytes, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
        except ImportError as error:
            raise ModuleNotFoundError(
                "encryption_key needs the package cryptography: pip install 'axolotl-cache[encryption]'",
                name="cryptography",
            ) from error
        self._random_bytes = random_bytes
        self._invalid: type[Exception] = InvalidTag
        self._aes_gcm: Any = AESGCM
        self._names: Any = AESSIV(_derive(key, b"axc-names", 64))
        self._records = _derive(key, b"axc-records")
        self._scopes = _derive(key, b"axc-scopes")
        self.check = _derive(key, b"axc-check")
        """32 bytes that tell this key from others, and nothing about it."""
        self.wrong_secret = _derive(key, b"axc-wrong")
        """Keys the digests of answers that were reported as wrong."""

    def scope(self, scope: bytes) -> bytes:
        """Return the 16 bytes that stand for a scope on disk; nothing for none."""
        return blake2b(scope, key=self._scopes, digest_size=16).digest() if scope else b""

    def seal_name(self, name: str, what: bytes) -> str:
        """Return a key's or tag's sealed form, always the same one, in ASCII. Cost: 4 us.

        Args:
            name: any str.
            what: `key` or `tag`: one can't pass for the other.
        """
        # A byte in front, as not every version of the library takes an empty text.
        plain = b"=" + name.encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(self._names.encrypt(plain, [what])).decode()

    def open_name(self, sealed: str, what: bytes) -> str:
        """Undo `seal_name`.

        Raises:
            NotGenuine: it is none of ours.
        """
        try:
            plain: bytes = self._names.decrypt(base64.urlsafe_b64decode(sealed.encode()), [what])
        except (self._invalid, ValueError) as error:
            raise NotGenuine("a name on disk was not sealed with this key") from error
        return plain[1:].decode("utf-8", "surrogatepass")

    def seal(self, name: str, scope: bytes, record: Record) -> Record:
        """Return `record` as it goes to disk. Cost: 10 us, and 1 ms for 5 MB.

        Version, dates and the number of tags stay readable, and so does the size of the payload.

        Args:
            name: the sealed key.
            scope: as it stands on disk.
            record: what to seal.
        """
        tags = tuple(self.seal_name(tag, b"tag") for tag in record.tags)
        sealed = replace(record, payload=b"", codec=CODEC, tags=tags, kind="", cost="")
        told = json.dumps([record.codec, record.kind, record.cost]).encode()
        salt, nonce = self._random_bytes(_SALT_BYTES), self._random_bytes(_NONCE_BYTES)
        box = self._box(salt).encrypt(nonce, told + b"\n" + record.payload, _bound(name, scope, sealed))
        return replace(sealed, payload=salt + nonce + box)

    def open(self, name: str, scope: bytes, sealed: Record) -> Record:
        """Undo `seal`.

        Raises:
            NotGenuine: it was sealed with another key, for another place or date, or has changed since.
        """
        start = _SALT_BYTES + _NONCE_BYTES
        salt, nonce = sealed.payload[:_SALT_BYTES], sealed.payload[_SALT_BYTES:start]
        if sealed.codec != CODEC or len(nonce) != _NONCE_BYTES:
            raise NotGenuine("a record on disk is not of the sealed form")
        try:
            plain = self._box(salt).decrypt(nonce, sealed.payload[start:], _bound(name, scope, sealed))
        except self._invalid as error:
            raise NotGenuine("a record on disk was not sealed with this key, for this place") from error
        told, _, payload = plain.partition(b"\n")
        codec, kind, cost = json.loads(told)
        tags = tuple(self.open_name(tag, b"tag") for tag in sealed.tags)
        return replace(sealed, payload=payload, codec=codec, tags=tags, kind=kind, cost=cost)

    def _box(self, salt: bytes) -> Any:
        # A key for each record: so none comes near the 2^32 random nonces that one key is good for.
        return self._aes_gcm(blake2b(salt, key=self._records, digest_size=32).digest())


def _derive(key: bytes, label: bytes, size: int = 32) -> bytes:
    return blake2b(label, key=key, digest_size=size, person=b"axc-encryption").digest()


def _bound(name: str, scope: bytes, sealed: Record) -> bytes:
    """Return what a record is bound to: in another place, or with other dates, it does not open.

    The expiry is not in it if uses move it: a date moves without a look at the payload.
    """
    slides = sealed.sliding_seconds is not None
    dates = (sealed.created_at, sealed.sliding_seconds, None if slides else sealed.expires_at)
    numbers = [None if date is None else float(date).hex() for date in dates]
    return json.dumps([CODEC, scope.hex(), name, sealed.version, *numbers, *sealed.tags]).encode()
