"""Whether index and entries agree; for tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import redis

from axolotl_cache.stores.redis.commands import Commands
from axolotl_cache.stores.redis.space import Space


def check(commands: Commands, space: Space, capacity: int, max_bytes: int | None) -> None:
    """Raise AssertionError where what the servers have does not fit together."""
    entries = counted = 0
    for partition in range(space.partitions):
        found = commands.run(space.tag(partition), partial(_check, space, partition))
        entries, counted = entries + found[0], counted + found[1]
    if entries > max(capacity, space.partitions):
        raise AssertionError(f"{entries} entries are more than {capacity}")
    if max_bytes is not None and counted > max_bytes:
        raise AssertionError(f"{counted} bytes are more than {max_bytes}")


def _check(space: Space, partition: int, client: redis.Redis) -> tuple[int, int]:
    meta, rows, ranks, dead, tags, _ = space.index(partition)
    answers: Any = client
    rows_held: dict[bytes, bytes] = answers.hgetall(rows)
    told = {name: int(value) for name, value in answers.hgetall(meta).items()}
    parts = {member: row.decode().split(" ") for member, row in rows_held.items()}
    tagged = {
        (digests[i : i + 32].encode(), member)
        for member, (*_, digests) in parts.items()
        for i in range(0, len(digests), 32)
    }
    dates = {(member, float(row[1])) for member, row in parts.items() if row[1] != "-"}
    place = space.place(partition)
    facts = {
        "entries without a row, or rows without an entry": set(answers.keys(_escaped(place) + b"*"))
        == {place + member for member in parts},
        "ranks are of others": set(answers.zrange(ranks, 0, -1)) == set(parts),
        "dates are of others": set(answers.zrange(dead, 0, -1, withscores=True)) == dates,
        "tags are of others": {(each[:32], each[32:]) for each in answers.zrange(tags, 0, -1)} == tagged,
        "the numbers are off": (told.get(b"n", 0), told.get(b"b", 0), told.get(b"d", 0), told.get(b"t", 0))
        == (len(parts), sum(int(row[3]) for row in parts.values()), len(dates), len(tagged)),
    }
    wrong = [what for what, holds in facts.items() if not holds]
    if wrong:
        raise AssertionError("; ".join(wrong))
    return len(parts), told.get(b"b", 0)


def _escaped(pattern: bytes) -> bytes:
    for special in (b"\\", b"*", b"?", b"[", b"]"):
        pattern = pattern.replace(special, b"\\" + special)
    return pattern
