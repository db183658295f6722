"""Where this library keeps what it may make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """Return the user's cache folder: `AXOLOTL_CACHE_HOME`, else `axolotl-cache` in the XDG cache home.

    It may not exist yet; who writes there makes it, with mode 0700.
    """
    own = os.environ.get("AXOLOTL_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "axolotl-cache"
