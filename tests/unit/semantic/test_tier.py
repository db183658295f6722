"""The tier: partitions, guards, shadow, reported answers and the alarm; with a made-up embedder."""

import random
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pytest

from axolotl_cache.response.semantic.calibration import shipped
from axolotl_cache.response.semantic.embedders import Vectors, unit
from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.tier import SemanticTier, partition_of


class Bag:
    """Each word is a direction: texts with many words in common are near."""

    name = "bag"
    dimensions = 64

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[blake2b(word.encode(), digest_size=1).digest()[0] % self.dimensions] += 1
        return unit(rows)


def _tier(**settings: object) -> SemanticTier:
    model = shipped("use-multilingual-3")
    contexts = shipped("use-multilingual-3", of_contexts=True)
    return SemanticTier(Bag(), calibration=model, contexts=contexts, rng=random.Random(1), **settings)


def _ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


HERE = partition_of(namespace="n", principal="p")


def test_a_question_in_other_words_is_served() -> None:
    tier = _tier()
    tier.store(HERE, "k1", _ask("How do I delete my account?"))
    found = tier.lookup(HERE, _ask("hi, how do i delete my account please"))
    assert found.key == found.candidate == "k1"
    assert found.probability > 0.75
    assert tier.lookup(HERE, _ask("what is the capital of Peru")).key is None


def test_a_guard_forbids_and_says_why() -> None:
    tier = _tier()
    tier.store(HERE, "k1", _ask("Where is my order 48213?"))
    found = tier.lookup(HERE, _ask("Where is my order 48231?"))
    assert found.candidate is None
    assert [veto.guard for veto in found.vetoes] == ["numbers"]


def test_partitions_never_see_one_another() -> None:
    tier = _tier()
    tier.store(partition_of(tenant="a"), "k1", _ask("How do I delete my account?"))
    assert tier.lookup(partition_of(tenant="b"), _ask("How do I delete my account?")).candidate is None
    assert partition_of(a="1", b="2") == partition_of(b="2", a="1")
    assert partition_of(a="1", b="2") != partition_of(a="12", b="")


def test_shadow_serves_nothing_and_computes_the_same() -> None:
    on, shadow = _tier(), _tier(mode="shadow")
    for tier in (on, shadow):
        tier.store(HERE, "k1", _ask("How do I delete my account?"))
    served, seen = (tier.lookup(HERE, _ask("How do I erase my account?")) for tier in (on, shadow))
    assert served.key == "k1"
    assert seen.key is None
    assert (seen.would_serve, seen.probability) == (served.would_serve, served.probability)
    shadow.mode = "off"
    assert shadow.lookup(HERE, _ask("How do I delete my account?")).candidate is None


def test_a_wrong_answer_is_served_no_more_until_it_was_right_three_times() -> None:
    tier = _tier(max_error_rate=0.5)
    tier.store(HERE, "k1", _ask("How do I delete my account?"))
    question = _ask("How do I erase my account?")
    tier.observe(tier.lookup(HERE, question), right=False)
    for _ in range(3):
        found = tier.lookup(HERE, question)
        assert found.key is None
        assert found.candidate == "k1"
        tier.observe(found, right=True)
    assert tier.lookup(HERE, question).key == "k1"


def test_the_alarm_stops_its_partition_and_no_other() -> None:
    tier, there = _tier(max_error_rate=0.01), partition_of(namespace="other")
    for number in range(12):
        for partition in (HERE, there):
            tier.store(partition, f"{partition}-{number}", _ask(f"How do I delete folder {number + 2}?"))
    for number in range(12):
        tier.observe(tier.lookup(HERE, _ask(f"How do I erase folder {number + 2}?")), right=False)
    assert tier.verdict(HERE).alarm
    tier.store(HERE, "new", _ask("What is the capital of Peru?"))
    tier.store(there, "new", _ask("What is the capital of Peru?"))
    assert tier.lookup(HERE, _ask("what is the capital of peru")).key is None
    assert tier.lookup(there, _ask("what is the capital of peru")).key == "new"


def test_what_is_forgotten_is_not_found() -> None:
    tier = _tier()
    tier.store(HERE, "k1", _ask("How do I delete my account?"))
    tier.store(HERE, "k1", _ask("How do I delete my account?"))
    assert facts_of.cache_info().currsize
    tier.forget("k1")
    tier.forget("k1")
    assert not facts_of.cache_info().currsize
    assert tier.lookup(HERE, _ask("How do I delete my account?")).candidate is None


def test_the_share_of_checked_hits_is_the_one_asked_for() -> None:
    tier = _tier(check_share=0.3)
    tier.store(HERE, "k1", _ask("How do I delete my account?"))
    checked = sum(tier.lookup(HERE, _ask("How do I delete my account?")).check for _ in range(300))
    assert 60 < checked < 120


@pytest.mark.parametrize("last", ["yes, cancel it", "and the second one?"])
def test_yes_in_another_conversation_is_another_thing(last: str) -> None:
    tier = _tier()
    talk = [
        {"role": "user", "content": "My gym is Fit Club."},
        {"role": "assistant", "content": "Cancel Fit Club for 30 euros?"},
    ]
    tier.store(HERE, "k1", [*talk, *_ask(last)])
    other = [
        {"role": "user", "content": "I watch Netflix."},
        {"role": "assistant", "content": "Cancel Netflix for 9 dollars?"},
    ]
    assert tier.lookup(HERE, [*other, *_ask(last)]).key is None
    assert (
        tier.lookup(HERE, [*talk, *_ask(last)]).probability
        > tier.lookup(HERE, [*other, *_ask(last)]).probability
    )
