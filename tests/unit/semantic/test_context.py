"""Conversations: what stands alone, what was said before, what was changed."""

import pytest

from axolotl_cache.response.semantic.context import (
    CONTEXT_FEATURES,
    check_context,
    context_features,
    context_of,
    stands_alone,
)
from axolotl_cache.response.semantic.facts.extract import extract

Turns = list[dict[str, str]]


def _chat(*turns: str) -> Turns:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]


GYM = _chat(
    "I have a gym membership with Fit Club since March.", "Shall I cancel it for 30 euros?", "yes, cancel it"
)


def _features(left: Turns, right: Turns) -> dict[str, float]:
    values = context_features(context_of(left), context_of(right), 0.5, 0.5)
    back = context_features(context_of(right), context_of(left), 0.5, 0.5)
    assert values.tolist() == back.tolist()
    return dict(zip(CONTEXT_FEATURES, values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("What is the capital city of Peru in South America?", True),
        ("How do I reset my bank password?", True),
        ("yes, cancel it", False),
        ("what about the second option?", False),
        ("and how much does delivery of parcels cost?", False),
        ("the fee?", False),
        ("如何重置银行卡密码", True),
        ("好的，继续", False),
        ("那第二个呢", False),
    ],
)
def test_what_stands_alone(text: str, alone: bool) -> None:
    assert stands_alone(extract(text)) is alone


def test_history_does_not_matter_to_a_message_that_stands_alone() -> None:
    other = _chat("Tell me about whales.", "They are large mammals.", "How do I reset my bank password?")
    mine = [*GYM[:-1], {"role": "user", "content": "How do I reset my bank password?"}]
    assert _features(mine, other)["standalone"] == 1


def test_the_same_conversation_with_chatter_is_clean() -> None:
    longer = _chat(GYM[0]["content"] + " Lovely weather by the way!", GYM[1]["content"], "yes, cancel it")
    found = _features(GYM, longer)
    assert found["same_and_clean"] == 1
    assert found["same_and_changed"] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Fit Club", "Body World"),
        ("since March", "since April"),
        ("30 euros", "50 euros"),
        ("cancel it for", "renew it for"),
    ],
)
def test_one_changed_detail_is_seen(old: str, new: str) -> None:
    swapped = [{**turn, "content": turn["content"].replace(old, new)} for turn in GYM[:-1]] + [GYM[-1]]
    assert swapped != GYM
    found = _features(GYM, swapped)
    assert found["same_and_clean"] == 0


def test_to_agree_to_another_proposal_is_forbidden() -> None:
    other = _chat(GYM[0]["content"], "Would you like a fresh towel?", "yes please")
    mine = [*GYM[:-1], {"role": "user", "content": "yes please"}]
    forbidden = check_context(context_of(mine), context_of(other))
    assert forbidden is not None
    assert forbidden.guard == "context"
    assert "towel" in forbidden.b
    assert check_context(context_of(mine), context_of(mine)) is None
    assert _features(mine, other)["same_and_agrees_to_other"] == 1


def test_a_longer_version_with_chatter_in_between_is_the_same_conversation() -> None:
    longer = _chat(
        GYM[0]["content"] + " Do you know whether the sauna is open again?",
        "It is. Good luck with the heat! " + GYM[1]["content"],
        "yes, cancel it",
    )
    found = _features(GYM, longer)
    assert found["same_and_clean"] == 1
    replaced = _chat(GYM[0]["content"], "I moved your card to another branch. " + GYM[1]["content"], "Where?")
    moved = _chat(GYM[0]["content"], "The pool opens later in winter. " + GYM[1]["content"], "Where?")
    assert _features(replaced, moved)["same_and_clean"] == 0
    assert _features(replaced, moved)["same_and_replaced"] > 0


def test_a_message_that_points_by_place_needs_the_same_order() -> None:
    one, other = (
        _chat("Which trains are there?", f"The options are {a} and {b} on Monday morning.", "the first one")
        for a, b in (
            ("the early fast train", "the late slow train"),
            ("the late slow train", "the early fast train"),
        )
    )
    assert _features(one, other)["same_and_changed"] == 1
    assert _features(one, one)["same_and_changed"] == 0


def test_facts_that_both_tell_in_other_words_speak_for_the_same_matter() -> None:
    mine = _chat(
        "My Faro flight on 3 May costs 90 euros.", "What can I do?", "do I need to pay for the seat?"
    )
    same = _chat("Booked to Faro, 3 May, paid 90 euros so far.", "Yes?", "do I need to pay for the seat?")
    other = _chat("I read about Oslo, 2 June, 40 euros.", "Yes?", "do I need to pay for the seat?")
    assert _features(mine, same)["reworded_typed_shared"] == 1
    assert _features(mine, other)["reworded_typed_shared"] == 0
    assert _features(mine, other)["reworded_typed_differs"] > 0


def test_the_last_messages_must_pass_the_guards() -> None:
    a = context_of([*GYM[:-1], {"role": "user", "content": "book it for 2 people"}])
    b = context_of([*GYM[:-1], {"role": "user", "content": "book it for 3 people"}])
    found = check_context(a, b)
    assert found is not None
    assert found.guard == "numbers"


def test_a_message_that_leans_on_a_history_is_not_served_without_one() -> None:
    bare = context_of([{"role": "user", "content": "yes, cancel it"}])
    assert check_context(context_of(GYM), context_of(GYM)) is None
    assert check_context(context_of(GYM), bare) is not None


def test_a_conversation_ends_with_the_user() -> None:
    with pytest.raises(ValueError, match="user's message"):
        context_of(GYM[:-1])
