"""Questions in other words, on several machines: one machine's question is found by another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from uuid import uuid4

import pytest

pytest.importorskip("redis")
pytest.importorskip("numpy")

from axolotl_cache import SmartInferenceCache
from axolotl_cache.namespace import Namespace
from axolotl_cache.pipeline.semantic import SemanticMatching, open_semantic
from axolotl_cache.request import Message, Request, Sampling
from axolotl_cache.response import owner_tags
from axolotl_cache.stores.redis.tier import SharedTier

FIRST = "How do I delete my account?"
AGAIN = "hi, how do i delete my account please"
NAMESPACES = {name: Namespace("w", "", "t", "c", "bf16", tenant=name) for name in ("shop", "bank")}


def soon(condition: Callable[[], object], seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "not in time"
        time.sleep(0.01)
    return time.monotonic() - started


@dataclass
class Machine:
    """One machine: its cache, and its semantic tier."""

    cache: SmartInferenceCache
    semantic: SemanticMatching

    def find(self, text: str, tenant: str = "shop", principal: str = ""):
        request = ask(text, principal)
        question = SimpleNamespace(key=f"{tenant} {principal} {text}", not_served=None)
        return self.semantic.find(request, question, NAMESPACES[tenant], ())

    def answer(self, text: str, tenant: str = "shop", principal: str = "") -> str:
        """Answer as a model would, and store it."""
        found, key = self.find(text, tenant, principal), f"{tenant} {principal} {text}"
        make, tags = self.semantic.to_store(found)
        value = {"text": f"to {text}", "asked": make()}
        self.cache.set(key, value, tags=(*tags, *owner_tags(user=principal)))
        assert self.cache.shared.flush(10)
        self.semantic.computed(found, key, value["text"], is_stored=True)
        return key

    def served(self, text: str, tenant: str = "shop", principal: str = "") -> str | None:
        """Return the key of the stored answer that `text` gets."""
        hit = self.find(text, tenant, principal).hit
        return None if hit is None else hit.match.key


def ask(text: str, principal: str) -> Request:
    return Request(
        messages=(Message("system", "You help."), Message("user", text)),
        sampling=Sampling(max_new_tokens=2),
        principal=principal,
    )


@pytest.fixture
def machine(valkey, bag_of_words, tmp_path, monkeypatch) -> Iterator[Callable[..., Machine]]:
    monkeypatch.setattr("axolotl_cache.pipeline.semantic._SECONDS_BETWEEN_LISTS", 0.0)
    made: list[Machine] = []
    namespace = uuid4().hex

    def make(key: bytes | None = None) -> Machine:
        cache = SmartInferenceCache(
            100,
            1800,
            tmp_path / str(len(made)),
            namespace=namespace,
            encryption_key=key,
            shared=SharedTier(valkey.url, lookup_seconds=2),
        )
        assert cache.shared.news.wait_until_listening(10)
        semantic = open_semantic(
            cache, embedder=bag_of_words, max_error_rate=0.3, check_share=0.0, rng=random.Random(1)
        )
        made.append(Machine(cache, semantic))
        return made[-1]

    yield make
    for each in made:
        each.semantic.close()
        each.cache.close()


@pytest.mark.parametrize("key", [None, bytes(32)])
def test_what_one_machine_was_asked_another_finds_in_other_words(machine, key):
    if key is not None:
        pytest.importorskip("cryptography")
    one, two = machine(key), machine(key)
    assert two.served(AGAIN) is None
    stored = one.answer(FIRST)
    soon(lambda: two.served(AGAIN) == stored)
    later = machine(key)  # starts when all is there: everything is read at its first question
    assert later.served(AGAIN) == stored


def test_tenants_and_principals_find_their_own_only(machine):
    one, two = machine(), machine()
    shop = one.answer(FIRST)
    ann = one.answer(FIRST, principal="ann")
    soon(lambda: two.served(AGAIN) == shop)
    assert two.served(AGAIN, tenant="bank") is None
    assert two.served(AGAIN, principal="bob") is None
    assert one.cache.peek(ann) is not None


def test_what_is_removed_anywhere_is_found_nowhere(machine):
    one, two, three = machine(), machine(), machine()
    stored = one.answer(FIRST)
    for each in (two, three):
        soon(lambda each=each: each.served(AGAIN) == stored)
    two.cache.invalidate(key=stored)
    for each in (one, three):
        soon(lambda each=each: each.served(AGAIN) is None)


def test_what_is_erased_anywhere_leaves_no_text_in_any_machines_index(machine):
    one, two = machine(), machine()
    ann, bob = one.answer(FIRST, principal="ann"), one.answer(FIRST, principal="bob")
    soon(lambda: two.served(AGAIN, principal="ann") == ann)
    assert two.semantic.tier.stats().questions >= 1
    one.cache.erase(user="ann")
    soon(lambda: two.served(AGAIN, principal="ann") is None)
    held = {key for names in two.semantic.tier._partitions.values() for key in names.numbers}
    assert ann not in held
    soon(lambda: two.served(AGAIN, principal="bob") == bob)


def test_servers_that_fail_leave_what_this_machine_has(servers, bag_of_words, monkeypatch):
    monkeypatch.setattr("axolotl_cache.pipeline.semantic._SECONDS_BETWEEN_LISTS", 0.0)
    with servers.deployment("single") as deployment:
        cache = SmartInferenceCache(100, namespace="n", shared=SharedTier(deployment.url))
        semantic = open_semantic(
            cache, embedder=bag_of_words, max_error_rate=0.3, check_share=0.0, rng=random.Random(1)
        )
        one = Machine(cache, semantic)
        stored = one.answer(FIRST)
        deployment.nodes[0].kill()
        assert one.served(AGAIN) == stored
        semantic.close()
        cache.close()
