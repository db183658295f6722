"""The servers that a configuration names. Loads redis where they are wanted, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from axolotl_cache.config import Settings

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.tier import SharedTier


def shared_tier(settings: Settings, report: Callable[[str], None]) -> SharedTier | None:
    """Return the servers that `cluster_cache` names; None without it.

    Args:
        settings: what is in force.
        report: gets one line when they fail, or are well again, or are too few.

    Raises:
        ModuleNotFoundError: the extra `redis` is not installed.
    """
    cluster = settings.cluster
    if cluster is None:
        return None
    try:
        from axolotl_cache.stores.redis.tier import SharedTier
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ModuleNotFoundError(
            "cluster_cache needs the package redis: pip install 'axolotl-cache[redis]'", name="redis"
        ) from error
    return SharedTier(
        cluster.connection_string,
        copies=cluster.replication_count,
        follow=cluster.failover_strategy == "auto",
        report=report,
    )
