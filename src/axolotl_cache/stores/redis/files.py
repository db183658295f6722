"""What erasing can't reach: the files in which servers keep copies of what they have in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis import exceptions

from axolotl_cache.stores.redis.address import Host
from axolotl_cache.stores.redis.client import PASSING
from axolotl_cache.stores.redis.link import Link


def left_in_files(link: Link) -> tuple[str, ...]:
    """Return a sentence for each server that writes files, for they may hold what was removed from memory.

    Replicas are asked as well as primaries. Cost: a few round trips to each.
    """
    layout = link.layout
    hosts = dict.fromkeys(layout.primaries if layout else ())
    for host in list(hosts):
        with suppress(*PASSING, exceptions.RedisError), link.new_client(host, timeout_seconds=1.0) as client:
            info: Any = client.info("replication")
            replicas = (info.get(f"slave{number}") for number in range(int(info.get("connected_slaves", 0))))
            hosts |= {Host(str(r["ip"]), int(r["port"])): None for r in replicas if isinstance(r, dict)}
    return tuple(sentence for host in hosts for sentence in _files_of(link, host))


def _files_of(link: Link, host: Host) -> Iterator[str]:
    try:
        with link.new_client(host, timeout_seconds=1.0) as client:
            told: Any = client.info("persistence")
            with suppress(exceptions.ResponseError):  # many do not let everyone ask
                saves: Any = client.config_get("save")
                told |= {"save": saves.get("save", "")}
    except (*PASSING, exceptions.RedisError) as error:
        yield f"whatever {host} has in its files, which could not be asked: {error}"
        return
    if int(told.get("aof_enabled", 0)):
        yield f"what was removed, in the append-only file of {host}: run BGREWRITEAOF there"
    if told.get("save", "unknown"):
        yield f"what was removed, in a snapshot that {host} may have written before: run BGSAVE there"
