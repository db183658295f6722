"""The tier: partitions, guards, shadow, reported answers and the alarm; with a made-up embedder."""

import random

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.response.semantic.asked import Asked
from axolotl_cache.response.semantic.check_log import CheckLog
from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.tier import SemanticTier, partition_of

HERE = partition_of(namespace="n", principal="p")


@pytest.fixture
def make(bag_of_words):
    def make(**settings):
        # A bound that the threshold of 0.75 keeps by itself: these tests are about what happens at it.
        options = {"max_error_rate": 0.3} | settings
        return SemanticTier(bag_of_words, rng=random.Random(1), **options)

    return make


def ask(tier, *texts, partition=HERE):
    """A conversation of user and assistant in turns, which ends with the user."""
    roles = ["user", "assistant"]
    return tier.asked(partition, [{"role": roles[n % 2], "content": t} for n, t in enumerate(texts)])


def test_a_question_in_other_words_is_found(make):
    tier = make()
    tier.store("k1", ask(tier, "How do I delete my account?"))
    found = tier.lookup(ask(tier, "hi, how do i delete my account please"))
    assert (found.candidate, found.would_serve, found.why) == ("k1", True, "")
    assert found.question == "How do I delete my account?"
    assert found.probability > 0.75
    far = tier.lookup(ask(tier, "what is the capital of Peru"))
    assert not far.would_serve
    assert "is needed" in far.why


def test_a_guard_forbids_and_says_why(make):
    tier = make()
    tier.store("k1", ask(tier, "Where is my order 48213?"))
    found = tier.lookup(ask(tier, "Where is my order 48231?"))
    assert found.candidate is None
    assert [(veto.guard, question) for veto, question in found.vetoes] == [
        ("numbers", "Where is my order 48213?")
    ]
    assert "the guard for numbers: 48231 / 48213 forbids" in found.why
    assert tier.stats().vetoes == {"numbers": 1}


def test_partitions_never_see_one_another(make):
    tier = make()
    a, b = partition_of(tenant="a"), partition_of(tenant="b")
    tier.store("k1", ask(tier, "How do I delete my account?", partition=a))
    assert tier.lookup(ask(tier, "How do I delete my account?", partition=b)).candidate is None
    assert tier.lookup(ask(tier, "How do I delete my account?", partition=a)).candidate == "k1"
    assert partition_of(a="1", b="2") == partition_of(b="2", a="1")
    assert partition_of(a="1", b="2") != partition_of(a="12", b="")


def test_the_bound_on_wrong_hits_raises_the_threshold(make):
    assert make(max_error_rate=0.3).threshold == 0.75
    strict = make(max_error_rate=0.01)
    assert strict.threshold > 0.75
    assert not strict.operating.certified
    assert make(max_error_rate=0.01, threshold=0.999).threshold == 0.999


def test_a_wrong_answer_is_served_no_more_until_it_was_right_three_times(make):
    tier = make(max_error_rate=0.5)
    tier.store("k1", ask(tier, "How do I delete my account?"))
    question = ask(tier, "How do I erase my account?")
    before = tier.lookup(question).probability
    tier.observe(tier.lookup(question), right=False)
    assert tier.lookup(question).probability < before
    for _ in range(3):
        found = tier.lookup(question)
        assert not found.would_serve
        assert found.candidate == "k1"
        assert "wrong before" in found.why
        tier.observe(found, right=True)
    assert "wrong before" not in tier.lookup(question).why
    other = make(max_error_rate=0.5)  # control: nothing was said of it here
    other.store("k1", ask(other, "How do I delete my account?"))
    assert other.lookup(ask(other, "How do I erase my account?")).would_serve


def test_the_alarm_stops_its_partition_and_no_other(make):
    tier, there = make(max_error_rate=0.2), partition_of(namespace="other")
    for number in range(12):
        for partition in (HERE, there):
            text = f"How do I delete my account number {number + 2}?"
            tier.store(f"{partition}-{number}", ask(tier, text, partition=partition))
    for number in range(12):
        question = ask(tier, f"how do i delete my account number {number + 2}")
        found = tier.lookup(question, candidates=20)
        tier.observe(found, right=False)
    assert tier.verdict(HERE).alarm
    assert tier.stats().alarms == 1
    for partition, served in ((HERE, False), (there, True)):
        tier.store(f"new {partition}", ask(tier, "What is the capital of Peru?", partition=partition))
        found = tier.lookup(ask(tier, "what is the capital of peru", partition=partition))
        assert found.would_serve is served
        assert ("nothing more is served" in found.why) is not served


def test_what_is_forgotten_is_not_found(make):
    tier = make()
    tier.store("k1", ask(tier, "How do I delete my account?"))
    tier.store("k1", ask(tier, "How do I delete my account?"))
    tier.lookup(ask(tier, "How do I delete my account?"))
    assert facts_of.cache_info().currsize
    tier.forget(["k1", "another"])
    tier.forget(["k1"])
    assert not facts_of.cache_info().currsize
    assert tier.lookup(ask(tier, "How do I delete my account?")).candidate is None
    assert (tier.stats().questions, tier.stats().partitions) == (0, 0)


