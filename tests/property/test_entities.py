"""Whatever stands in a text: extraction does not fail, places are right, and a canonical form is its own."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.entities import BUILT_IN, Entity, Extractor, Tracker, extract
from axolotl_cache.entities.found import fold

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data"
SENTENCES = [
    json.loads(line)["text"] for line in (DATA / "entities-develop.jsonl").read_text("utf-8").splitlines()
]
SEEDS = [
    *(
        "1",
        "a",
        "a.",
        "1.",
        "1,",
        "1-",
        "#1",
        "a@",
        "a.a@",
        "www.",
        "http://a(",
        ")",
        "1 ",
        "1Z",
        "AB12",
        "a_b_1",
    ),
    *(
        "order ",
        "order number ",
        "order 1234 and ",
        "订单",
        "订单1",
        "一",
        "十万",
        "五月",
        "5月",
        "$1",
        "1元",
        "card ",
    ),
    *(
        "尾号",
        "may 1",
        "1 may ",
        "2024-",
        "+1",
        "(1",
        "call me at ",
        "last four of my x y z ",
        "SKU-",
        "DE89 3704 ",
    ),
    *(
        "it ",
        "both of them ",
        "the first one ",
        "第一个",
        "那个订单",
        "reservation ABCDEF and ",
        "flight HAT123, ",
        "İ",
    ),
]
PIECES = st.sampled_from(
    [
        *(
            "order ",
            "#",
            "number ",
            "订单",
            "号：",
            "card ",
            "ending in ",
            "尾号",
            "$",
            "元",
            "May ",
            "月",
            "日",
        ),
        *(
            "HAT",
            "+1 ",
            "(415) ",
            "reservation ",
            "www.",
            "@example.com",
            "/",
            "-",
            ".",
            ",",
            " ",
            "，",
            "it ",
        ),
        *("67890", "20", "2024", "4111 1111 1111 1111", "1Z999AA10123456784", "4OG6T3", "İ", "ß", "１２３"),
        *("flight ", "那个", "第二个", "二十", "and "),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join), st.sampled_from(SENTENCES)
)
CODES = {"order", "tracking", "reservation", "flight", "user"}


@given(TEXTS)
def test_places_are_right(text):
    end = 0
    for entity in extract(text):
        assert end <= entity.start < entity.end <= len(text)
        end = entity.end
        assert entity.kind in BUILT_IN
        assert entity.value
        said = fold(text[entity.start : entity.end]).low
        if entity.kind in CODES:
            assert said.replace(" ", "").replace("-", "").endswith(entity.value.lower().replace("-", ""))
        if entity.kind == "email":
            assert said == entity.value


@given(TEXTS, st.sampled_from([None, b"a key of the tests"]))
def test_a_canonical_form_is_its_own(text, key):
    extractor = Extractor(card_key=key)
    for entity in extractor.extract(text):
        assert extractor.extract(entity.canonical) == (entity,)


@given(TEXTS)
def test_width_does_not_matter(text):
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    assert [entity.canonical for entity in extract(wide)] == [entity.canonical for entity in extract(text)]


@given(st.lists(TEXTS, max_size=8), st.integers(1, 5))
def test_a_tracker_against_a_naive_one(texts, most):
    """Recency as a list of everything ever said, and the bound as its last few."""
    tracker = Tracker(max_entities=most)
    said: list[Entity] = []
    for text in texts:
        before = tracker.to_json()
        resolution = tracker.resolve(text)
        assert tracker.to_json() == before, "to look changes nothing"
        assert tracker.turn(text) == resolution
        for reference in resolution.references:
            assert bool(reference.entities) != bool(reference.candidates)
        new = list(resolution.entities)
        said = [entity for entity in said if entity not in new]
        known = set(tracker.entities)
        assert len(known) <= most
        assert known <= {*said, *new}
        # What was said last stays, unless it alone is more than there is room for.
        assert len(known & set(new)) == min(len(new), most)
        assert {*known} >= {*said[max(0, len(said) - max(0, most - len(new))) :]} or len(said) + len(
            new
        ) > most
        said = [entity for entity in [*said, *new] if entity in known]
        again = Tracker.from_json(json.loads(json.dumps(tracker.to_json())), max_entities=most)
        assert again.to_json() == tracker.to_json()
        assert again.resolve("and it, the other one, 第二个订单") == tracker.resolve(
            "and it, the other one, 第二个订单"
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_text_takes_for_ever(seed):
    """With a way to match in more than linear time, some of these would not end."""
    text = (seed * 5000)[:5000]
    tracker = Tracker()
    tracker.note("order 12345 and order 23456, card ending in 4242")
    assert tracker.resolve(text) == tracker.resolve(text)
