"""The LangChain cache behind LangChain's own models."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.request import CacheControl
from axolotl_cache.response import storable
from axolotl_cache.response.prices import PriceTable

pytest.importorskip("langchain_core")

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from pydantic import BaseModel

from axolotl_cache.integrations import langchain
from axolotl_cache.integrations.langchain import LangChainCache


class Chat(BaseChatModel):
    """Counts its answers, and answers what it was told last."""

    name_of_model: str = "one"
    asked: list
    finish_reason: str = "stop"
    extra: dict | None = None

    @property
    def _llm_type(self):
        return "counting"

    @property
    def _identifying_params(self):
        return {"name_of_model": self.name_of_model}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.asked.append(messages)
        message = AIMessage(
            content=f"{messages[-1].content} / {self.name_of_model} / number {len(self.asked)}",
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            additional_kwargs=self.extra or {},
        )
        info = {"finish_reason": self.finish_reason}
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])


class Plain(LLM):
    asked: list

    @property
    def _llm_type(self):
        return "plain"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        self.asked.append(prompt)
        return f"{prompt} / number {len(self.asked)}"


@pytest.fixture
def ours(cache):
    return LangChainCache(cache)


@pytest.fixture
def chat(ours):
    return Chat(cache=ours, asked=[])


def test_the_second_time_nothing_is_computed(chat):
    first, second = chat.invoke("why?"), chat.invoke("why?")
    assert first.content == second.content == "why? / one / number 1"
    assert second.response_metadata == first.response_metadata
    assert len(chat.asked) == 1


def test_another_question_model_or_setting_is_another_answer(chat, ours):
    chat.invoke("why?")
    assert chat.invoke("why not?").content == "why not? / one / number 2"
    assert chat.invoke("why?", stop=["x"]).content == "why? / one / number 3"
    other = Chat(cache=ours, asked=[], name_of_model="two")
    assert other.invoke("why?").content == "why? / two / number 1"


def test_a_conversation_is_found_again_though_ids_and_counts_differ(chat):
    def talk():
        first = chat.invoke([HumanMessage("why?", id=None)])
        return chat.invoke([HumanMessage("why?"), first, HumanMessage("and then?")])

    assert talk().content == talk().content == talk().content
    assert len(chat.asked) == 2


def test_control_without_leaving_ids_out_a_conversation_is_not_found(chat, monkeypatch):
    monkeypatch.setattr(langchain, "_OF_ONE_RUN", ())
    with pytest.raises(AssertionError):
        test_a_conversation_is_found_again_though_ids_and_counts_differ(chat)


def test_asynchronous_calls_share_the_answers(chat):
    first = chat.invoke("why?")
    assert asyncio.run(chat.ainvoke("why?")).content == first.content
    assert len(chat.asked) == 1


def test_a_plain_model(ours):
    plain = Plain(cache=ours, asked=[])
    assert plain.invoke("why?") == plain.invoke("why?") == "why? / number 1"
    assert plain.invoke("why not?") == "why not? / number 2"


def test_what_is_changed_in_an_answer_is_not_changed_in_the_cache(chat):
    chat.invoke("why?")
    chat.invoke("why?").response_metadata["finish_reason"] = "changed"
    assert chat.invoke("why?").response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"finish_reason": "length"}, storable.TRUNCATED),
        ({"finish_reason": "max_tokens"}, storable.TRUNCATED),
        ({"finish_reason": "SAFETY"}, storable.FILTERED),
        ({"extra": {"refusal": "no"}}, storable.REFUSED),
    ],
)
def test_what_must_not_be_stored_is_not(ours, setting, reason):
    chat = Chat(cache=ours, asked=[], **setting)
    chat.invoke("why?")
    assert chat.invoke("why?").content.endswith("number 2")
    assert ours.not_stored == {reason: 2}


def test_cut_off_answers_are_stored_if_they_are_asked_for(cache):
    ours = LangChainCache(cache, control=CacheControl(truncated=True))
    chat = Chat(cache=ours, asked=[], finish_reason="length")
    assert chat.invoke("why?").content == chat.invoke("why?").content


class Parsed(BaseModel):
    number: int


def test_what_would_not_come_back_equal_is_not_stored(ours):
    chat = Chat(cache=ours, asked=[], extra={"parsed": Parsed(number=1)})
    for _ in range(2):
        assert chat.invoke("why?").additional_kwargs["parsed"] == Parsed(number=1)
    assert ours.not_stored == {langchain.WITHOUT_LOSS: 2}


def test_a_model_described_by_an_address_is_not_cached(ours):
    ours.update("p", "<function f at 0x7f00deadbeef>", [Generation(text="x")])
    assert ours.lookup("p", "<function f at 0x7f00deadbeef>") is None
    assert ours.not_stored == {langchain.NO_KEY: 1}


def test_nothing_but_generations_and_messages_is_ever_made(ours, cache):
    from langchain_core.prompts import PromptTemplate

    ours.update("p", "m", [Generation(text="x")])
    (key,) = cache
    cache[key] = [json.loads(json.dumps(dumpd(PromptTemplate.from_template("{x}"))))]
    with pytest.raises(ValueError, match="not allowed"):
        ours.lookup("p", "m")


def test_prompt_and_model_are_not_run_together(ours):
    ours.update("ab", "c", [Generation(text="x")])
    assert ours.lookup("a", "bc") is None
    assert ours.lookup("ab", "c") == [Generation(text="x")]


def test_clear_removes_what_langchain_stored_and_nothing_else(ours, cache):
    cache["mine"] = 1
    ours.update("p", "m", [Generation(text="x")])
    LangChainCache(cache, tags=["prices"]).update("q", "m", [Generation(text="y")])
    ours.clear(tag="prices")
    assert ours.lookup("q", "m") is None
    assert ours.lookup("p", "m") == [Generation(text="x")]
    asyncio.run(ours.aclear())
    assert list(cache) == ["mine"]


def test_answers_outlive_the_process(tmp_path):
    for number in range(2):
        with SmartInferenceCache(persistence_path=tmp_path) as cache:
            chat = Chat(cache=LangChainCache(cache), asked=[])
            assert chat.invoke("why?").content == "why? / one / number 1"
            assert len(chat.asked) == 1 - number


def test_namespaces_share_nothing(cache):
    for name in ("a", "b"):
        chat = Chat(cache=LangChainCache(cache, control=CacheControl(namespace=name)), asked=[])
        chat.invoke("why?")
        assert len(chat.asked) == 1


def test_the_openai_model_of_langchain(api, cache):
    openai = pytest.importorskip("langchain_openai")
    model = openai.ChatOpenAI(
        model="m", base_url=f"{api.url}/v1", api_key="sk-one", cache=LangChainCache(cache), max_retries=0
    )
    assert model.invoke("why?").content == model.invoke("why?").content == "why? / for sk-one / number 1"
    assert model.bind(temperature=0.3).invoke("why?").content == "why? / for sk-one / number 2"
    stored = "".join(json.dumps(cache[key]) for key in cache)
    assert "number 2" in stored
    assert "sk-one" not in stored.replace("for sk-one", "")


def test_the_extra_is_named_where_langchain_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.caches", None)
    monkeypatch.delitem(sys.modules, "axolotl_cache.integrations.langchain")
    with pytest.raises(ImportError, match=r"axolotl-cache\[langchain\]"):
        __import__("axolotl_cache.integrations.langchain")


def test_rules_and_prices():
    prices = PriceTable.from_mapping({"*": {"input_per_million": 1_000_000, "output_per_million": 0}})
    rules = {"rules": [{"pattern": "why", "kind": "static"}]}
    with SmartInferenceCache(prices=prices) as cache:
        model = Chat(asked=[], cache=LangChainCache(cache, ttl_rules=rules))
        for text in ("why?", "what is the weather like now?"):
            for _ in range(2):
                model.invoke([HumanMessage(text)])
        assert len(model.asked) == 3  # what is of the moment is not stored
        (entry,) = map(cache.peek, cache)
        assert (entry.kind, round(entry.expires_at - entry.created_at)) == ("static", 48 * 3600)
        assert (cache.stats().saved.tokens, cache.stats().saved.money) == (3, 1)
