"""Several machines, each with its own tiers, in front of one Valkey server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("redis")

from axolotl_cache import SmartInferenceCache
from axolotl_cache.errors import StoreError
from axolotl_cache.response import owner_tags
from axolotl_cache.stores import Record
from axolotl_cache.stores.redis.address import parse_address
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.store import RedisStore
from axolotl_cache.stores.redis.tier import SharedTier

Make = Callable[..., SmartInferenceCache]


def soon(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something is so. The bound is for a machine that is busy with other things."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


def tier(url: str, **options) -> SharedTier:
    return SharedTier(url, lookup_seconds=options.pop("lookup_seconds", 2.0), **options)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Make]:
    """Makes caches as machines of one fleet have them: servers and namespace shared, folders their own."""
    made: list[SmartInferenceCache] = []
    namespace = uuid4().hex

    def make(url: str, *, persistent: bool = False, listening: bool = True, **options) -> SmartInferenceCache:
        folder = options.pop("folder", tmp_path / str(len(made))) if persistent else None
        shared = options.pop("shared", None) or tier(url)
        cache = SmartInferenceCache(100, 1800, folder, namespace=namespace, shared=shared, **options)
        made.append(cache)
        if listening:
            assert cache.shared.news.wait_until_listening(10)
        return cache

    yield make
    for cache in made:
        cache.close()


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("key", [None, bytes(32)])
def test_what_one_machine_stores_another_serves_until_it_is_changed_or_removed(
    machine, valkey, persistent, key
):
    if key is not None:
        pytest.importorskip("cryptography")
    one, two = (machine(valkey.url, persistent=persistent, encryption_key=key) for _ in range(2))
    one.set("k", {"answer": 1}, tags=["red", *owner_tags(session="s")])
    assert one.shared.flush(10)
    assert two.get("k") == {"answer": 1}
    assert two.stats().shared.hits == 1
    one.set("k", "another")
    soon(lambda: two.get("k") == "another")
    one.set("k", "third", tags=["red", *owner_tags(session="s")])
    soon(lambda: two.get("k") == "third")
    assert two.invalidate(session="s") == 1
    soon(lambda: one.get("k") is None)
    assert one.shared.removed_at("k") is not None
    one.set("k", "fourth", tags=["red"])
    soon(lambda: two.get("k") == "fourth")
    one.invalidate(tag="red")
    soon(lambda: two.get("k") is None)
    one.shared.check_invariants()


def test_an_entry_that_the_servers_do_not_have_any_more_is_removed_everywhere_all_the_same(machine, valkey):
    one, two = machine(valkey.url), machine(valkey.url)
    two.set("k", "v", tags=["red"])
    assert two.shared.flush(10)
    valkey.nodes[0].client().flushall()
    one.invalidate(tag="red")
    soon(lambda: two.get("k") is None)


def test_nothing_is_readable_with_a_key(machine, valkey):
    pytest.importorskip("cryptography")
    cache = machine(valkey.url, encryption_key=bytes(32))
    cache.set("who asked what", "the secret answer", tags=["secret tag"])
    assert cache.shared.flush(10)
    cache.invalidate(tag="secret tag")
    client = valkey.nodes[0].client()
    names = client.scan_iter()
    everything = [part for name in names for part in (name, client.dump(name))]
    assert not any(word in each for word in (b"secret", b"who asked") for each in everything)


def test_erasing_reaches_the_servers_and_every_machine(machine, valkey):
    one, two = machine(valkey.url, persistent=True), machine(valkey.url, persistent=True)
    one.set("k", "v", tags=owner_tags(user="ada"))
    one.set("l", "w", tags=owner_tags(user="bob"))
    assert one.shared.flush(10)
    assert [two.get(key) for key in "kl"] == ["v", "w"]
    assert one.erase(user="ada").entries == 2, "here and there"
    soon(lambda: two.get("k") is None)
    assert two.get("l") == "w"
    two.close()
    assert not any(b"ada" in path.read_bytes() for path in two._folder.rglob("*") if path.is_file())


def test_erasing_names_the_files_that_a_server_writes(servers, machine):
    with servers.deployment("single", "--appendonly", "yes") as deployment:
        cache = machine(deployment.url)
        cache.set("k", "v", tags=owner_tags(user="ada"))
        assert cache.shared.flush(10)
        (left,) = cache.erase(user="ada").left
        assert "append-only file" in left
        cache.close()


def test_one_machine_computes_and_the_others_wait(machine, valkey):
    machines = [machine(valkey.url) for _ in range(3)]
    computed = []

    def compute() -> str:
        computed.append(1)
        time.sleep(0.1)
        return "answer"

    async def acompute() -> str:
        return compute()

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(each.get_or_compute, "k", compute) for each in machines]
        answers += [
            pool.submit(lambda each=each: asyncio.run(each.aget_or_compute("k", acompute)))
            for each in machines
        ]
        assert {each.result() for each in answers} == {"answer"}
    assert len(computed) == 1


def test_who_was_stopped_for_longer_than_its_lease_does_not_overwrite(machine, valkey):
    slow, quick = machine(valkey.url), machine(valkey.url)
    assert slow.shared.take_lease("k")
    assert quick.shared.take_lease("k") is False
    space = slow.shared._redis.space
    valkey.nodes[0].client().delete(space.lease(space.member("k")))  # as when its time is over
    assert quick.shared.take_lease("k")
    quick.set("k", "of the new holder")
    assert quick.shared.flush(10)
    slow.shared.writer.put("k", Record(b"late", "text", time.time()), slow.shared.leases.token("k"))
    assert slow.shared.flush(10)
    assert slow.stats().shared.fenced == 1
    assert machine(valkey.url).get("k") == "of the new holder"
    # the control: without its token it is taken
    slow.shared.writer.put("k", Record(b"late", "text", time.time()))
    assert slow.shared.flush(10)
    assert machine(valkey.url).get("k") == "late"


def test_servers_that_are_not_there_keep_nobody_waiting_and_are_used_when_they_come(
    machine, servers, tmp_path
):
    lines: list[str] = []
    server = servers.Server(tmp_path / "server", servers.free_port())
    cache = machine(
        f"redis://{server.address}",
        listening=False,
        shared=tier(f"redis://{server.address}", report=lines.append),
    )
    assert "is not reached" in lines[0]
    cache.set("k", "v")
    assert cache.get("k") == "v"
    assert cache.get_or_compute("l", lambda: "w") == "w"
    assert not cache.stats().shared.link.is_up
    with pytest.raises(StoreError, match="on this machine alone"):
        cache.invalidate("l")
    assert cache.get("l") is None
    server.start()
    try:
        soon(lambda: cache.stats().shared.written == 1)
        other = machine(f"redis://{server.address}")
        assert other.get("k") == "v"
        soon(lambda: cache.stats().shared.removals_to_pass_on == 0)
        assert "is well again" in lines[-1]
    finally:
        cache.close()
        server.stop()


def test_a_server_that_does_not_answer_is_left_alone_until_it_does(machine, servers):
    with servers.deployment("single") as deployment:
        cache = machine(deployment.url, shared=tier(deployment.url, lookup_seconds=0.05))
        cache.set("k", "v")
        assert cache.shared.flush(10)
        deployment.nodes[0].send(signal.SIGSTOP)
        assert [cache.get(key) for key in ("k", "a", "b", "c", "d", "e")] == ["v"] + 5 * [None]
        stats = cache.stats().shared
        assert stats.failed_lookups <= 2, "then the breaker is open, and nobody asks"
        assert stats.link.opened == 1
        deployment.nodes[0].send(signal.SIGCONT)
        soon(lambda: cache.stats().shared.link.closed == 1)
        cache.set("l", "w")
        soon(lambda: machine(deployment.url).get("l") == "w")
        for each in (cache,):
            each.close()


def test_a_server_that_restarts_empty_has_the_entries_of_now_on(machine, servers):
    with servers.deployment("single") as deployment:
        one, two = machine(deployment.url), machine(deployment.url)
        one.set("k", "v", tags=["red"])
        soon(lambda: two.get("k") == "v")
        deployment.nodes[0].kill()
        one.set("l", "w")
        assert (one.get("k"), two.get("k")) == ("v", "v"), "local tiers go on"
        deployment.nodes[0].start()
        soon(lambda: two.get("l") == "w")
        assert (one.get("k"), two.get("k")) == ("v", "v")
        one.invalidate(tag="red")
        soon(lambda: two.get("k") is None)
        one.close()
        two.close()


@pytest.mark.parametrize("keeps_files", [False, True])
def test_what_was_acknowledged_is_gone_after_a_restart_without_data(machine, servers, keeps_files):
    files = ("--appendonly", "yes", "--appendfsync", "always") if keeps_files else ()
    with servers.deployment("single", *files) as deployment:
        one = machine(deployment.url)
        one.set("k", "v")
        assert one.shared.flush(10)
        assert one.stats().shared.acknowledged == 1
        deployment.nodes[0].kill()
        soon(lambda: not one.shared.report().is_up)
        deployment.nodes[0].start()
        soon(lambda: one.shared.report().is_up)
        assert one.get("k") == "v", "it has it itself"
        two = machine(deployment.url)
        assert two.get("k") == ("v" if keeps_files else None)
        two.set("l", "w")
        soon(lambda: one.get("l") == "w")
        one.close()
        two.close()


def test_a_removal_while_a_machine_is_cut_off_reaches_it_when_it_is_back(machine, valkey, tmp_path):
    one = machine(valkey.url)
    two = machine(valkey.url, persistent=True, folder=tmp_path / "two")
    two.set("k", "v", tags=["red"])
    two.set("l", "w")
    assert two.shared.flush(10)
    two.close()
    one.invalidate(tag="red")
    again = machine(valkey.url, persistent=True, folder=tmp_path / "two")
    assert (again.get("k"), again.get("l")) == (None, "w")


def test_a_full_server_refuses_and_the_machine_goes_on(machine, servers):
    with servers.deployment("single", "--maxmemory", "3mb") as deployment:
        lines: list[str] = []
        cache = machine(deployment.url, shared=tier(deployment.url, report=lines.append))
        for number in range(40):
            cache.set(str(number), "x" * 100_000)
        soon(lambda: cache.stats().shared.refused)
        assert all(cache.get(str(number)) for number in range(40))
        assert any("memory limit" in line for line in lines)
        assert cache.stats().shared.link.is_up, "it answers, and what it has is served"
        cache.close()


@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru", "allkeys-random"])
def test_a_full_server_that_evicts_serves_what_it_has_and_nothing_else(machine, servers, policy):
    options = ("--maxmemory", "4mb", "--maxmemory-policy", policy)
    with servers.deployment("single", *options) as deployment:
        one, two = machine(deployment.url), machine(deployment.url)
        for number in range(90):
            one.set(str(number), f"{number} " * 20_000)
            assert one.shared.flush(10)
        assert deployment.nodes[0].client().info("stats")["evicted_keys"] > 0
        assert all(one.get(str(number)) for number in range(90)), "the machine goes on"
        found = {number: two.get(str(number)) for number in range(90)}
        assert all(value in (None, f"{number} " * 20_000) for number, value in found.items())
        assert None in found.values()
        assert two.stats().shared.link.is_up
        one.close()
        two.close()


def test_what_lost_its_index_to_eviction_is_not_served(valkey):
    store = RedisStore(Link(parse_address(valkey.url)), 100, space=uuid4().hex, within_seconds=5)
    client = valkey.nodes[0].client()
    index = store.space.index(0) if store.link.wait_up(5) else []
    for lost in index[:5]:
        store.put("k", Record(b"v", "text", 1.0, tags=("red",)), 1.0)
        assert client.delete(lost)
        store.put("other", Record(b"v", "text", 1.0, 9.0, ("blue",)), 1.0)
        assert store.get("k") is None, lost
        assert store.remove(1.0, tag="red") == []
        store.put("k", Record(b"v", "text", 1.0, 9.0, ("red",)), 1.0)
        assert store.remove(1.0, tag="red") == ["k"]
    store.close()


def test_an_entry_of_another_place_or_damaged_is_dropped(valkey):
    store = RedisStore(Link(parse_address(valkey.url)), 100, space=uuid4().hex, within_seconds=5)
    store.put("a", Record(b"of a", "text", 1.0), 1.0)
    store.put("b", Record(b"of b", "text", 1.0), 1.0)
    client, place = valkey.nodes[0].client(), store.space.place(0)
    client.copy(place + b":a", place + b":b", replace=True)
    assert store.get("b") is None or store.get("b").payload == b"of b"
    content = client.get(place + b":a")
    client.set(place + b":a", content[:-1] + b"X", px=60_000)
    assert store.get("a") is None
    assert store.damaged >= 1
    store.close()


def test_fewer_copies_than_asked_for_are_said_and_nothing_is_acknowledged(valkey):
    lines: list[str] = []
    cache = SmartInferenceCache(
        10, namespace=uuid4().hex, shared=tier(valkey.url, copies=3, report=lines.append)
    )
    soon(lambda: lines)
    assert "replication_count is 3, and a write has 1 copy now" in lines[0]
    cache.set("k", "v")
    assert cache.shared.flush(10)
    stats = cache.stats().shared
    assert (stats.written, stats.acknowledged, stats.unacknowledged) == (1, 0, 1)
    assert (stats.link.copies, stats.link.copies_wanted) == (1, 3)
    cache.close()


def test_writes_are_acknowledged_by_the_replicas(servers):
    with servers.deployment("replicas") as deployment:
        store = RedisStore(Link(parse_address(deployment.url), copies=3), 100, space="s", within_seconds=5)
        record = Record(b"v", "text", time.time())
        assert store.write("k", record, time.time()).is_acknowledged
        deployment.nodes[1].send(signal.SIGSTOP)
        late = store.write("l", record, time.time())
        assert (late.copies, late.is_acknowledged) == (2, False)
        assert store.get("l") is not None, "it is stored, and not acknowledged"
        store.close()


def test_where_the_server_can_not_track_copies_are_compared_now_and_then(machine, valkey, monkeypatch):
    from redis.exceptions import ResponseError

    from axolotl_cache.stores.redis import tracking

    def refuse(connection, *command):
        raise ResponseError("unknown subcommand 'TRACKING'")

    monkeypatch.setattr(tracking, "_ask", refuse)
    one, two = machine(valkey.url), machine(valkey.url)
    for each in (one, two):
        each.shared.news._tracking._without_seconds = 0.05
    one.set("k", "v")
    soon(lambda: two.get("k") == "v")
    one.set("k", "w")
    soon(lambda: two.get("k") == "w")
    assert not one.stats().shared.is_coherent


def test_a_forked_child_shares_too(machine, valkey):
    import os

    cache = machine(valkey.url)
    cache.set("k", "v")
    assert cache.shared.flush(10)
    pid = os.fork()
    if pid == 0:
        try:
            soon(lambda: cache.shared._link.is_up())
            cache.set("l", "w")
            good = cache.get("k") == "v" and cache.shared.flush(10)
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache.get("l") == "w"
