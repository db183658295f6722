"""The parts of benchmarks/combined.py that run no model: the day, what was new, who brought how much."""

import math
import random
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def subsets(names):
    return [frozenset(each) for size in range(len(names) + 1) for each in combinations(names, size)]


def generation(cached, tokens):
    return SimpleNamespace(cached_tokens=cached, tokens=tokens)


def parts():
    from helpdesk import Parts
    from talks import Talk

    talks = [
        Talk(
            f"talk-{n}", "the airline's policy", (f"hello {n}", "and now?", "thanks"), ("yes", "soon", "bye")
        )
        for n in range(9)
    ]
    return Parts([f"question {n}?" for n in range(99)], talks, {}, "the bank's rules")


def one_day(requests=40, **mix):
    from helpdesk import Mix, day

    return day(parts(), Mix(requests, **mix), random.Random(1), lambda text: text.split(), " ".join)


def test_what_each_brings_alone_is_its_share_where_nothing_overlaps():
    from accounts import shares

    brings = {"prefix": 3.0, "response": 1.0, "session": 0.0}
    found = shares({side: 7 + sum(brings[name] for name in side) for side in subsets(tuple(brings))})
    assert found == pytest.approx({"prefix": 0.75, "response": 0.25, "session": 0.0})


def test_two_that_bring_the_same_share_it():
    from accounts import shares

    found = shares({side: float(bool(side & {"a", "b"})) for side in subsets("abc")})
    assert found == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})


@given(st.lists(st.floats(0.1, 100), min_size=8, max_size=8).filter(lambda v: abs(v[0] - v[-1]) > 0.1))
def test_the_shares_are_one_together(values):
    from accounts import shares

    found = shares(dict(zip(subsets("abc"), map(math.log, values), strict=True)))
    assert sum(found.values()) == pytest.approx(1)


def test_a_subset_that_was_not_measured_is_refused():
    from accounts import shares

    with pytest.raises(ValueError, match="all 8 subsets"):
        shares({frozenset(): 1.0, frozenset("abc"): 2.0})


def test_what_was_computed_before_is_not_new():
    from accounts import Computed, novelty

    first = ([1, 2, 3], generation(0, [9, 9]))
    assert novelty([first]) == Computed(3, 2, 3, 2)
    again = novelty([first, first])
    assert again == Computed(6, 4, 3, 2), "the same once more is nothing new"
    behind = ([1, 2, 3, 9, 9, 4], generation(3, [5]))
    assert novelty([first, behind]) == Computed(6, 3, 4, 3), "what was an answer is no new prompt"
    other = ([0, 2, 3], generation(0, []))
    assert novelty([first, other]) == Computed(6, 2, 6, 2), "the same tokens behind another one are new"


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.lists(st.integers(0, 2)))))
def test_what_is_new_agrees_with_a_naive_count(requests):
    from accounts import novelty

    seen, new = set(), 0
    for prompt, answer in requests:
        text = (*prompt, *answer)
        beginnings = {text[: n + 1] for n in range(len(text))}
        new += len(beginnings - seen)
        seen |= beginnings
    found = novelty((prompt, generation(0, answer)) for prompt, answer in requests)
    assert found.new_prefill + found.new_decode == new


def test_a_day_has_what_its_mix_says():
    asked = one_day(repeats=0.35)
    assert len(asked) == 40
    assert sum(each.is_repeat for each in asked) == 14
    assert sum(bool(each.session) for each in asked) == 13
    earlier = set()
    for each in asked:
        if not each.session:
            assert each.is_repeat == (each.said in earlier), "a repeat is word for word what was asked before"
            earlier.add(each.said)


def test_a_conversation_goes_on_where_it_was():
    talks = {}
    for each in one_day():
        if each.session:
            before = talks.get(each.session, ())
            assert each.said[: len(before)] == before
            assert len(each.said) == (len(before) + 2 if before else 1)
            talks[each.session] = each.said
    assert len(talks) > 1


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, ""), (2, "the bank's"), (5, "the bank's rules the bank's")]
)
def test_a_system_prompt_is_cut_or_repeated(tokens, expected):
    systems = {each.system for each in one_day(shared_tokens=tokens) if not each.session}
    assert systems == {expected}


def test_nothing_is_asked_again_on_a_day_without_repeats():
    asked = [each for each in one_day(repeats=0.0) if not each.session]
    assert len({each.said for each in asked}) == len(asked)


def test_more_turns_than_there_are_conversations_for_are_refused():
    with pytest.raises(ValueError, match="ask for fewer requests"):
        one_day(requests=80, repeats=0.0)
