"""The tier below the engine's memory: what went in comes out, or nothing does, and nobody waits."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from axolotl_cache.clock import ManualClock
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.lower import (
    LowerTier,
    chain_keys,
    layout_digest,
    next_key,
    open_lower_store,
    stored_block_bytes,
    worth_loading,
)
from axolotl_cache.engine.lower import fetch as fetch_module
from axolotl_cache.engine.lower.block import BlockFormat, BlockName
from axolotl_cache.engine.lower.cost import LoadCost, patience_seconds
from axolotl_cache.engine.lower.fetch import Fetch
from axolotl_cache.engine.pool import KVLayout, LayerGroup
from axolotl_cache.errors import CapacityError, StoreError
from axolotl_cache.request import Sampling

BLOCK = 16
CPU = torch.device("cpu")
# Two groups of different shapes, and blocks above 100 KB, so that they lie in files of their own
LAYOUT = KVLayout(
    (LayerGroup((0, 2), 4, 64, 96), LayerGroup((1,), 8, 128, 128)), dtype=torch.bfloat16, device=CPU
)
NAMESPACE = "a" * 32


def block_of(number: int, layout: KVLayout = LAYOUT) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(number)
    return tuple(
        torch.randn(len(g.layers), g.kv_heads, BLOCK, dim, generator=random).to(layout.dtype)
        for g in layout.groups
        for dim in (g.key_dim, g.value_dim)
    )


def equal(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> bool:
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(left, right, strict=True)
    )


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Prompt:
    """A prompt of some blocks, and what its keys and values would be."""

    def __init__(self, seed: int, blocks: int, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace
        self.tokens = [seed * 1000 + n for n in range(blocks * BLOCK)]
        self.parts = [self.tokens[n * BLOCK : (n + 1) * BLOCK] for n in range(blocks)]
        self.keys = chain_keys(namespace, self.tokens, BLOCK)
        self.blocks = [block_of(seed * 100 + n) for n in range(blocks)]

    def offer(self, tier: LowerTier) -> list[bool]:
        rows = zip(self.keys, self.parts, self.blocks, strict=True)
        return [tier.offer(k, t, tuple(x.clone() for x in b), namespace=self.namespace) for k, t, b in rows]

    def load(self, tier: LowerTier) -> int:
        """Fetch everything; return how many blocks came, all of them right."""
        fetch = tier.fetch(self.keys, self.parts, namespace=self.namespace)
        assert fetch.wait(30)
        found = fetch.blocks()
        assert all(equal(a, b) for a, b in zip(found, self.blocks, strict=False)), "a wrong block"
        return len(found)


class Slow:
    """A store whose calls can be held up, or made to fail."""

    def __init__(self, store) -> None:
        self._store = store
        self.may_put = threading.Event()
        self.may_get = threading.Event()
        self.may_put.set()
        self.may_get.set()
        self.failing: set[str] = set()
        self.puts = 0

    def put(self, *arguments):
        assert self.may_put.wait(30)
        self.puts += 1
        if "put" in self.failing:
            raise StoreError("not stored: No space left on device")
        return self._store.put(*arguments)

    def get(self, key):
        assert self.may_get.wait(30)
        if "get" in self.failing:
            raise StoreError("Input/output error")
        return self._store.get(key)

    def __getattr__(self, name):
        return getattr(self._store, name)


class Bench:
    """Tiers over one folder, and the clock and the lines that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.lines: list[str] = []
        self._open: list[LowerTier] = []

    def store(self, blocks: int = 100):
        room = blocks * stored_block_bytes(LAYOUT, BLOCK)
        return open_lower_store(self.folder, layout=LAYOUT, block_size=BLOCK, max_bytes=room)

    def tier(self, store=None, **settings) -> LowerTier:
        settings = {"clock": self.clock, "ttl_seconds": None, "report": self.lines.append, **settings}
        tier = LowerTier(
            self.store() if store is None else store, layout=LAYOUT, block_size=BLOCK, **settings
        )
        self._open.append(tier)
        return tier

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("kv-*/blobs/*"), key=lambda p: p.stat().st_mtime_ns)

    def close(self) -> None:
        for tier in self._open:
            tier.close()


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    made = Bench(tmp_path / "tiers")
    yield made
    made.close()


# Keys


def test_keys_of_a_prompt_are_those_of_its_blocks_one_after_another():
    tokens = list(range(5 * BLOCK + 3))
    keys = chain_keys(NAMESPACE, tokens, BLOCK)
    assert len(keys) == 5
    previous = NAMESPACE
    for number, key in enumerate(keys):
        previous = next_key(previous, tokens[number * BLOCK : (number + 1) * BLOCK])
        assert key == previous


