"""What "it" is: by kind and recency, and unsure where nobody could tell."""

import json

import pytest

from axolotl_cache.entities import Entity, Extractor, OwnKind, Tracker


def tracker(*texts: str) -> Tracker:
    made = Tracker()
    for text in texts:
        made.note(text)
    return made


def spoken_of(made: Tracker, text: str) -> list[str]:
    resolution = made.turn(text)
    assert not resolution.unsure, resolution
    return [entity.canonical for entity in resolution.entities]


def candidates(made: Tracker, text: str) -> set[str]:
    resolution = made.turn(text)
    assert not resolution.entities
    return {entity.canonical for entity in resolution.candidates}


@pytest.mark.parametrize(
    "text",
    [
        "And when will it arrive?",
        "What about that order?",
        "Is the package here?",
        "Its address is wrong.",
        "What is the delivery status?",
        "67890?",
        "它什么时候到？",
        "那个订单呢？",
        "这单退了吧",
        "包裹在哪？",
        "什么时候能到？",
    ],
)
def test_a_follow_up(text):
    assert spoken_of(tracker("Where is order #67890?", "It has left."), text) == ["order 67890"]


@pytest.mark.parametrize(
    "text",
    [
        "Thanks!",
        "It would be nice.",
        "Is it possible?",
        "I appreciate it.",
        "What's the date?",
        "谢谢",
        "你们几点开门？",
    ],
)
def test_nothing_is_referred_to(text):
    assert tracker("order 67890").turn(text).entities == ()


def test_nothing_is_known():
    assert Tracker().turn("When will it arrive? And the other one?").references == ()


def test_a_noun_chooses_its_kind():
    made = tracker("Order 7001 is broken, and my card ending in 8812 was charged")
    assert spoken_of(made, "Block the card") == ["card 8812"]
    assert spoken_of(made, "Replace that order") == ["order 7001"]
    assert spoken_of(made, "冻结那张卡") == ["card 8812"]
    assert made.turn("my reservation?").references == ()


def test_a_verb_chooses_its_kind():
    made = tracker("SKU-88120 from order 7001, paid from account 5500123")
    assert spoken_of(made, "Unlock it") == ["account 5500123"]


def test_the_last_one_spoken_of_is_it():
    made = tracker("order 1001")
    made.note("order 1002")
    assert spoken_of(made, "Cancel it") == ["order 1002"]
    assert spoken_of(made, "And the first order?") == ["order 1001"]
    assert spoken_of(made, "Cancel it") == ["order 1001"], "who is referred to is spoken of last"


@pytest.mark.parametrize(("text"), ["Cancel it", "Cancel that order", "取消它", "那个订单", "另一个呢"])
def test_two_at_once_are_unsure(text):
    assert candidates(tracker("orders 51120 and 51121"), text) == {"order 51120", "order 51121"}


def test_unsure_changes_nothing():
    made = tracker("orders 51120 and 51121")
    made.turn("Cancel it")
    assert spoken_of(made, "the second one") == ["order 51121"]
    assert spoken_of(made, "and the other one") == ["order 51120"]


def test_places_in_a_list():
    made = tracker("orders 901221, 901222 and 901223")
    assert spoken_of(made, "the third one") == ["order 901223"]
    assert spoken_of(made, "第一个") == ["order 901221"]
    assert spoken_of(made, "and the previous one") == ["order 901223"]
    assert spoken_of(made, "the last order") == ["order 901223"]
    assert candidates(made, "the fifth one") == {"order 901221", "order 901222", "order 901223"}
    assert candidates(made, "both orders") == {"order 901221", "order 901222", "order 901223"}
    assert candidates(made, "the other one") == {"order 901221", "order 901222"}


def test_several():
    made = tracker("orders 8811 and 8822")
    assert spoken_of(made, "Refund them") == ["order 8811", "order 8822"]
    assert spoken_of(made, "两个订单都退") == ["order 8811", "order 8822"]
    assert spoken_of(made, "the latter") == ["order 8822"]
    assert spoken_of(made, "前者") == ["order 8811"]


def test_within_one_text():
    assert spoken_of(Tracker(), "Order 1001 is late. Can you cancel it?") == ["order 1001"]


def test_a_person_is_not_it():
    assert tracker("user noah_brown_6181").turn("Cancel it").references == ()


def test_an_own_kind_is_a_noun():
    made = Tracker(Extractor([OwnKind("support_ticket", r"TCK-\d+")]))
    made.note("TCK-1 and order 1001")
    assert spoken_of(made, "close that support ticket") == ["support_ticket TCK-1"]


def test_a_flight_of_a_known_airline():
    made = tracker("flight HAT045 is late")
    assert spoken_of(made, "I'd take HAT136") == ["flight HAT136"]


def test_kinds_and_recency():
    made = tracker("order 1001, card ending in 8812", "order 1002")
    assert [entity.canonical for entity in made.entities] == ["order 1002", "card 8812", "order 1001"]
    assert [entity.value for entity in made.of_kind("order")] == ["1002", "1001"]
    made.forget(Entity("order", "1002"))
    made.forget(Entity("order", "none"))
    assert [entity.value for entity in made.of_kind("order")] == ["1001"]


def test_the_bound_keeps_what_was_spoken_of_last():
    made = Tracker(max_entities=2)
    made.note("order 1001")
    made.note("order 1002")
    made.turn("the first order")
    made.note("order 1003")
    assert [entity.value for entity in made.entities] == ["1003", "1001"]
    with pytest.raises(ValueError, match="1 or more"):
        Tracker(max_entities=0)


def test_it_survives_a_restart():
    made = tracker("orders 51120 and 51121, card 4111 1111 1111 1111")
    made.turn("the second order")
    text = json.dumps(made.to_json())
    assert "4111" not in text
    again = Tracker.from_json(json.loads(text))
    assert again.to_json() == made.to_json()
    assert spoken_of(again, "and the other one?") == ["order 51120"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"turns": "x"},
        {"entities": [["order"]]},
        {"entities": 5},
        {"entities": [["order", "1", "a", 0, 0]]},
    ],
)
def test_a_foreign_state_is_refused(change):
    with pytest.raises(ValueError, match="entities"):
        Tracker.from_json(tracker("order 1001").to_json() | change)
