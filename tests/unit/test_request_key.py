"""The key of a whole request: what is in it, what is not, and that it can say so."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import CanonicalRequest
from axolotl_cache.response.request_key import NEVER_IN

REQUEST = {
    "model": "bank-7b",
    "messages": [{"role": "user", "content": "Héllo 键"}],
    "temperature": 0.5,
    "seed": 7,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}],
}


def key(request, *, namespace=None, leave_out=(), **context):
    cache = SmartInferenceCache(namespace=namespace)
    return cache.generate_key(CanonicalRequest(request, leave_out=leave_out), **context)


def explain(request, *, namespace=None, **options):
    return SmartInferenceCache(namespace=namespace).explain_key(CanonicalRequest(request, **options))


def test_keys_are_pinned_so_that_a_later_version_finds_what_this_one_stored():
    # A change here is a change of format: raise REQUEST_KEY_VERSION, and say so in the changelog.
    assert key(REQUEST) == "q1-8c25380230046e7beeeb591fdacbbd5fa8462a284ec51d3970bc8b75d84f40a0"
    assert (
        key(REQUEST, namespace="bank", stream=True)
        == "q1-ea822453eed7cacd07b7f87d5424f38032993307dba4308284dc427f2a7e442c"
    )
    assert (
        key({"prompt": "", "stop": "x"})
        == "q1-423b664becdc963c3a629d1d3e0a390c6ceb13749889c97e4a4d37cccecb94a2"
    )


def test_keys_do_not_depend_on_the_process():
    code = (
        "from axolotl_cache.response import CanonicalRequest as R, SmartInferenceCache as C;"
        f"print(C().generate_key(R({REQUEST!r}, leave_out=['top_p', 'seed'])))"
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
    assert keys == {key(REQUEST, leave_out=["seed", "top_p"])}


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["messages", "tools", "response_format", "seed", "max_tokens", "anything", "user", "stream"]
)
requests = st.dictionaries(names, json_like, max_size=5)


def same(a, b):
    """Equal, of equal types all the way down, and in equal order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return a == b


def kept(request, leave_out):
    return dict(sorted((k, v) for k, v in request.items() if k not in NEVER_IN and k not in leave_out))


@given(requests, requests, st.sets(st.sampled_from(["seed", "anything"])))
def test_keys_differ_if_and_only_if_a_kept_field_differs(a, b, leave_out):
    expected = same(kept(a, leave_out), kept(b, leave_out))
    assert (key(a, leave_out=leave_out) == key(b, leave_out=leave_out)) == expected
    difference = explain(a, leave_out=leave_out).difference(explain(b, leave_out=leave_out))
    assert (not difference) == expected
    mine, theirs = kept(a, leave_out), kept(b, leave_out)
    assert set(difference) == {
        name
        for name in mine.keys() | theirs.keys()
        if name not in mine or name not in theirs or not same(mine[name], theirs[name])
    }


@given(requests, names, json_like)
def test_one_field_changed_is_one_other_key(request_, name, value):
    changed = request_ | {name: value}
    is_other = name not in NEVER_IN and (name not in request_ or not same(request_[name], value))
    assert (key(request_) != key(changed)) == is_other


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": 0}, {"temperature": -0.0}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"logit_bias": {"1": 2, "3": 4}}, {"logit_bias": {"3": 4, "1": 2}}),
        ({"seed": 1, "n": 2}, {"n": 2, "seed": 1}),
        *(({}, {name: "anything"}) for name in sorted(NEVER_IN)),
    ],
)
def test_what_means_the_same_has_one_key(a, b):
    assert key({"prompt": "q", **a}) == key({"prompt": "q", **b})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"seed": 1}, {"seed": 1.0}),
        ({"seed": None}, {}),  # a field with the default is another request than one without
        ({"temperature": True}, {"temperature": 1}),
        ({"temperature": 2**53 + 1}, {"temperature": float(2**53)}),
        ({"stop": []}, {}),
        ({"a_new_field": 1}, {}),
        # A schema's order reaches the model.
        ({"tools": [{"a": 1, "b": 2}]}, {"tools": [{"b": 2, "a": 1}]}),
        ({"response_format": {"a": 1, "b": 2}}, {"response_format": {"b": 2, "a": 1}}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"content": "a", "role": "user"}]}),
        ({"messages": ["e\u0301"]}, {"messages": ["é"]}),
        ({"ab": "c"}, {"a": "bc"}),
    ],
)
def test_whatever_reaches_the_model_has_another_key(a, b):
    assert key({"prompt": "q", **a}) != key({"prompt": "q", **b})