def test_keys_never_change():
    assert chain_keys("n", list(range(8)), 4) == [
        "6c6597301a9b9b52ba99f203dbc48522",
        "509887bef9a58132966907ac7c15b7ba",
    ]


def test_a_key_stands_for_everything_before_it_and_for_the_namespace():
    tokens = list(range(4 * BLOCK))
    keys = chain_keys(NAMESPACE, tokens, BLOCK)
    changed = chain_keys(NAMESPACE, [tokens[0], 999, *tokens[2:]], BLOCK)
    assert not set(keys) & set(changed)
    later = chain_keys(NAMESPACE, [*tokens[:-1], 999], BLOCK)
    assert [a == b for a, b in zip(keys, later, strict=True)] == [True, True, True, False]
    assert not set(keys) & set(chain_keys("b" * 32, tokens, BLOCK))


def test_where_the_namespace_ends_and_the_tokens_begin_makes_a_difference():
    # "n" and the bytes of 0x41414141 are the same text as "nAAAA" and nothing
    assert next_key("n", [0x41414141]) != next_key("nAAAA", [])


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_id_is_refused(token):
    with pytest.raises(OverflowError):
        next_key(NAMESPACE, [token])


# Blocks as bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_bit_of_a_block_comes_back(dtype):
    layout = replace(LAYOUT, dtype=dtype)
    block = block_of(1, layout)
    block[0].view(-1)[:4] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-40]).to(dtype)
    form, name = BlockFormat(layout, BLOCK), BlockName("k", tuple(range(BLOCK)), "n")
    payload = form.encode(name, block)
    found = form.decode(name, payload)
    assert found is not None
    assert equal(found, block)
    assert len(payload) <= stored_block_bytes(layout, BLOCK)


def test_views_and_inference_tensors_come_back_too():
    form, name = BlockFormat(LAYOUT, BLOCK), BlockName("k", tuple(range(BLOCK)))
    with torch.inference_mode():
        wide = [torch.randn(t.shape[0], 2 * t.shape[1], *t.shape[2:]).bfloat16() for t in block_of(1)]
        block = tuple(t[:, ::2] for t in wide)
    assert equal(form.decode(name, form.encode(name, block)), block)
    whole = torch.randn(sum(t.numel() for t in block_of(1))).bfloat16()
    parts = whole.split([t.numel() for t in block_of(1)])
    block = tuple(p.view(t.shape) for p, t in zip(parts, block_of(1), strict=True))
    assert equal(form.decode(name, form.encode(name, block)), block)


def test_a_stored_block_is_a_safetensors_file_that_says_what_it_is(tmp_path):
    form = BlockFormat(LAYOUT, BLOCK)
    path = tmp_path / "block"
    path.write_bytes(form.encode(BlockName("k", tuple(range(BLOCK)), "n"), block_of(1)))
    with safetensors.safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["axolotl-cache"])
        assert list(file.keys()) == ["0.keys", "0.values", "1.keys", "1.values"]
        assert torch.equal(file.get_tensor("1.keys"), block_of(1)[2])
    assert (told["key"], told["namespace"], told["block_size"]) == ("k", "n", BLOCK)
    assert bytes.fromhex(told["tokens"]) == b"".join(n.to_bytes(4, "little") for n in range(BLOCK))


def test_a_block_under_another_name_or_layout_is_nothing():
    form, name = BlockFormat(LAYOUT, BLOCK), BlockName("k", tuple(range(BLOCK)), "n")
    payload = form.encode(name, block_of(1))
    assert form.decode(name, payload) is not None
    for other in (
        replace(name, key="l"),
        replace(name, namespace="m"),
        replace(name, tokens=(*range(BLOCK - 1), 99)),
    ):
        assert form.decode(other, payload) is None
    groups = LAYOUT.groups
    for layout in (
        replace(LAYOUT, dtype=torch.float16),
        replace(LAYOUT, groups=groups[:1]),
        replace(LAYOUT, groups=(replace(groups[0], layers=(0, 1)), replace(groups[1], layers=(2,)))),
    ):
        assert BlockFormat(layout, BLOCK).decode(name, payload) is None
    # the same numbers, cut differently
    wide = replace(LAYOUT, groups=(replace(groups[0], key_dim=96, value_dim=64), groups[1]))
    assert BlockFormat(wide, BLOCK).decode(name, payload) is None


