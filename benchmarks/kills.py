"""Primaries are killed, again and again, under load: what fails, and what is lost?"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from servers import Deployment, Server, deployment, online_replicas, until

VALUE = "an answer of everyday size, as they are: " * 12
PAUSE_SECONDS = 0.002
LOAD_SECONDS = 1.0
WRITES_BETWEEN_KILLS = 550
"""Acknowledged ones, so that 20 kills have seen more than 10,000."""


@dataclass
class Outcome:
    """What became of requests and writes."""

    kills: int = 0
    requests: int = 0
    failed_requests: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Version by key."""
    unacknowledged: int = 0
    lost: int = 0
    failover_seconds: list[float] = field(default_factory=list)
    """From each kill until a replica said that it is the primary, seen by asking it."""
    recovery_seconds: list[float] = field(default_factory=list)
    """From each kill until our store wrote where the killed primary was, and read what it wrote."""

    def row(self, name: str) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "what": name,
            "kills": self.kills,
            "requests": self.requests,
            "failed_requests": self.failed_requests,
            "acknowledged_writes": len(self.acknowledged),
            "acknowledged_lost": self.lost,
            "unacknowledged_writes": self.unacknowledged,
            "failover_seconds": round(median(self.failover_seconds), 2) if self.failover_seconds else None,
            "failover_seconds_max": round(max(self.failover_seconds), 2) if self.failover_seconds else None,
            "recovery_seconds": round(median(self.recovery_seconds), 2) if self.recovery_seconds else None,
            "recovery_seconds_max": round(max(self.recovery_seconds), 2) if self.recovery_seconds else None,
        }


