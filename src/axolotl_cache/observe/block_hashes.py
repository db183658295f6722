"""Prompts as chains of hashes, one for each whole block: what they share can be seen, what they say can't."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from axolotl_cache.errors import StoreError
from axolotl_cache.paths import cache_home, make_private

TEXT_BLOCK_BYTES: Final = 128
_DIGEST_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_TOKEN_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Chain:
    """A prompt's hashes, 16 hexadecimal digits each."""

    blocks: tuple[str, ...]
    """Of each whole block and all before it."""
    tail: str
    """Of what is behind the last whole block, and all before it."""


def chain_of_tokens(tokens: Sequence[int], *, block_size: int, secret: bytes) -> Chain:
    """Return the chain of token ids. Cost: 1 us a block.

    Args:
        tokens: the prompt's ids.
        block_size: tokens in a block.
        secret: keys the hashes, at most 64 bytes.
    """
    return _chain(array("I", tokens).tobytes(), block_size * _TOKEN_BYTES, secret)


def chain_of_text(text: str, *, secret: bytes) -> Chain:
    """Return the chain of a text, each block 128 bytes of its UTF-8, where no tokens are known."""
    return _chain(text.encode("utf-8", "surrogatepass"), TEXT_BLOCK_BYTES, secret)


def _chain(content: bytes, step: int, secret: bytes) -> Chain:
    *blocks, tail = _digests(content, step, secret)
    return Chain(tuple(blocks), tail)


def _digests(content: bytes, step: int, secret: bytes) -> Iterator[str]:
    before = b""
    whole = len(content) // step
    for place in range(whole + 1):
        piece = content[place * step : (place + 1) * step]
        digest = blake2b(before + piece, digest_size=_DIGEST_BYTES, key=secret, person=b"axc-request-log")
        before = digest.digest()
        yield digest.hexdigest()


def read_or_make_secret(file: Path | None = None) -> bytes:
    """Return this machine's secret for the hashes; made, with mode 0600, when there is none.

    Args:
        file: where it is; by default `request-log.key` in the user's cache folder.

    Raises:
        StoreError: the file can't be read or made, or is no secret of ours.
    """
    place = file or cache_home() / "request-log.key"
    try:
        make_private(place.parent)
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read(place)
        with os.fdopen(handle, "wb") as out:
            secret = os.urandom(_SECRET_BYTES)
            out.write(secret)
        return secret
    except OSError as error:
        raise StoreError(f"the request log's secret, {place}, can't be read or made: {error}") from error


def _read(place: Path) -> bytes:
    secret = place.read_bytes()
    if len(secret) != _SECRET_BYTES:
        raise StoreError(
            f"{place} is not a secret of {_SECRET_BYTES} bytes: delete it, and a new one is made"
        )
    return secret
