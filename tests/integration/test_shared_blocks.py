"""Keys and values on a shared server: one engine computes a prefix, another finds it there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("redis")

import torch

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.lower import LowerTier, chain_keys, layout_digest
from axolotl_cache.engine.pool import KVLayout, LayerGroup
from axolotl_cache.request import Sampling
from axolotl_cache.stores.redis.tier import SharedTier

CPU = torch.device("cpu")
BLOCK = 16
LAYOUT = KVLayout((LayerGroup((0, 1, 2), 4, 64, 64),), dtype=torch.bfloat16, device=CPU)
TOKENS = list(range(4 * BLOCK))
PARTS = [TOKENS[n : n + BLOCK] for n in range(0, len(TOKENS), BLOCK)]


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


def tier(
    url: str,
    name: str,
    layout: KVLayout = LAYOUT,
    block: int = BLOCK,
    key: bytes | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> LowerTier:
    kind = f"kv-{layout_digest(layout, block)}-{name}"
    store = SharedTier(url).blocks(kind, 100, encryption_key=key)
    return LowerTier(store, layout=layout, block_size=block, ttl_seconds=600, report=report)


def block_of(number: int) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(number)
    return tuple(torch.randn(3, 4, BLOCK, 64, generator=random).to(torch.bfloat16) for _ in range(2))


@pytest.mark.parametrize("key", [None, bytes(32)])
def test_blocks_that_one_machine_wrote_come_whole_to_another(valkey, tmp_path: Path, key):
    if key is not None:
        pytest.importorskip("cryptography")
    one, two = (tier(valkey.url, tmp_path.name, key=key) for _ in range(2))
    keys = chain_keys("n", TOKENS, BLOCK)
    for number, (name, tokens) in enumerate(zip(keys, PARTS, strict=True)):
        assert one.offer(name, tokens, block_of(number), namespace="n")
    assert one.flush(20)
    two._reader._refresh()
    assert two.count(keys) == 4
    fetch = two.fetch(keys, PARTS, namespace="n")
    assert fetch.wait(20)
    for number, found in enumerate(fetch.blocks()):
        assert all(torch.equal(a, b) for a, b in zip(found, block_of(number), strict=True))
    assert len(fetch.blocks()) == 4
    other = two.fetch(keys, PARTS, namespace="another")
    assert other.wait(20)
    assert other.blocks() == [], "what is not the block that was asked for is a miss"
    assert one.erase().entries >= 2
    one.close()
    two.close()


def test_an_engine_finds_what_another_computed_and_answers_the_same(valkey, tiny_model, tmp_path: Path):
    tokens = list(range(3, 403))

    def engine() -> Engine:
        return Engine(
            tiny_model,
            device=CPU,
            context_length_tokens=600,
            end_tokens=frozenset(),
            max_cache_bytes=10**8,
            memo=tmp_path,
            lower=lambda layout, block: [tier(valkey.url, tmp_path.name, layout, block)],
        )

    first = engine()
    cold = first.generate(tokens, Sampling(max_new_tokens=4), namespace="n")
    wanted = list(cold)
    first.close()
    second = engine()
    second.stats.prefill_seconds, second.stats.prefill_tokens = 1000.0, 1000  # computing is dear
    (lower,) = second._cache._lower
    eventually(lambda: lower.load_seconds(0) < 1)
    warm = second.generate(tokens, Sampling(max_new_tokens=4), namespace="n")
    assert list(warm) == wanted
    assert warm.cached_tokens > 300
    second.close()


def test_a_server_that_dies_is_a_miss_and_keeps_no_engine_waiting(servers, tmp_path: Path):
    with servers.deployment("single") as deployment:
        one = tier(deployment.url, tmp_path.name)
        keys = chain_keys("n", TOKENS, BLOCK)
        for number, (name, tokens) in enumerate(zip(keys, PARTS, strict=True)):
            one.offer(name, tokens, block_of(number), namespace="n")
        assert one.flush(20)
        deployment.nodes[0].send(signal.SIGKILL)
        fetch = one.fetch(keys, PARTS, namespace="n", patience_seconds=0.05)
        assert fetch.wait(20)
        assert fetch.blocks() == []
        eventually(lambda: one.stats.failed_reads)
        assert one.load_seconds(1) == float("inf"), "it is left alone for a while"
        one.close(1)


def stored(lower: LowerTier, numbers: range, namespace: str) -> list[str]:
    """Offer a block for each number, each of a prompt of its own; give their keys."""
    keys = [chain_keys(namespace, [number] * BLOCK, BLOCK)[0] for number in numbers]
    for number, key in zip(numbers, keys, strict=True):
        lower.offer(key, [number] * BLOCK, block_of(number), namespace=namespace)
        assert lower.flush(20)
    return keys


def loaded(lower: LowerTier, key: str, number: int, namespace: str) -> bool:
    """Load a block; give whether it came, and see that it is the one that was stored."""
    fetch = lower.fetch([key], [[number] * BLOCK], namespace=namespace)
    assert fetch.wait(20)
    for found in fetch.blocks():
        assert all(torch.equal(a, b) for a, b in zip(found, block_of(number), strict=True))
    return bool(fetch.blocks())


def test_a_full_server_takes_no_more_blocks_and_gives_those_it_has(servers, tmp_path: Path):
    with servers.deployment("single", "--maxmemory", "4mb") as deployment:
        lines: list[str] = []
        one = tier(deployment.url, tmp_path.name, report=lines.append)
        keys = stored(one, range(90), "n")
        stats = one.stats
        assert stats.failed_writes >= 1
        assert 0 < stats.written_blocks < 90
        assert [line for line in lines if "memory limit" in line], lines
        assert loaded(one, keys[0], 0, "n")
        assert not loaded(one, keys[-1], 89, "n")
        one.close()


def test_after_a_restart_without_data_blocks_are_missed_and_stored_again(servers, tmp_path: Path):
    with servers.deployment("single") as deployment:
        one = tier(deployment.url, tmp_path.name)
        keys = stored(one, range(4), "n")
        assert all(loaded(one, key, number, "n") for number, key in enumerate(keys))
        deployment.nodes[0].kill()
        deployment.nodes[0].start()
        eventually(lambda: one.count(keys) == 0)
        assert not any(loaded(one, key, number, "n") for number, key in enumerate(keys))
        eventually(lambda: stored(one, range(4), "n") and one.stats.written_blocks == 8)
        assert all(loaded(one, key, number, "n") for number, key in enumerate(keys))
        one.close()
