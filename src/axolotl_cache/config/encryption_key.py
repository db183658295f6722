"""The key that `encryption_key_from` names: read from its place, and never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from axolotl_cache.config.settings import Settings
from axolotl_cache.encryption_key import read_key
from axolotl_cache.errors import ConfigError, Problem

_NAME: Final = "inference_settings.encryption_key_from"
_MOST_BYTES: Final = 1024
_KEY_BYTES: Final = 32


def read_encryption_key(settings: Settings, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the 32 bytes of the key; None if the settings name no place.

    Raises:
        ConfigError: no key is there, or others than its owner may read the file.
    """
    kind, _, place = settings.inference.encryption_key_from.partition(":")
    if not place:
        return None
    try:
        if kind == "env":
            return read_key(_from_environment(place, environ))
        return read_key(_from_file(Path(place).expanduser()))
    except (OSError, ValueError) as error:
        where = str(settings.sources[_NAME])
        raise ConfigError([Problem(where, _NAME, str(error))]) from None


def _from_environment(variable: str, environ: Mapping[str, str]) -> str:
    key = environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"the environment variable {variable} is not set; `openssl rand -hex 32` makes a key"
        )
    return key


def _from_file(path: Path) -> bytes | str:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())  # of what was opened, whatever has that name by now
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ValueError(f"{path} has mode {mode:04o}, so that others may read the key: chmod 600 {path}")
        if status.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"{path} belongs to another user (uid {status.st_uid}), who can change the key")
        content = file.read(_MOST_BYTES)
    if len(content) == _KEY_BYTES:
        return content
    try:
        return content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} holds neither 32 bytes nor text") from None
