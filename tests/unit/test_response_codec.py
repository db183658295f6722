from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import axolotl_cache
from axolotl_cache import SmartInferenceCache
from axolotl_cache.response.codec import decode, encode
from axolotl_cache.stores import Record

surrogates = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF))  # lone halves included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | surrogates,
    lambda inner: st.lists(inner) | st.dictionaries(surrogates, inner),
    max_leaves=20,
)


def there_and_back(value):
    codec, payload = encode(value)
    return decode(Record(payload, codec, 0.0))


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(json_values | surrogates | st.binary())
def test_a_value_comes_back_equal_in_type_and_order(value):
    assert same(there_and_back(value), value)


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Answer:
    text: str


class MyDict(dict):
    pass


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((1, 2), "a tuple is not JSON; make it a list"),
        ({1, 2}, "make it a list"),
        ({"a": (1,)}, r"\['a'\]: a tuple"),
        ({1: 2}, "str keys"),
        ([math.nan], "use None or a string"),
        (-math.inf, "use None or a string"),
        (bytearray(b"x"), r"bytes\(value\)"),
        (Colour.RED, r"str\(\.\.\.\)"),
        (True + 0j, "complex"),
        (MyDict(a=1), r"dict\(\.\.\.\)"),
        (Answer("a"), "dataclasses.asdict"),
        (datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), "datetime"),
        (object(), "object"),
        (len, "builtin_function_or_method"),
    ],
)
def test_what_would_not_come_back_the_same_is_refused_at_set(value, says):
    cache = SmartInferenceCache()
    with pytest.raises(TypeError, match=says):
        cache.set("k", value)
    assert "k" not in cache


def test_changing_what_was_got_or_given_does_not_change_the_cache():
    cache = SmartInferenceCache()
    given_value = {"list": [1, 2]}
    cache.set("k", given_value)
    given_value["list"].append(3)
    cache.get("k")["list"].clear()
    cache.lookup("k").value["list"].clear()
    assert cache.get("k") == {"list": [1, 2]}
    computed = cache.get_or_compute("l", lambda: [1])
    computed.append(2)
    assert cache.get("l") == [1]


def test_no_pickle_anywhere():
    forbidden = re.compile(
        r"^\s*(import|from)\s+(pickle|cPickle|_pickle|marshal|shelve|dill|cloudpickle|joblib)\b"
        r"|torch\.(load|save)\(|allow_pickle\s*=\s*True|\byaml\.load\(|\beval\(|\bexec\(",
        re.MULTILINE,
    )
    assert forbidden.search("import pickle"), "the pattern finds nothing"
    assert forbidden.search("x = torch.load(path)")
    package = pathlib.Path(axolotl_cache.__file__).parent
    sources = [*package.glob("response/*.py"), *package.glob("stores/*.py")]
    assert len(sources) > 10
    assert [str(p) for p in sources if forbidden.search(p.read_text())] == []
