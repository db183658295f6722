"""The LiteLLM cache behind LiteLLM's own calls."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.request import CacheControl
from axolotl_cache.response import storable
from axolotl_cache.response.prices import PriceTable

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices

pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own, at import and at every call

import litellm  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from axolotl_cache.integrations import litellm as adapter  # noqa: E402
from axolotl_cache.integrations.litellm import LiteLLMCache  # noqa: E402

WHY = [{"role": "user", "content": "why?"}]


@pytest.fixture
def ours(cache, monkeypatch):
    return install(cache, monkeypatch)


def install(cache, monkeypatch, **options):
    ours = LiteLLMCache(cache, **options)
    monkeypatch.setattr(litellm, "cache", ours)
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    return ours


@pytest.fixture
def ask(api):
    def ask(messages=WHY, call=litellm.completion, **more):
        given = {
            "model": "openai/m",
            "api_base": f"{api.url}/v1",
            "api_key": "sk-one",
            "num_retries": 0,
        } | more
        answer = call(messages=messages, **given)
        return answer.choices[0].message.content if hasattr(answer, "choices") else answer

    return ask


def test_the_second_time_it_is_not_sent(ours, ask, api):
    assert ask() == ask() == "why? / for sk-one / number 1"
    assert api.count == 1


def test_two_api_keys_share_nothing(ours, ask):
    assert ask(api_key="sk-one") == "why? / for sk-one / number 1"
    assert ask(api_key="sk-two") == "why? / for sk-two / number 2"
    assert ask(api_key="sk-one") == "why? / for sk-one / number 1"


def test_control_litellm_s_own_key_serves_one_s_answer_to_the_other(ours, ask, monkeypatch):
    monkeypatch.setattr(LiteLLMCache, "get_cache_key", litellm.Cache.get_cache_key)
    ask(api_key="sk-one")
    assert ask(api_key="sk-two") == "why? / for sk-one / number 1"


def test_the_proxy_s_keys_share_nothing_even_with_a_cache_key_of_their_own(ours, ask):
    for more in ({}, {"cache_key": "chosen"}):
        answers = {ask(metadata={"user_api_key": name}, **more) for name in ("hash-1", "hash-2")}
        assert len(answers) == 2


def test_sharing_between_keys_is_the_owner_s_choice(cache, ask, monkeypatch):
    install(cache, monkeypatch, share_between_keys=True)
    assert ask(api_key="sk-one") == ask(api_key="sk-two")


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "why not?"}]},
        {"temperature": 0.5},
        {"seed": 7},
        {"model": "openai/another"},
        {"guided_regex": "[a-z]+"},
        {"extra_body": {"top_a": 1}},
        {"extra_headers": {"x-version": "2"}},
    ],
)
def test_what_asks_for_something_else_is_computed(ours, ask, other, api):
    ask()
    assert ask(**other).endswith("number 2")
    assert ask(**other).endswith("number 2")


def test_a_key_of_the_caller_s_choice_is_not_all_of_the_key(ours, ask):
    ask(cache_key="chosen")
    assert ask(cache_key="chosen").endswith("number 1")
    other = [{"role": "user", "content": "why not?"}]
    assert ask(other, cache_key="chosen").startswith("why not?")


class City(BaseModel):
    name: str


def test_schemas_of_one_name_are_told_apart(ours, ask, api):
    ask(response_format=City)
    other = type("City", (BaseModel,), {"__annotations__": {"name": int}, "__qualname__": "City"})
    ask(response_format=other)
    ask(response_format=City)
    assert api.count == 2


def test_what_has_no_text_is_not_cached(ours, cache):
    call = {"model": "m", "messages": WHY, "some_thing": object()}
    assert ours.get_cache(**call) is None
    ours.add_cache(json.dumps({"choices": []}), **call)
    assert ours.get_cache(**call) is None
    assert ours.not_stored == {adapter.NO_KEY: 1}
    assert len(cache) == 0


def test_streams(ours, api):
    def stream():
        chunks = litellm.completion(
            model="openai/m", api_base=f"{api.url}/v1", api_key="sk-one", messages=WHY, stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert stream() == stream() == "why? / for sk-one / number 1 "
    assert api.count == 1


def test_asynchronous_calls(ours, api):
    given = {"model": "openai/m", "api_base": f"{api.url}/v1", "api_key": "sk-one"}

    async def settled(count):
        for _ in range(200):  # LiteLLM stores in a task of its own
            if len(ours.cache.cache) >= count:
                return
            await asyncio.sleep(0.02)

    async def run():
        texts, vectors = [], []
        for _ in range(2):
            answer = await litellm.acompletion(messages=WHY, **given)
            texts.append(answer.choices[0].message.content)
            await settled(1)
        for _ in range(2):
            answer = await litellm.aembedding(input=["a", "bb"], **given)
            vectors.append([item["embedding"] for item in answer.data])
            await settled(3)
        return texts, vectors

    texts, vectors = asyncio.run(run())
    assert texts[0] == texts[1]
    assert vectors[0] == vectors[1] == [[2.0, 1.0], [2.0, 2.0]]
    assert api.count == 2


def test_embeddings_and_plain_completions(ours, api):
    given = {"api_base": f"{api.url}/v1", "api_key": "sk-one"}
    for _ in range(2):
        answer = litellm.embedding(model="openai/m", input=["a"], **given)
        assert answer.data[0]["embedding"] == [1.0, 1.0]
    for _ in range(2):
        answer = litellm.text_completion(model="text-completion-openai/m", prompt="why?", **given)
        assert answer.choices[0].text == "why? / for sk-one / number 2"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"finish_reason": "length"}, storable.TRUNCATED),
        ({"finish_reason": "content_filter"}, storable.FILTERED),
        ({"text": "I'm sorry, but I can't help with that."}, storable.READS_AS_REFUSAL),
    ],
)
def test_what_must_not_be_stored_is_not(ours, ask, api, setting, reason):
    vars(api).update(setting)
    ask()
    ask()
    assert ours.not_stored == {reason: 2}
    assert api.count == 2


def test_errors_are_never_stored(ours, ask, api):
    api.status = 500
    with pytest.raises(litellm.InternalServerError):
        ask()
    api.status = 200
    assert ask().startswith("why?")


def test_without_sampled_only_what_is_repeatable_is_cached(cache, ask, monkeypatch, api):
    ours = install(cache, monkeypatch, control=CacheControl())
    ask()
    ask()
    ask(temperature=0)
    ask(temperature=0)
    assert api.count == 3
    assert ours.not_stored == {adapter.NOT_REPEATABLE: 2}


def test_what_a_call_says_about_the_cache(ours, ask, api, cache):
    ask(cache={"no-store": True})
    assert len(cache) == 0
    ask(cache={"ttl": 60})
    (key,) = cache
    entry = cache.lookup(key)
    assert entry.expires_at - entry.created_at == 60
    assert ask(cache={"no-cache": True}).endswith("number 3")


def test_metadata_says_whose_an_entry_is_and_no_secret_is_kept(tmp_path, ask, monkeypatch):
    metadata = {
        "user_api_key_team_id": "team-1",
        "user_api_key_user_id": "ada",
        "tags": ["prices", "user:forged"],
        "password": "metadata-canary",
    }
    with SmartInferenceCache(persistence_path=tmp_path / "kept") as cache:
        install(cache, monkeypatch)
        ask(api_key="sk-canary", metadata=metadata, extra_headers={"x-secret": "header-canary"})
        (key,) = cache
        assert set(cache.lookup(key).tags) == {"litellm", "tenant:team-1", "user:ada", "prices"}
        stored = json.dumps(cache[key])
        assert "for sk-canary" in stored  # the server's answer names it, as no real one does
        files = [path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file()]
        everything = b"".join(files)
        assert b"team-1" in everything
        assert everything.count(b"sk-canary") == everything.count(b"for sk-canary")
        assert b"metadata-canary" not in everything
        assert b"header-canary" not in everything
        assert cache.invalidate(tenant="team-1") == 1


def test_the_rest_of_what_litellm_asks_of_a_backend(ours, ask, cache):
    cache["mine"] = 1
    ask()
    assert asyncio.run(ours.ping()) is True
    (key,) = [key for key in cache if key != "mine"]
    asyncio.run(ours.delete_cache_keys([key]))
    assert list(cache) == ["mine"]
    ask()
    ours.cache.flush_cache()
    asyncio.run(ours.disconnect())
    assert list(cache) == ["mine"]


def test_the_extra_is_named_where_litellm_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "litellm.caching.base_cache", None)
    monkeypatch.delitem(sys.modules, "axolotl_cache.integrations.litellm")
    with pytest.raises(ImportError, match=r"axolotl-cache\[litellm\]"):
        __import__("axolotl_cache.integrations.litellm")


def test_rules_and_prices(ask, api, monkeypatch):
    prices = PriceTable.from_mapping({"*": {"input_per_million": 1_000_000, "output_per_million": 0}})
    with SmartInferenceCache(prices=prices) as cache:
        install(cache, monkeypatch, ttl_rules={"rules": [{"pattern": "why", "kind": "static"}]})
        for text in ("why?", "what is the weather like now?"):
            for _ in range(2):
                ask([{"role": "user", "content": text}])
        assert api.count == 3  # what is of the moment is not stored
        (entry,) = map(cache.peek, cache)
        assert (entry.kind, round(entry.expires_at - entry.created_at)) == ("static", 48 * 3600)
        assert (cache.stats().saved.tokens, cache.stats().saved.money) == (12, 5)