def test_bytes_cut_off_or_made_up_are_nothing():
    form, name = BlockFormat(LAYOUT, BLOCK), BlockName("k", tuple(range(BLOCK)), "n")
    payload = form.encode(name, block_of(1))
    for length in [*range(40), 500, 1000, len(payload) // 2, len(payload) - 1]:
        assert form.decode(name, payload[:length]) is None, length
    assert form.decode(name, payload + b"\0") is None
    for header in (b"[]", b"{}", b"[" * 100_000, b'{"__metadata__": 1}', b"\xff\xff"):
        assert form.decode(name, len(header).to_bytes(8, "little") + header) is None
    assert form.decode(name, b"\xff" * 100) is None


def test_what_is_not_one_block_is_refused_at_once(bench):
    tier = bench.tier()
    tokens, block = list(range(BLOCK)), block_of(1)
    with pytest.raises(ValueError, match="15 tokens"):
        tier.offer("k", tokens[:-1], block)
    with pytest.raises(ValueError, match="a block of this layout"):
        tier.offer("k", tokens, block[:-1])
    with pytest.raises(ValueError, match="a block of this layout"):
        tier.offer("k", tokens, tuple(t.float() for t in block))


# There and back


def test_what_was_offered_is_found_after_a_restart(bench):
    prompt = Prompt(1, 5)
    first = bench.tier()
    assert first.count(prompt.keys) == 0
    assert prompt.offer(first) == [True] * 5
    first.close()  # writes what is pending
    assert len(bench.files()) == 5
    second = bench.tier()
    assert second.count(prompt.keys) == 5, "the first request after a restart hits"
    assert prompt.load(second) == 5
    stats = second.stats
    assert (stats.loaded_blocks, stats.loaded_bytes) == (5, 5 * LAYOUT.nbytes(BLOCK))
    assert (stats.damaged_blocks, stats.failed_reads) == (0, 0)
    assert stats.load_seconds > 0


def test_only_leading_blocks_count(bench):
    tier, prompt = bench.tier(), Prompt(1, 5)
    for number in (0, 1, 3):
        tier.offer(
            prompt.keys[number], prompt.parts[number], prompt.blocks[number], namespace=prompt.namespace
        )
    assert tier.count(prompt.keys) == 2
    assert tier.count(prompt.keys[3:]) == 1
    assert tier.flush()
    assert tier.count(prompt.keys) == 2
    assert prompt.load(tier) == 2


def test_what_is_stored_is_not_written_again(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    for _ in range(2):
        assert prompt.offer(tier) == [True] * 3
    tier.flush()
    assert prompt.offer(tier) == [True] * 3
    tier.flush()
    assert store.puts == 3
    assert tier.stats.written_blocks == 3
    assert tier.stats.written_bytes == 3 * LAYOUT.nbytes(BLOCK)


def test_offering_and_asking_wait_for_no_disk(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    store.may_put.clear()
    started = time.perf_counter()
    prompt.offer(tier)
    assert tier.count(prompt.keys) == 3
    assert prompt.load(tier) == 3, "those that wait can be had, too"
    tier.touch(prompt.keys)
    assert tier.load_seconds(3) > 0
    assert time.perf_counter() - started < 1
    assert tier.pending_bytes == 3 * LAYOUT.nbytes(BLOCK)
    assert not tier.flush(0.01)
    store.may_put.set()
    assert tier.flush(10)
    assert tier.pending_bytes == 0


def test_a_load_does_not_stand_behind_writing(bench):
    store = Slow(bench.store())
    tier, old, new = bench.tier(store), Prompt(1, 3), Prompt(2, 3)
    old.offer(tier)
    tier.flush()
    store.may_put.clear()
    new.offer(tier)
    assert old.load(tier) == 3
    store.may_put.set()


def test_no_more_waits_than_the_bound(bench):
    one = LAYOUT.nbytes(BLOCK)
    store = Slow(bench.store())
    tier, prompt = bench.tier(store, max_pending_bytes=3 * one), Prompt(1, 5)
    store.may_put.clear()
    assert prompt.offer(tier) == [True, True, True, False, False]
    assert tier.pending_bytes == 3 * one
    assert tier.stats.dropped_blocks == 2
    store.may_put.set()
    tier.flush()
    assert prompt.offer(tier) == [True] * 5
    tier.flush()
    assert tier.count(prompt.keys) == 5


def test_a_block_above_the_bound_is_let_in_alone(bench):
    tier, prompt = bench.tier(max_pending_bytes=1), Prompt(1, 2)
    assert prompt.offer(tier)[0]
    tier.flush()
    assert tier.stats.written_blocks >= 1


def test_a_cancelled_load_gives_nothing_more(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    prompt.offer(tier)
    tier.flush()
    store.may_get.clear()
    fetch = tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE)
    assert not fetch.done()
    fetch.cancel()
    assert fetch.done()
    assert fetch.blocks() == []
    store.may_get.set()
    assert prompt.load(tier) == 3, "the next one is not in its way"
    assert fetch.blocks() == []


def test_nothing_to_fetch_is_done_at_once(bench):
    fetch = bench.tier().fetch([], [])
    assert fetch.done()
    assert fetch.blocks() == []


def test_a_load_may_lose_its_patience_against_computing_and_no_more(monkeypatch):
    clock = ManualClock()
    monkeypatch.setattr(fetch_module.time, "perf_counter", clock)
    names = [BlockName(str(n), (n,)) for n in range(9)]
    fetch = Fetch(names, patience_seconds=2.0, block_seconds=1.0)
    for _ in range(3):  # somewhat slower than computing
        clock.advance(1.25)
        assert not fetch.done()
        assert fetch.add(block_of(1))
    clock.advance(1.2)
    assert not fetch.done()
    clock.advance(0.1)
    assert fetch.done()
    assert not fetch.add(block_of(1)), "nothing comes after"
    assert len(fetch.blocks()) == 3
    patient = Fetch(names)
    clock.advance(1e6)
    assert not patient.done()


def test_waiting_for_a_load_ends_with_its_patience(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    prompt.offer(tier)
    tier.flush()
    store.may_get.clear()
    fetch = tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE, patience_seconds=0.05)
    assert fetch.wait(30)
    assert not store.may_get.is_set()
    assert fetch.blocks() == []
    store.may_get.set()


def test_a_read_that_came_too_late_is_learned_from(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    prompt.offer(tier)
    tier.flush()
    assert prompt.load(tier) == 3
    before = tier.load_seconds(3)
    store.may_get.clear()
    fetch = tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE)
    time.sleep(0.3)
    fetch.cancel()
    store.may_get.set()
    assert eventually(lambda: tier._reader._reading_since is None)  # it does not hang any more
    assert eventually(lambda: tier.load_seconds(3) > before + 0.05)
    assert tier.stats.loaded_blocks == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_blocks_of_a_gpu_are_copied_when_they_are_ready_and_come_back_on_the_host(bench):
    prompt, tier = Prompt(1, 8), bench.tier()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # the copies below are made long after they were offered
        for key, part, block in zip(prompt.keys, prompt.parts, prompt.blocks, strict=True):
            copies = tuple(t.cuda(non_blocking=True) + 0 for t in block)
            assert tier.offer(key, part, copies, namespace=prompt.namespace)
    assert prompt.load(tier) == 8
    tier.flush()
    assert prompt.load(tier) == 8
    assert tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE).wait(10)


# Damage


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "one bit of the tensors": lambda p: flip(p, -1000),
    "one bit of the header": lambda p: flip(p, 100),
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "gone": lambda p: p.unlink(),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "another block": lambda p: shutil.copy(sorted(p.parent.iterdir())[0], p),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_block_is_a_miss_and_ends_the_prefix(bench, damage):
    prompt = Prompt(1, 4)
    tier = bench.tier()
    prompt.offer(tier)
    tier.flush()
    files = bench.files()
    third = next(p for p in files if prompt.keys[2].encode() in p.read_bytes()[:2000])
    if damage == "another block":
        other = next(p for p in files if p != third)
        third.write_bytes(other.read_bytes())
    else:
        DAMAGE[damage](third)
    assert tier.count(prompt.keys) == 4
    assert prompt.load(tier) == 2
    assert tier.stats.damaged_blocks == 1
    assert tier.stats.failed_reads == 0
    assert tier.count(prompt.keys) == 2, "and it is known from now on"
    prompt.offer(tier)  # computed again, and stored again
    tier.flush()
    assert prompt.load(tier) == 4


def test_the_control_nothing_damaged(bench):
    prompt, tier = Prompt(1, 4), bench.tier()
    prompt.offer(tier)
    tier.flush()
    assert prompt.load(tier) == 4
    assert tier.stats.damaged_blocks == 0


def test_a_store_that_returns_other_bytes_is_not_believed(bench):
    prompt = Prompt(1, 2)
    store = bench.store()
    tier = bench.tier(store)
    prompt.offer(tier)
    tier.flush()
    record = store.get(prompt.keys[1])
    store.put(prompt.keys[1], replace(store.get(prompt.keys[0]), version=1), bench.clock())
    assert prompt.load(tier) == 1
    assert tier.stats.damaged_blocks == 1
    assert store.get(prompt.keys[1]) is None, "it is removed"
    store.put(prompt.keys[1], replace(record, codec="text", version=2), bench.clock())
    assert prompt.load(tier) == 1


@pytest.mark.parametrize("wrong", ["tokens", "namespace"])
def test_tokens_and_namespace_are_compared_whatever_the_key_says(bench, wrong):
    prompt, tier = Prompt(1, 3), bench.tier()
    prompt.offer(tier)
    tier.flush()
    parts = [list(p) for p in prompt.parts]
    if wrong == "tokens":
        parts[1][5] += 1
    fetch = tier.fetch(prompt.keys, parts, namespace="b" * 32 if wrong == "namespace" else NAMESPACE)
    assert fetch.wait(10)
    assert len(fetch.blocks()) == (1 if wrong == "tokens" else 0)
    assert tier.stats.damaged_blocks == 1


def test_a_waiting_block_is_compared_too(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 1)
    store.may_put.clear()
    prompt.offer(tier)
    fetch = tier.fetch(prompt.keys, prompt.parts, namespace="b" * 32)
    assert fetch.wait(10)
    assert fetch.blocks() == []
    store.may_put.set()


# A medium that fails


def test_a_full_disk_is_counted_reported_once_and_left_alone_for_a_while(bench):
    store = Slow(bench.store())
    tier = bench.tier(store)
    store.failing = {"put"}
    assert Prompt(1, 3).offer(tier)[0]
    tier.flush()
    assert tier.stats.failed_writes == 1
    assert tier.stats.dropped_blocks == 3
    assert tier.pending_bytes == 0
    assert Prompt(1, 3).offer(tier) == [False] * 3, "paused"
    assert store.puts == 1
    pauses = []
    for _ in range(9):
        paused = 0
        while tier.count([]) == 0 and not Prompt(2, 1).offer(tier)[0]:
            bench.clock.advance(0.5)
            paused += 1
        tier.flush()
        pauses.append(paused / 2)
    assert pauses[:3] == [1, 2, 4]
    assert pauses[-1] == 60
    assert len(bench.lines) == 1
    assert "No space left on device" in bench.lines[0]
    store.failing = set()
    bench.clock.advance(61)
    prompt = Prompt(3, 3)
    assert prompt.offer(tier) == [True] * 3, "it comes back by itself"
    tier.flush()
    assert prompt.load(tier) == 3
    assert len(bench.lines) == 1


def test_a_disk_that_can_not_be_written_is_still_read(bench):
    prompt, store = Prompt(1, 3), Slow(bench.store())
    tier = bench.tier(store)
    prompt.offer(tier)
    tier.flush()
    store.failing = {"put"}
    Prompt(2, 1).offer(tier)
    tier.flush()
    assert tier.count(prompt.keys) == 3
    assert prompt.load(tier) == 3


def test_the_folder_that_is_taken_away_is_no_error_of_a_request(bench):
    prompt, tier = Prompt(1, 3), bench.tier()
    prompt.offer(tier)
    tier.flush()
    blobs = bench.files()[0].parent
    shutil.rmtree(blobs)
    assert prompt.load(tier) == 0
    Prompt(2, 2).offer(tier)
    tier.flush()
    assert tier.stats.failed_writes == 1
    assert len(bench.lines) == 1
    blobs.mkdir()
    bench.clock.advance(2)
    for _ in prompt.keys:  # each load finds one more that is not there any more
        prompt.offer(tier)
        tier.flush()
        found = prompt.load(tier)
    assert found == 3


def test_a_disk_that_can_not_be_read_is_a_miss_and_costs_nobody_time(bench):
    prompt, store = Prompt(1, 3), Slow(bench.store())
    tier = bench.tier(store)
    prompt.offer(tier)
    tier.flush()
    store.failing = {"get"}
    assert prompt.load(tier) == 0
    assert tier.stats.failed_reads == 1
    assert tier.count(prompt.keys) == 0
    assert tier.load_seconds(1) == math.inf
    assert len(bench.lines) == 1
    store.failing = set()
    bench.clock.advance(2)
    assert tier.count(prompt.keys[1:]) == 2, "the one that could not be read is forgotten"


def test_an_error_that_nobody_thought_of_ends_no_thread(bench, monkeypatch):
    tier, prompt = bench.tier(), Prompt(1, 2)
    monkeypatch.setattr(BlockFormat, "encode", lambda *_: 1 / 0)
    prompt.offer(tier)
    tier.flush()
    assert tier.stats.failed_writes == 1
    monkeypatch.undo()
    bench.clock.advance(2)
    prompt.offer(tier)
    tier.flush()
    monkeypatch.setattr(BlockFormat, "decode", lambda *_: 1 / 0)
    assert prompt.load(tier) == 0
    assert tier.stats.failed_reads == 1
    monkeypatch.undo()
    bench.clock.advance(2)
    assert prompt.load(tier) == 2


def test_a_report_that_fails_leaves_nobody_waiting(bench):
    store = Slow(bench.store())
    tier = bench.tier(store, report=lambda line: 1 / 0)
    prompt = Prompt(1, 1)
    prompt.offer(tier)
    tier.flush()
    store.failing = {"get", "put"}
    assert prompt.load(tier) == 0
    Prompt(2, 1).offer(tier)
    assert tier.flush(10)
    assert (tier.stats.failed_reads, tier.stats.failed_writes) == (1, 1)


def test_an_unreadable_store_at_the_start_is_reported_and_empty(bench):
    store = Slow(bench.store())
    store.keys = lambda: (_ for _ in ()).throw(StoreError("Input/output error"))
    tier = bench.tier(store)
    assert len(bench.lines) == 1
    assert tier.count(Prompt(1, 1).keys) == 0


@pytest.mark.parametrize("hangs", ["writing", "reading"])
def test_closing_does_not_wait_for_a_store_that_hangs(bench, hangs):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 3)
    if hangs == "reading":
        prompt.offer(tier)
        tier.flush()
        store.may_get.clear()
        fetch = tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE)
    else:
        store.may_put.clear()
        prompt.offer(tier)
        fetch = None
    started = time.perf_counter()
    tier.close(0.05)
    assert time.perf_counter() - started < 2
    assert tier.pending_bytes == 0
    assert fetch is None or fetch.done()
    store.may_put.set()
    store.may_get.set()
    tier.close()
    assert eventually(lambda: not any(t.name.startswith("kv-tier") for t in threading.enumerate()))
    store.close()