def test_what_is_left_out_is_the_users_choice_but_for_the_question():
    other = REQUEST | {"seed": 8}
    assert key(REQUEST) != key(other)
    assert key(REQUEST, leave_out=["seed"]) == key(other, leave_out=["seed"])
    assert explain(REQUEST | {"user": "u"}, leave_out=["seed", "top_p"]).left_out == ("seed", "user")
    for field in ("messages", "prompt", "input"):
        with pytest.raises(ValueError, match="different questions"):
            key(REQUEST, leave_out=[field])
    with pytest.raises(TypeError, match="write leave_out="):
        CanonicalRequest(REQUEST, leave_out="seed")


def test_a_namespace_and_what_is_given_by_name_are_in_the_key():
    keys = [
        key(REQUEST),
        key(REQUEST, namespace="a"),
        key(REQUEST, namespace="b"),
        key(REQUEST, stream=True),
        key(REQUEST | {"context.stream": True}),
        SmartInferenceCache().generate_key(REQUEST),
    ]
    # A field of that name would be no other: nothing else can be meant by it.
    assert len(set(keys)) == len(keys) - 1
    assert explain(REQUEST, namespace="a").difference(explain(REQUEST, namespace="b")) == ("namespace",)


def test_an_explanation_names_what_is_in_the_key_and_shows_no_text():
    cache = SmartInferenceCache(namespace="the bank's")
    found = cache.explain_key(CanonicalRequest(REQUEST | {"user": "ada"}), route="/v1")
    assert found.key == cache.generate_key(CanonicalRequest(REQUEST), route="/v1")
    assert [field.name for field in found.fields] == sorted([*REQUEST, "context.route"])
    written = str(found)
    for word in ("Héllo", "bank", "ada", "/v1"):
        assert word not in written
    assert found.key in written
    assert "left out: user" in written


@pytest.mark.parametrize("user_input", ["", "a text", [], {}, ["a", {"b": 1}], {"a": 1, "": [2]}, None, 5])
def test_every_key_explains_itself(user_input):
    cache = SmartInferenceCache()
    found = cache.explain_key(user_input, t=1)
    assert found.key == cache.generate_key(user_input, t=1)
    assert found.difference(found) == ()
    assert found.difference(cache.explain_key(user_input, t=2)) == ("context.t",)
    assert found.difference(cache.explain_key("another", t=1))


@given(json_like, json_like)
def test_explanations_differ_exactly_when_keys_do(a, b):
    cache = SmartInferenceCache()
    one, other = cache.explain_key(a), cache.explain_key(b)
    assert bool(one.difference(other)) == (one.key != other.key)


def test_a_difference_is_named_by_its_place():
    cache = SmartInferenceCache()
    one = cache.explain_key([{"role": "user", "content": "a"}, "b"])
    assert one.difference(cache.explain_key([{"role": "user", "content": "x"}, "b"])) == ("input[0]",)
    assert cache.explain_key({"a": 1, "b": 2}).difference(cache.explain_key({"a": 1})) == ("input.b",)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("text", "a dict in OpenAI's shape"),
        ({1: "a"}, "named by a str"),
        ({"messages": ("a",)}, r"the request\['messages'\]: a tuple"),
        ({"temperature": math.nan}, "nan is not JSON"),
        ({"tools": [{"a": {1, 2}}]}, r"\[0\]\['a'\]: a set"),
    ],
)
def test_what_is_no_request_is_refused_and_the_message_says_where(wrong, says):
    with pytest.raises(TypeError, match=says):
        CanonicalRequest(wrong)
