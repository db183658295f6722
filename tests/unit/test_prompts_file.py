"""Lines of a prompts file: what they may say about caching, and what of it is refused."""

import json

import pytest

from axolotl_cache.errors import ConfigError
from axolotl_cache.prompts_file import from_file
from axolotl_cache.request import CacheControl, Request

ASKED = Request(cache_control=CacheControl(sampled=True, truncated=True))


@pytest.fixture
def read(tmp_path):
    def read(**fields):
        path = tmp_path / "prompts.jsonl"
        path.write_text(json.dumps({"user": "Hello?"} | fields), encoding="utf-8")
        ((named),) = from_file(path, ASKED, None)
        return named.request

    return read


def test_a_line_that_says_nothing_has_what_the_command_line_says(read):
    request = read()
    assert request.cache_control == ASKED.cache_control
    assert (request.tags, request.session, request.tools) == ((), "", ())


def test_a_line_has_the_last_word(read):
    control = read(
        cache_control="no-cache, max-age=60", ttl="2h", namespace="n", truncated=False, refusals=True
    ).cache_control
    assert control == CacheControl(
        no_cache=True, max_age_seconds=60, ttl_seconds=7200, namespace="n", sampled=True, refusals=True
    )
    assert read(cache_control="no-store").cache_control.no_store
    assert read(cache_control="only-if-cached").cache_control.only_if_cached
    assert read(ttl=0).cache_control.ttl_seconds == 0


def test_whose_and_about_what(read):
    labels = {"tenant": "t", "principal": "p", "session": "s", "route": "/r", "adapter": "a"}
    request = read(**labels, tags=["x"], entities=["order 1"], tools=[{"name": "f"}], anything_else=1)
    assert {name: getattr(request, name) for name in labels} == labels
    assert (request.tags, request.entities, request.tools) == (("x",), ("order 1",), ({"name": "f"},))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tags": "faq"}, "`tags` is a list of texts"),
        ({"entities": [1]}, "`entities` holds texts, not 1"),
        ({"session": 5}, "`session` holds texts, not 5"),
        ({"tools": ["f"]}, "`tools` is a list of objects"),
        ({"ttl": "soon"}, "`ttl`"),
        ({"ttl": -1}, "`ttl`"),
        ({"truncated": "yes"}, "`truncated` is true or false"),
        ({"cache_control": {"no_cache": True}}, "`cache_control` holds texts"),
    ],
)
def test_mistakes_are_named_with_their_line(read, fields, says):
    with pytest.raises(ConfigError) as raised:
        read(**fields)
    (problem,) = raised.value.problems
    assert problem.where.endswith("prompts.jsonl:1")
    assert says in problem.message