def test_a_closed_tier_takes_and_gives_nothing(bench):
    tier, prompt = bench.tier(), Prompt(1, 2)
    prompt.offer(tier)
    tier.close()
    tier.close()
    assert tier.count(prompt.keys) == 0
    assert prompt.load(tier) == 0
    assert Prompt(2, 1).offer(tier) == [False]
    tier.touch(prompt.keys)
    assert tier.flush(1)


# How much, how long, and whose


def test_the_bound_is_hard_and_a_prompts_last_blocks_go_first(bench):
    tier = bench.tier(bench.store(blocks=4))
    old, new = Prompt(1, 3), Prompt(2, 2)
    old.offer(tier)
    tier.touch(old.keys)  # first to last, as the engine knows them
    new.offer(tier)
    tier.flush()
    assert len(bench.files()) == tier.held_blocks == 4
    assert tier.count(old.keys) == 2
    assert tier.count(new.keys) == 2
    used = sum(p.stat().st_size for p in bench.files())
    assert used <= 4 * stored_block_bytes(LAYOUT, BLOCK)


def test_what_is_loaded_lives_on(bench):
    tier = bench.tier(bench.store(blocks=4))
    old, new = Prompt(1, 2), Prompt(2, 2)
    old.offer(tier)
    new.offer(tier)
    tier.flush()
    assert old.load(tier) == 2
    tier.flush()
    Prompt(3, 2).offer(tier)
    tier.flush()
    assert tier.count(old.keys) == 2
    assert tier.count(new.keys) == 0


