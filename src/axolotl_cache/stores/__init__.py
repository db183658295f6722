"""Where bytes are kept: one protocol, and a store in memory and one on disk that both keep it.

`SqliteStore` is loaded when it is first used, so that a cache without persistence never imports sqlite3.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from axolotl_cache.stores.at_rest import Disk, open_disk
from axolotl_cache.stores.base import (
    OVERHEAD_BYTES,
    Departure,
    Record,
    SharedStore,
    Store,
    StoreWarning,
    entry_bytes,
    new_version,
)
from axolotl_cache.stores.memory import MemoryStore
from axolotl_cache.stores.policies import Policy, PolicyName, make_policy

if TYPE_CHECKING:
    from axolotl_cache.stores.sqlite import SqliteStore

__all__ = [
    "OVERHEAD_BYTES",
    "Departure",
    "Disk",
    "MemoryStore",
    "Policy",
    "PolicyName",
    "Record",
    "SharedStore",
    "SqliteStore",
    "Store",
    "StoreWarning",
    "entry_bytes",
    "make_policy",
    "new_version",
    "open_disk",
]


def __getattr__(name: str) -> Any:
    if name == "SqliteStore":
        return import_module("axolotl_cache.stores.sqlite").SqliteStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