def test_the_share_of_checked_hits_is_the_one_asked_for(make):
    tier = make(check_share=0.3)
    tier.store("k1", ask(tier, "How do I delete my account?"))
    checked = sum(tier.lookup(ask(tier, "How do I delete my account?")).check for _ in range(300))
    assert 60 < checked < 120


@pytest.mark.parametrize("last", ["yes, cancel it", "and the second one?"])
def test_yes_in_another_conversation_is_another_thing(make, last):
    tier = make()
    talk = ["My gym is Fit Club.", "Cancel Fit Club for 30 euros?"]
    tier.store("k1", ask(tier, *talk, last))
    other = ["I watch Netflix.", "Cancel Netflix for 9 dollars?"]
    assert not tier.lookup(ask(tier, *other, last)).would_serve
    same, different = (tier.lookup(ask(tier, *before, last)).probability for before in (talk, other))
    assert same > different


def test_a_lookup_embeds_one_text_unless_histories_are_told_in_other_words(make, monkeypatch, bag_of_words):
    embedded = []
    embed = bag_of_words.embed
    monkeypatch.setattr(
        type(bag_of_words), "embed", lambda self, texts: embedded.extend(texts) or embed(texts), raising=True
    )
    tier = make()
    tier.store("k1", ask(tier, "I fly to Oslo.", "Book it?", "yes please, do it"))
    assert len(embedded) == 3
    for texts, count in (
        (("How do I delete my account?",), 1),
        (("I fly to Oslo.", "Book it?", "yes please, do it"), 1),
        (("My flight goes to Oslo", "Shall I reserve it?", "yes please, do it"), 3),
    ):
        embedded.clear()
        tier.lookup(ask(tier, *texts))
        assert len(embedded) == count, texts


def test_a_question_comes_back_from_what_is_stored_of_it(make, bag_of_words):
    tier = make()
    asked = ask(tier, "I fly to Oslo.", "Book it?", "yes please, do it")
    value = asked.to_value()
    again = Asked.from_value(value, HERE, bag_of_words)
    assert again.messages == asked.messages
    assert (again.vector == asked.vector).all()
    assert (again.history == asked.history).all()
    for change in ({"format": 2}, {"partition": "another"}, {"embedder": "another"}):
        assert Asked.from_value(value | change, HERE, bag_of_words) is None
    assert Asked.from_value(None, HERE, bag_of_words) is None


# What checks found, on disk


def log(folder, clock=None, secret=b""):
    return CheckLog(folder / "checks", secret, clock or ManualClock())


def wrong_once(tier):
    tier.store("the-key", ask(tier, "How do I delete my account?"))
    tier.observe(tier.lookup(ask(tier, "How do I delete my account please?")), right=False)


def test_checks_outlive_a_restart_and_hold_for_other_processes(make, tmp_path):
    first, other = make(log=log(tmp_path)), make(log=log(tmp_path))
    other.store("the-key", ask(other, "How do I delete my account?"))
    assert other.lookup(ask(other, "How do I delete my account please?")).would_serve
    wrong_once(first)
    assert first.stats().checked == first.stats().checked_wrong == 1
    later = make(log=log(tmp_path))
    later.store("the-key", ask(later, "How do I delete my account?"))
    for tier in (other, later):
        assert "wrong before" in tier.lookup(ask(tier, "How do I delete my account please?")).why
        assert (tier.stats().checked, tier.stats().checked_wrong) == (1, 1)
    content = (tmp_path / "checks").read_bytes()
    assert b"the-key" not in content
    assert b"account" not in content
    assert HERE.encode() not in content
    assert (tmp_path / "checks").stat().st_mode & 0o777 == 0o600


def test_checks_older_than_a_month_begin_anew(make, tmp_path):
    clock = ManualClock()
    wrong_once(make(log=log(tmp_path, clock)))
    clock.advance(29 * 86_400)
    assert len(log(tmp_path, clock).new()[1]) == 1
    clock.advance(3 * 86_400)
    assert log(tmp_path, clock).new() == (True, [])


def test_a_line_that_was_cut_off_costs_no_other(make, tmp_path):
    wrong_once(make(log=log(tmp_path)))
    whole = (tmp_path / "checks").read_bytes()
    (tmp_path / "checks").write_bytes(whole[:40] + whole + b"rubbish\n" + whole + whole[:30])
    assert len(log(tmp_path).new()[1]) == 2


def test_after_an_erasure_nothing_says_which_entries_were_checked(make, tmp_path):
    clock = ManualClock()
    tier, other = make(log=log(tmp_path, clock)), make(log=log(tmp_path, clock))
    wrong_once(tier)
    other.lookup(ask(other, "anything at all"))
    key = tier._log.digest("the-key").encode()
    assert key in (tmp_path / "checks").read_bytes()
    tier.forget_items()
    assert key not in (tmp_path / "checks").read_bytes()
    for each in (tier, other):
        each.lookup(ask(each, "anything at all"))
        assert each.stats().checked_wrong == 1  # of the partition, which is nobody's entry


def test_the_digests_are_of_use_with_the_secret_only(tmp_path):
    assert log(tmp_path).digest("k1") != log(tmp_path, secret=b"s" * 32).digest("k1")