def test_what_nobody_used_for_its_time_is_a_miss(bench):
    prompt, tier = Prompt(1, 2), bench.tier(ttl_seconds=100)
    prompt.offer(tier)
    tier.flush()
    bench.clock.advance(99.9)
    assert prompt.load(tier) == 2  # renewed by that
    tier.flush()
    assert tier.stats.renewed_blocks == 2
    bench.clock.advance(100)
    assert prompt.load(tier) == 0
    assert tier.stats.damaged_blocks == 0
    assert eventually(lambda: tier.count(prompt.keys) == 0)


def test_expired_blocks_give_their_room_back(bench):
    prompt, tier = Prompt(1, 2), bench.tier(ttl_seconds=100)
    prompt.offer(tier)
    tier.flush()
    bench.clock.advance(200)
    assert eventually(lambda: tier.count(prompt.keys) == 0)
    assert eventually(lambda: not bench.files())


def test_what_is_used_is_renewed_and_only_when_half_its_time_is_over(bench):
    store = Slow(bench.store())
    prompt, tier = Prompt(1, 2), bench.tier(store, ttl_seconds=100)
    prompt.offer(tier)
    tier.flush()
    for _ in range(5):
        bench.clock.advance(9)
        tier.touch(prompt.keys)
    tier.flush()
    assert store.puts == 2
    bench.clock.advance(9)
    tier.touch(prompt.keys)
    tier.flush()
    assert (store.puts, tier.stats.renewed_blocks) == (4, 2)
    bench.clock.advance(99)
    assert prompt.load(tier) == 2
    tier.flush()
    assert len(bench.files()) == 2


