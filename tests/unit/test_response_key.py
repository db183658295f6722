from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache import SmartInferenceCache
from axolotl_cache.namespace import Namespace

NAMESPACE = Namespace(weights="w", adapter="", tokenizer="t", chat_template="c", dtype="float32")
MESSAGES = [{"role": "user", "content": "Héllo 键"}, {"role": "assistant", "content": None}]


def key(user_input, *, namespace=None, **context):
    return SmartInferenceCache(namespace=namespace).generate_key(user_input, **context)


def test_keys_are_pinned_so_that_a_later_version_finds_what_this_one_stored():
    # A change here is a change of format: raise KEY_VERSION, and say so in the changelog.
    assert key("What is my balance?") == "r1-8643f5ff432c0d57c46e2c092ef131f1a767d69462de814f03ea990f15a4183f"
    assert (
        key(MESSAGES, temperature=0.5)
        == "r1-10881a2698d861f72032c6b1f3f3ad7a1704c379302921ee0ca1b1347064bae1"
    )
    assert (
        key("What is my balance?", namespace="bank")
        == "r1-0865e8eef2c265ca7602b6a8b56acef2e0cd43aa1b98e69811c1a23925ec1aa9"
    )


def test_keys_do_not_depend_on_the_process():
    code = (
        "from axolotl_cache import SmartInferenceCache as C;"
        "print(C().generate_key({'b': 1, 'a': 'é'}, x=[1]))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {key({"a": "é", "b": 1}, x=[1])}


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    """Equal, and of equal types all the way down: Python takes 1, 1.0 and True for the same."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return a == b


@given(json_like, json_like)
def test_two_inputs_have_one_key_only_if_they_are_the_same(a, b):
    assert (key(a) == key(b)) == same(a, b)
    assert (key("q", c=a) == key("q", c=b)) == same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a", "a "),
        ("a", "A"),
        ("é", "e\u0301"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d\ude00".join("xx"), "x😀x"),
        (["\ud83d\ude00"], ["😀"]),
        ("1", 1),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (None, "null"),
        (["a"], "a"),
        ('["a"]', ["a"]),
        ([1, 2], [2, 1]),
        ([[1], 2], [1, [2]]),
        ({"a": None}, {}),
        ("", None),
    ],
)
def test_whatever_differs_gives_another_key(a, b):
    assert key(a) != key(b)
    assert key("q", c=a) != key("q", c=b)


def test_the_order_of_a_dicts_keys_does_not_matter():
    assert key({"a": 1, "b": [{"c": 2, "d": 3}]}) == key({"b": [{"d": 3, "c": 2}], "a": 1})
    assert key("q", a=1, b=2) == key("q", b=2, a=1)


def test_context_is_part_of_the_key_and_not_of_the_input():
    keys = [
        key("q"),
        key("q", t=0),
        key("q", t=0.0),
        key("q", u=0),
        key({"q": {"t": 0}}),
        key(["q", {"t": 0}]),
    ]
    assert len(set(keys)) == len(keys)


def test_a_namespace_binds_keys():
    keys = [
        key("q"),
        key("q", namespace="a"),
        key("q", namespace="b"),
        key("q", namespace=NAMESPACE),
        key("q", namespace=NAMESPACE.for_tenant("other")),
        # a namespace can't pass for the beginning of a text
        key("atext:q"),
        key("1:a;text:q"),
    ]
    assert len(set(keys)) == len(keys)
    assert key("q", namespace=NAMESPACE) == key("q", namespace=NAMESPACE.digest)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((1, 2), "make it a list"),
        ([{"role": "user", "content": ("a",)}], r"\[0\]\['content'\]: a tuple"),
        ({1: "a"}, "the key 1 is an int"),
        (math.nan, "nan is not JSON"),
        ([math.inf], "inf is not JSON"),
        (b"bytes", "bytes is not JSON"),
        ({"a"}, "a set"),
        (object(), "an object"),
        pytest.param(10**5000, "the input", id="5,001 digits"),
    ],
)
def test_what_is_not_json_is_refused_and_the_message_says_where(wrong, says):
    with pytest.raises(TypeError, match=says):
        key(wrong)
    with pytest.raises(TypeError):
        key("q", c=wrong)


def test_a_structure_that_contains_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contains itself"):
        key(loop)


@pytest.mark.parametrize("namespace", ["", 5])
def test_a_namespace_that_says_nothing_is_refused(namespace):
    with pytest.raises((TypeError, ValueError), match="namespace"):
        SmartInferenceCache(namespace=namespace)
