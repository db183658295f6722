"""Whose an entry is: reserved tags, written by code alone, and invalidation by them."""

import asyncio

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import owner_tags
from axolotl_cache.response.owners import KINDS

OWNERS = {
    "tenant": {"tenant": "x"},
    "user": {"user": "x"},
    "session": {"session": "x"},
    "entity": {"entities": ["x"]},
    "model": {"models": ["x"]},
    "version": {"version": "x"},
}


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path if request.param == "disk" else None) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_entries_go_with_their_owner_and_with_no_other(cache, kind):
    for other, owner in OWNERS.items():
        cache.set(other, 1, tags=owner_tags(**owner))
    cache.set(
        "elsewhere", 1, tags=[*owner_tags(**{k: "y" if v == "x" else ["y"] for k, v in OWNERS[kind].items()})]
    )
    cache.set("tagged", 1, tags=["x"])
    assert cache.invalidate(**{kind: "x"}) == 1
    assert kind not in cache
    assert {*cache} == {*OWNERS, "elsewhere", "tagged"} - {kind}
    assert cache.why_missing(kind).startswith("invalidated")


def test_a_key_and_an_age_narrow_an_owner(cache):
    for key in "ab":
        cache.set(key, 1, tags=owner_tags(session="s", entities=["order 1", "order 2"]))
    assert cache.invalidate("a", entity="order 2") == 1
    assert cache.invalidate(session="s", older_than_seconds=99) == 0
    assert cache.invalidate(session="s") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_users_can_not_write_such_tags(cache, kind):
    tag = f"{kind}:x"
    with pytest.raises(ValueError, match=f"begins with '{kind}:'"):
        cache.set("k", 1, tags=[tag])
    with pytest.raises(ValueError, match=rf"invalidate\({kind}='x'\)"):
        cache.invalidate(tag=tag)
    with pytest.raises(ValueError, match="begins with"):
        cache.get_or_compute("k", lambda: 1, tags=[tag])
    with pytest.raises(ValueError, match="begins with"):
        cache.cached(tags=[tag])
    assert len(cache) == 0
    cache.set("k", 1, tags=[kind, f"{kind}s:x", f" {tag}"])  # like it, and none
    assert cache.invalidate(**{kind: "x"}) == 0


def test_all_ways_to_store_take_them(cache):
    tags = [*owner_tags(session="s"), "prices"]
    cache.get_or_compute("a", lambda: 1, tags=tags)

    async def compute():
        return 1

    asyncio.run(cache.aget_or_compute("b", compute, tags=tags))

    @cache.cached(tags=iter(tags))
    def function(x):
        return x

    function(1)
    function(2)
    assert {entry.tags for entry in map(cache.lookup, cache)} == {("session:s", "prices")}
    assert all(type(tag) is str for key in cache for tag in cache.lookup(key).tags)
    assert cache.invalidate(session="s") == 4


def test_one_owner_at_a_time_and_at_least_something(cache):
    with pytest.raises(TypeError, match="one tag or owner at a time"):
        cache.invalidate(session="s", tag="t")
    with pytest.raises(TypeError, match="one tag or owner at a time"):
        cache.invalidate(session="s", tenant="t")
    with pytest.raises(TypeError, match="invalidate what"):
        cache.invalidate()
    with pytest.raises(ValueError, match="empty name"):
        cache.invalidate(session="")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"session": 5}, TypeError), ({"entities": "order 1"}, TypeError), ({"entities": [""]}, ValueError)],
)
def test_names_are_texts(wrong, error):
    with pytest.raises(error):
        owner_tags(**wrong)
    assert owner_tags() == ()