def test_a_restart_changes_nothing_about_the_time(bench):
    prompt, first = Prompt(1, 2), bench.tier(ttl_seconds=100)
    prompt.offer(first)
    first.close()
    bench.clock.advance(60)
    second = bench.tier(ttl_seconds=100)
    second.touch(prompt.keys)
    second.flush()
    assert second.stats.renewed_blocks == 2
    second.close()
    bench.clock.advance(100)
    assert bench.tier(ttl_seconds=100).count(prompt.keys) == 0


def test_clearing_takes_one_namespace_stored_or_waiting(bench):
    store = Slow(bench.store())
    tier = bench.tier(store)
    mine, theirs = Prompt(1, 2), Prompt(1, 2, namespace="b" * 32)
    mine.offer(tier)
    theirs.offer(tier)
    tier.flush()
    assert tier.clear(namespace=mine.namespace) == 2
    assert (tier.count(mine.keys), tier.count(theirs.keys)) == (0, 2)
    assert theirs.load(tier) == 2
    more = Prompt(3, 2)
    more.offer(tier)
    tier.clear()
    tier.flush()
    assert (tier.count(more.keys), tier.count(theirs.keys), tier.held_blocks) == (0, 0, 0)
    assert not bench.files()


def test_what_is_offered_again_after_a_clear_is_stored(bench):
    store = Slow(bench.store())
    tier, prompt = bench.tier(store), Prompt(1, 2)
    held = tier._shelf._changing  # as a clear that takes its time would hold it
    with held:
        prompt.offer(tier)
        time.sleep(0.02)
        tier._writer.drop()
        prompt.offer(tier)
    tier.flush()
    assert tier.pending_bytes == 0
    assert prompt.load(tier) == 2
    assert tier.stats.written_blocks == 2