def kill_primaries(
    kind: str,
    kills: int,
    *,
    copies: int = 3,
    lag_seconds: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Kill a primary `kills` times under load, all nodes being there, and read what was acknowledged.

    Args:
        kind: `sentinel` or `cluster`.
        kills: how often.
        copies: what a write needs to be acknowledged.
        lag_seconds: for how long before each kill the replicas are frozen and cut off, so that they lag:
            what is written then, only the primary has.
        say: told of each kill.
    """
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.stores.redis.tier import SharedTier

    outcome = Outcome()
    with deployment(kind) as servers:
        tier = SharedTier(servers.url, copies=copies)
        with SmartInferenceCache(1_000_000, None, namespace="kills", shared=tier) as cache:
            near = cache.shared
            if near is None:
                raise RuntimeError("the cache has no shared tier")
            near.news.wait_until_listening(10)

            def written(key: str, record: Any, what: Any) -> None:
                if what.is_acknowledged:
                    outcome.acknowledged[key] = record.version
                else:
                    outcome.unacknowledged += 1

            near.writer.on_written = written
            stop = threading.Event()
            askers = [
                threading.Thread(target=_ask, args=(cache, outcome, stop, name), daemon=True) for name in "ab"
            ]
            for asker in askers:
                asker.start()
            for number in range(kills):
                time.sleep(LOAD_SECONDS)
                enough = WRITES_BETWEEN_KILLS * (number + 1)
                until(lambda enough=enough: len(outcome.acknowledged) >= enough, "writes", seconds=120)
                _kill(servers, near, outcome, number, lag_seconds)
                say(
                    f"  kill {number + 1}: failover {outcome.failover_seconds[-1]:.2f} s, ours "
                    f"{outcome.recovery_seconds[-1]:.2f} s; {len(outcome.acknowledged):,} acknowledged"
                )
            time.sleep(LOAD_SECONDS)
            stop.set()
            for asker in askers:
                asker.join()
            near.flush(60)
        outcome.lost = _missing(servers, outcome)
    return outcome


def _ask(cache: Any, outcome: Outcome, stop: threading.Event, name: str) -> None:
    """Ask as users do: what is not there is computed and stored; what is there must be right."""
    number = 0
    while not stop.is_set():
        key = f"{name}{number}"
        try:
            answer = cache.get_or_compute(key, lambda key=key: f"{key} {VALUE}") if number % 10 == 0 else None
            if answer is None:
                cache.set(key, f"{key} {VALUE}")
            earlier = f"{name}{max(0, number - 50)}"
            good = cache.get(earlier) == f"{earlier} {VALUE}"
        except Exception:
            good = False
        outcome.requests += 1
        outcome.failed_requests += not good
        number += 1
        time.sleep(PAUSE_SECONDS)


def _kill(servers: Deployment, near: Any, outcome: Outcome, number: int, lag_seconds: float) -> None:
    victim, probe = _victim(servers, near, number)
    primaries = servers.primaries()
    others = [node for node in servers.nodes if node not in primaries]
    if lag_seconds:
        for node in others:
            node.send(signal.SIGSTOP)
        for primary in primaries:  # else what is under way waits in the replicas' buffers, and is not lost
            primary.client().execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        time.sleep(lag_seconds)
    started = time.monotonic()
    victim.kill()
    for node in others if lag_seconds else ():
        node.send(signal.SIGCONT)
    watcher = threading.Thread(target=_watch, args=(servers, set(primaries), outcome, started), daemon=True)
    watcher.start()
    until(lambda: _serves(near, probe), "our store serves again", seconds=60)
    outcome.recovery_seconds.append(time.monotonic() - started)
    watcher.join(60)
    outcome.kills += 1
    _bring_back(servers, victim, set(primaries))


def _victim(servers: Deployment, near: Any, number: int) -> tuple[Server, str]:
    """Return the primary to kill, and a key that our store keeps there.

    A busy machine can make the servers change their primary by themselves: then our store learns of it a
    moment later, and until then has nothing there.
    """
    found: list[tuple[Server, str]] = []

    def look() -> bool:
        primaries = servers.primaries()
        server = primaries[number % len(primaries)] if primaries else None
        key = _key_on(near, server) if server else None
        if server and key:
            found.append((server, key))
        return bool(found)

    until(look, "our store knows the primary", seconds=60)
    return found[-1]


def _key_on(near: Any, server: Server) -> str | None:
    """Return a key whose entry the server holds, as far as our store knows; None if it holds nothing."""
    redis = near.redis
    layout, space = redis.link.layout, redis.space
    for number in range(1000):
        key = f"probe {number}"
        if layout.primary(space.index(space.partition(space.member(key)))[0]).port == server.port:
            return key
    return None


def _serves(near: Any, key: str) -> bool:
    from axolotl_cache.stores import Record

    record = Record(b"probe", "text", time.time())
    near.redis.write(key, record, time.time())
    found = near.redis.get(key)
    return found is not None and found.version == record.version


def _watch(servers: Deployment, before: set[Server], outcome: Outcome, started: float) -> None:
    until(lambda: set(servers.primaries()) - before, "another primary is there", seconds=60)
    outcome.failover_seconds.append(time.monotonic() - started)


def _bring_back(servers: Deployment, victim: Server, before: set[Server]) -> None:
    """Start what was killed, and wait until everybody has all copies again."""
    if servers.sentinels:
        until(lambda: _agreed(servers) not in (None, victim), "the sentinels agree", seconds=60)
        primary = _agreed(servers)
        victim.start("--replicaof", f"127.0.0.1 {primary.port if primary else 0}")
        until(lambda: _in_step(_agreed(servers)), "all nodes follow one primary", seconds=120)
    else:
        victim.start()
        until(lambda: len(servers.primaries()) == len(before), "every slot has a primary", seconds=120)
        until(lambda: all(map(_in_step, servers.primaries())), "all replicas follow", seconds=120)


def _in_step(primary: Server | None) -> bool:
    return primary is not None and online_replicas(primary) == 2


def _agreed(servers: Deployment) -> Server | None:
    """Return the primary that all sentinels name; None while they do not agree."""
    told = [
        each.client().execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "cache")[1]
        for each in servers.sentinels
    ]
    ports = {int(port) for port in told}
    return next((node for node in servers.nodes if ports == {node.port}), None)


def _missing(servers: Deployment, outcome: Outcome) -> int:
    """Return how many acknowledged writes nobody finds any more."""
    from axolotl_cache.response.key import scope_of
    from axolotl_cache.stores.redis.address import parse_address
    from axolotl_cache.stores.redis.link import Link
    from axolotl_cache.stores.redis.store import RedisStore

    link = Link(parse_address(servers.url))
    store = RedisStore(
        link, 1_000_000, space="axolotl-cache:1:answers", scope=scope_of("kills"), within_seconds=10
    )
    link.wait_up(10)
    lost = sum(store.version(key) != version for key, version in outcome.acknowledged.items())
    sample = list(outcome.acknowledged)[:: max(1, len(outcome.acknowledged) // 200)]
    lost += sum(store.get(key) is None for key in sample if store.version(key) is not None)
    store.close()
    return lost
