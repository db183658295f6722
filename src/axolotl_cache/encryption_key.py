"""Keys for encryption as users give them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Final

EncryptionKey = bytes | str | Callable[[], bytes | str]
"""32 bytes; or text, 64 hexadecimal digits or base64; or what returns either."""

_KEY_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")


def read_key(given: EncryptionKey) -> bytes:
    """Return the 32 bytes of a key. No message of an error has anything of it.

    Raises:
        TypeError: it is neither bytes, text, nor something that returns them.
        ValueError: it has another length, or is neither hexadecimal nor base64.
    """
    if callable(given):
        given = given()
    if isinstance(given, str):
        given = _from_text(given.strip())
    if not isinstance(given, bytes):
        raise TypeError(
            f"encryption_key is 32 bytes, text (hexadecimal or base64), or a callable that returns either, "
            f"not {type(given).__name__}"
        )
    if len(given) != _KEY_BYTES:
        raise ValueError(f"encryption_key has 32 bytes, not {len(given)}; `openssl rand -hex 32` makes one")
    return given


def _from_text(text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    digits = text.rstrip("=").replace("-", "+").replace("_", "/")  # both alphabets, padded or not
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        raise ValueError(
            "encryption_key as text is 64 hexadecimal digits, or 32 bytes in base64; `openssl rand -hex 32` "
            "makes one"
        ) from None