def test_blocks_that_another_process_stored_are_found(bench):
    prompt = Prompt(1, 2)
    one, other = bench.tier(), bench.tier()
    prompt.offer(one)
    one.flush()
    assert eventually(lambda: bench.clock.advance(1) or other.count(prompt.keys) == 2)
    assert prompt.load(other) == 2
    one.clear()
    assert prompt.load(other) == 0
    assert other.stats.damaged_blocks == 0, "removed is not damaged"


def test_an_idle_process_finds_at_once_what_another_stored(bench, monkeypatch):
    # However slow this machine is today.
    monkeypatch.setattr("axolotl_cache.engine.lower.reader._WAIT_SECONDS", 30.0)
    prompt = Prompt(1, 2)
    one, other = bench.tier(), bench.tier()
    assert other.count(prompt.keys) == 0
    prompt.offer(one)
    one.flush()
    assert other.count(prompt.keys) == 0, "it has looked just now"
    bench.clock.advance(10)
    assert other.count(prompt.keys) == 2


def test_a_store_that_hangs_holds_the_first_who_asks_for_a_moment_only(bench):
    store = bench.store()
    tier = bench.tier(store)
    let_go = threading.Event()
    tier._reader._submit(let_go.wait)  # the thread is held up, as by a read that does not return
    bench.clock.advance(10)
    assert tier.count(Prompt(1, 2).keys) == 0  # returns: the wait has an end
    let_go.set()


def test_layouts_have_folders_of_their_own(bench, tmp_path):
    assert layout_digest(LAYOUT, BLOCK) == layout_digest(replace(LAYOUT, device=torch.device("meta")), BLOCK)
    others = [
        layout_digest(LAYOUT, 32),
        layout_digest(replace(LAYOUT, dtype=torch.float16), BLOCK),
        layout_digest(replace(LAYOUT, groups=LAYOUT.groups[:1]), BLOCK),
    ]
    assert layout_digest(LAYOUT, BLOCK) not in others
    bench.store().close()
    assert [p.name for p in bench.folder.iterdir()] == [f"kv-{layout_digest(LAYOUT, BLOCK)}"]
    with pytest.raises(CapacityError, match="hold no block"):
        open_lower_store(tmp_path / "x", layout=LAYOUT, block_size=BLOCK, max_bytes=1000)


# What loading costs


def test_loading_pays_when_it_is_clearly_faster_than_computing():
    assert worth_loading(10, 0.1, 0.001, 32)  # 0.32 s to compute
    assert not worth_loading(10, 0.33, 0.001, 32)
    assert not worth_loading(10, 0.30, 0.001, 32), "as fast is not faster"
    assert not worth_loading(0, 0.0, 0.001, 32)
    assert not worth_loading(10, math.inf, 0.001, 32)
    assert not worth_loading(10, math.nan, 0.001, 32)
    assert not worth_loading(10, 0.1, math.inf, 32)
    assert not worth_loading(10, 0.1, 0.0, 32)


def test_patience_is_a_share_of_what_computing_takes():
    assert patience_seconds(8.0) == 2.0
    assert 0 < patience_seconds(0.0) <= 0.01


