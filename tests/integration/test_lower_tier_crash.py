"""A process that is killed while it stores blocks: what was acknowledged is there, and nothing is wrong."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from axolotl_cache.engine.lower import LowerTier, chain_keys, open_lower_store
from axolotl_cache.engine.pool import KVLayout, LayerGroup

BLOCK = 32
BLOCKS = 12
LAYOUT = KVLayout((LayerGroup(tuple(range(6)), 3, 64, 64),), dtype=torch.bfloat16, device=torch.device("cpu"))

# Prompt after prompt, two blocks acknowledged at a time. Stores again what an earlier round left there, too.
WRITER = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from test_lower_tier_crash import BLOCK, block_of, open_tier, prompt
    folder, seed = sys.argv[1], int(sys.argv[2])
    tier = open_tier(folder)
    print("ready", flush=True)
    while True:
        tokens, keys = prompt(seed)
        for n, key in enumerate(keys):
            tier.offer(key, tokens[n * BLOCK : (n + 1) * BLOCK], block_of(seed, n), namespace="n")
            if n % 2:
                tier.flush()
                # one write to the pipe is whole or not there, being short
                sys.stdout.write(f"{{seed}} {{n}}\\n"); sys.stdout.flush()
        tier.touch(keys)
        seed += 2
"""


def open_tier(folder, **settings):
    store = open_lower_store(Path(folder), layout=LAYOUT, block_size=BLOCK, max_bytes=2_000_000_000)
    return LowerTier(store, layout=LAYOUT, block_size=BLOCK, ttl_seconds=3600, **settings)


def prompt(seed):
    tokens = [(seed * 7919 + n) % 50_000 for n in range(BLOCKS * BLOCK)]
    return tokens, chain_keys("n", tokens, BLOCK)


def block_of(seed, number):
    (group,) = LAYOUT.groups
    random = torch.Generator().manual_seed(seed * BLOCKS + number)
    shape = (len(group.layers), group.kv_heads, BLOCK, group.key_dim)
    return tuple(torch.randn(shape, generator=random).bfloat16() for _ in range(2))


def check(tier, acknowledged) -> tuple[int, int]:
    """Compare every block that is there; return how many are right, and how many acknowledged are missing."""
    right = missing = 0
    for seed, last in acknowledged.items():
        tokens, keys = prompt(seed)
        parts = [tokens[n * BLOCK : (n + 1) * BLOCK] for n in range(BLOCKS)]
        fetch = tier.fetch(keys, parts, namespace="n")
        assert fetch.wait(60)
        found = fetch.blocks()
        for number, tensors in enumerate(found):
            wanted = block_of(seed, number)
            assert all(torch.equal(a, b) for a, b in zip(tensors, wanted, strict=True)), "a wrong block"
            right += 1
        missing += max(0, last + 1 - len(found))
    return right, missing


def kill_in_the_middle(folder, rounds):
    """Kill a pair of writers, again and again; return the last acknowledged block of each prompt."""
    acknowledged: dict[int, int] = {}
    chance = random.Random(rounds)
    for number in range(rounds):
        writers = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", textwrap.dedent(WRITER), str(folder), str(first)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for first in (1000 * number, 1000 * number + 1)
        ]
        try:
            for writer in writers:
                assert writer.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.1, 0.6))
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
            told = "".join(writer.stdout.read() for writer in writers)
            for writer in writers:
                writer.wait()
                writer.stdout.close()
        assert told.count("\n") > 1, "it was killed before it did anything"
        for line in told[: told.rfind("\n")].splitlines():
            seed, last = map(int, line.split())
            acknowledged[seed] = max(last, acknowledged.get(seed, 0))
    return acknowledged


def run(folder, rounds):
    acknowledged = kill_in_the_middle(folder, rounds)
    lines: list[str] = []
    tier = open_tier(folder, report=lines.append)
    try:
        started = time.perf_counter()
        seed = next(iter(acknowledged))
        assert tier.count(prompt(seed)[1]) >= acknowledged[seed] + 1, "the first request after a restart hits"
        right, missing = check(tier, acknowledged)
        print(f"{right} blocks right, {missing} missing, in {time.perf_counter() - started:.2f} s")
        assert missing == 0
        assert right >= sum(last + 1 for last in acknowledged.values())
        assert tier.stats.damaged_blocks == tier.stats.failed_reads == 0
        assert lines == []
        # The control: with one block damaged, the same check finds it out.
        key = prompt(seed)[1][0].encode()
        files = Path(folder).glob("kv-*/blobs/*")
        victim = next(path for path in files if key in path.read_bytes()[:2000])
        raw = bytearray(victim.read_bytes())
        raw[-500] ^= 4
        victim.write_bytes(raw)
        right_now, missing = check(tier, acknowledged)
        assert right_now < right
        assert missing > 0
        assert tier.stats.damaged_blocks == 1
    finally:
        tier.close()


def test_what_a_killed_process_had_stored_is_there_and_right(tmp_path):
    run(tmp_path / "tiers", rounds=1)


@pytest.mark.slow
def test_processes_killed_again_and_again(tmp_path):
    run(tmp_path / "tiers", rounds=8)
