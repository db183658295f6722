"""Where this library keeps what it may make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """Return the user's cache folder: `AXOLOTL_CACHE_HOME`, else `axolotl-cache` in the XDG cache home.

    It may not exist yet; who writes there makes it with `make_private`.
    """
    own = os.environ.get("AXOLOTL_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "axolotl-cache"


def keys_and_values_home() -> Path:
    """Return where blocks of keys and values are kept on disk, in one folder for each layout."""
    return cache_home() / "kv"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user only (mode 0700)."""
    for missing in (*reversed([p for p in folder.parents if not p.exists()]), folder):
        missing.mkdir(mode=0o700, exist_ok=True)


def config_home() -> Path:
    """Return the user's configuration folder: `axolotl-cache` in the XDG configuration home.

    What is there can't be made again. It may not exist yet; who writes there makes it with `make_private`.
    """
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "axolotl-cache"