def test_the_engine_waits_for_a_disk_that_hangs_a_share_of_what_computing_takes(tiny_model, bench, tmp_path):
    tokens, slow, loads = list(range(3, 303)), [], []

    def engine(**settings):
        def lower(layout, block_size):
            store = open_lower_store(tmp_path / "kv", layout=layout, block_size=block_size, max_bytes=10**8)
            slow.append(Slow(store))
            return [LowerTier(slow[-1], layout=layout, block_size=block_size)]

        options = {"context_length_tokens": 500, "end_tokens": frozenset(), "max_cache_bytes": 10**8}
        made = Engine(tiny_model, device=CPU, lower=lower, memo=tmp_path, **options)
        made.stats.prefill_seconds, made.stats.prefill_tokens = 1000 * 1e-3, 1000
        return made

    first = engine()
    list(first.generate(tokens, Sampling(max_new_tokens=2), namespace="n"))
    first.close()
    second = engine()
    (tier,) = second._cache._lower
    assert eventually(lambda: tier.load_seconds(0) < 0.01)
    slow[-1].may_get.clear()
    fetch = tier.fetch
    tier.fetch = lambda *told, **more: loads.append((more, fetch(*told, **more))) or loads[-1][1]
    answer = second.generate(tokens, Sampling(max_new_tokens=2), namespace="n")
    assert len(list(answer)) == 2
    assert not slow[-1].may_get.is_set()
    assert answer.cached_tokens == 0
    ((more, load),) = loads
    assert load.done()
    assert more["patience_seconds"] == pytest.approx(0.25 * 288e-3)
    assert more["block_seconds"] == pytest.approx(32e-3)
    # Now it is known to hang, so that the next one does not wait for it, though loading would be faster.
    second._cache.tree.clear()
    second.stats.prefill_seconds, second.stats.prefill_tokens = 1000 * 1e-3, 1000
    assert eventually(lambda: tier.load_seconds(0) > 0.1)
    list(second.generate(tokens, Sampling(max_new_tokens=2), namespace="n"))
    assert len(loads) == 1
    slow[-1].may_get.set()
    second.close()


def test_the_cost_is_a_guess_then_what_was_measured_then_an_average():
    cost = LoadCost()
    guess = cost.seconds(1_000_000)
    assert 0.01 <= guess <= 0.05
    cost.learn(start_seconds=0.001, read_seconds=0.002, nbytes=1_000_000, now_seconds=5.0)
    assert cost.seconds(1_000_000) == pytest.approx(0.003)
    assert cost.seconds(2_000_000) == pytest.approx(0.005)
    cost.learn(start_seconds=0.001, read_seconds=0.1, nbytes=1_000_000, now_seconds=6.0)
    assert 0.02 < cost.seconds(1_000_000) < 0.1
    for _ in range(20):
        cost.learn(start_seconds=0.001, read_seconds=0.1, nbytes=1_000_000, now_seconds=7.0)
    assert cost.seconds(1_000_000) == pytest.approx(0.101, rel=0.01)


def test_loads_are_measured(bench):
    prompt, tier = Prompt(1, 8), bench.tier()
    assert tier.load_seconds(0) < tier.load_seconds(8)
    prompt.offer(tier)
    tier.flush()
    guess = tier.load_seconds(1000)
    assert prompt.load(tier) == 8
    assert eventually(lambda: tier.load_seconds(1000) != guess)
    assert tier.stats.load_seconds > 0


def test_after_a_restart_the_cost_is_known_before_anybody_asks(bench):
    prompt, first = Prompt(1, 2), bench.tier()
    guess = first.load_seconds(1000)
    prompt.offer(first)
    first.close()
    second = bench.tier()
    assert eventually(lambda: second.load_seconds(1000) != guess)
    assert second.stats.loaded_blocks == 0, "measuring is not loading"


def test_a_disk_that_hangs_is_expected_to_take_longer_and_longer(bench):
    prompt, store = Prompt(1, 3), Slow(bench.store())
    tier = bench.tier(store)
    prompt.offer(tier)
    tier.flush()
    assert prompt.load(tier) == 3
    before = tier.load_seconds(3)
    store.may_get.clear()
    fetch = tier.fetch(prompt.keys, prompt.parts, namespace=NAMESPACE)
    assert tier.load_seconds(3) > before, "behind those that wait already"
    assert eventually(lambda: tier.load_seconds(1) > before + 0.1)
    store.may_get.set()
    assert fetch.wait(10)
    assert len(fetch.blocks()) == 3
    slow = tier.load_seconds(3)
    for _ in range(40):
        prompt.load(tier)
    assert tier.load_seconds(3) < slow, "and forgiven"
