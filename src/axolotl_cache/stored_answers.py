"""The response cache that a configuration describes. Loads neither the engine nor torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from axolotl_cache.config import Settings, read_encryption_key
from axolotl_cache.paths import cache_home
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.shared_servers import shared_tier

ENTRIES_PER_CONCURRENT_REQUEST: Final = 10
LEAST_ENTRIES: Final = 256


def response_folder(settings: Settings) -> Path | None:
    """Return the folder where answers are kept; None if they are kept in memory."""
    if not settings.inference.enable_persistence:
        return None
    own = settings.inference.persistence_path
    return Path(own).expanduser() if own else cache_home() / "responses"


def open_response_cache(
    settings: Settings,
    *,
    concurrency: int = 1,
    persistent: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> SmartInferenceCache:
    """Open the response cache that the settings describe: in memory, on disk, and on shared servers.

    Servers that are not there are waited for for a second; they are used as soon as they are.

    Args:
        settings: what is in force.
        concurrency: requests expected at once; decides the size when `max_cache_entries` is "auto".
        persistent: False keeps it in memory, whatever the settings say.
        report: gets one line for each thing worth knowing of the servers, from any thread.

    Raises:
        ConfigError: the encryption key that the settings name is not there, or others may read it.
        ModuleNotFoundError: they name one, and the extra `encryption` is not installed; or the extra
            `redis` is not.
        StoreError: see `SmartInferenceCache`.
    """
    wanted = settings.inference.max_cache_entries
    entries = max(LEAST_ENTRIES, ENTRIES_PER_CONCURRENT_REQUEST * concurrency) if wanted == "auto" else wanted
    path = response_folder(settings) if persistent else None
    shared = shared_tier(settings, report) if persistent else None
    return SmartInferenceCache(
        capacity=entries,
        timeout=settings.inference.entry_timeout,
        persistence_path=path,
        policy=settings.inference.cache_policy,
        encryption_key=None if path is None and shared is None else read_encryption_key(settings),
        shared=shared,
    )
