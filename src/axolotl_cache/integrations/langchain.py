"""A LangChain `BaseCache`: `set_llm_cache(LangChainCache(SmartInferenceCache()))`.

Sampled answers are cached, too, as LangChain does not tell a cache how one came about: a model that is not
to be cached takes `cache=False`. LangChain does not say who asks, either, and its keys hold no API key: give
each tenant a cache of its own, or a `namespace`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from axolotl_cache.config import TtlRules
from axolotl_cache.integrations.answers import (
    finish_reason,
    text_of,
    why_outcomes_not_stored,
)
from axolotl_cache.integrations.asked import lasting, policy_of
from axolotl_cache.integrations.tally import Tally
from axolotl_cache.request import CacheControl
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.response.owners import checked_tags
from axolotl_cache.response.prices import Cost
from axolotl_cache.response.storable import Outcome
from axolotl_cache.response.ttl_rules import Facts

try:
    from langchain_core._api import suppress_langchain_beta_warning
    from langchain_core.caches import BaseCache
    from langchain_core.load import dumpd, load
    from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
except ImportError as error:
    raise ImportError(
        f"a LangChain cache needs langchain-core 1.0 or later ({error}): "
        "pip install 'axolotl-cache[langchain]'"
    ) from error

TAG: Final = "langchain"
"""On all entries that a `LangChainCache` stores; what `clear()` removes."""

WITHOUT_LOSS: Final = "it would not come back as it went in"
NO_KEY: Final = "its model is described by an address in memory, which says nothing"

_MESSAGES: Final = [AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk]
_ALLOWED: Final = [Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk, *_MESSAGES]
"""What may be made from what is stored, and nothing else: these run no code of the stored text's choosing."""
_OF_ONE_RUN: Final = ("id", "usage_metadata")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+>")
_AS_IT_COMES: Final = CacheControl(sampled=True)


class LangChainCache(BaseCache):  # type: ignore[misc]  # langchain-core is not there when types are checked
    """Keeps the answers of LangChain's models, chat models and others.

    A message's id and the tokens it took are no part of the key: they are other ones in each run. Errors
    never reach a cache of LangChain's; cut-off answers and refusals are not stored, nor is what would not
    come back equal, as parsed objects. What is read is made into generations and messages, and into nothing
    else.

    Args:
        cache: where answers are kept.
        control: `truncated=True` stores cut-off answers, `refusals=True` refusals; `ttl_seconds` and
            `namespace` hold for all; nothing else has an effect.
        tags: of all entries, beside `TAG`.
        ttl_rules: for how long answers of which kind are served, as the configuration has them or as they
            stand in its YAML. They see the last message of the user and `tags`, no route and no tools.

    Raises:
        ValueError: a tag is a reserved one, or the rules can't be understood.
    """

    def __init__(
        self,
        cache: SmartInferenceCache,
        *,
        control: CacheControl = _AS_IT_COMES,
        tags: Iterable[str] = (),
        ttl_rules: TtlRules | Mapping[str, Any] | None = None,
    ) -> None:
        self.cache = cache
        self._control = control
        self._tags = (TAG, *checked_tags(tags))
        self._not_stored = Tally()
        self._ttl = policy_of(ttl_rules)

    @property
    def not_stored(self) -> dict[str, int]:
        """How many answers were not stored, by reason."""
        return self._not_stored.counts()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return what is stored, made anew, or None."""
        key = self._key(prompt, llm_string)
        entry = None if key is None else self.cache.lookup(key)
        return None if entry is None else [_load(item) for item in entry.value]

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store an answer, if it may be stored; else count why not."""
        key = self._key(prompt, llm_string)
        if key is None:
            self._not_stored.add(NO_KEY)
            return
        reason = why_outcomes_not_stored([_outcome(item) for item in return_val], self._control)
        value = None if reason else _dumped(return_val)
        if value is None:
            self._not_stored.add(reason or WITHOUT_LOSS)
            return
        ttl, kind = lasting(self._ttl, self._control.ttl_seconds, Facts(_text(prompt), self._tags))
        self.cache.set(key, value, ttl=ttl, tags=self._tags, kind=kind, cost=_cost(return_val))

    def clear(self, **kwargs: Any) -> None:
        """Remove what LangChain's caches stored; or, given arguments of `invalidate`, what these say."""
        self.cache.invalidate(**(kwargs or {"tag": TAG}))

    # Without a thread: a hit takes less time than starting one.

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Do as `lookup`."""
        return self.lookup(prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Do as `update`."""
        self.update(prompt, llm_string, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        """Do as `clear`."""
        self.clear(**kwargs)

    def _key(self, prompt: str, llm_string: str) -> str | None:
        if _ADDRESS.search(llm_string):
            return None  # another object may have that address the next time
        return self.cache.generate_key(
            [_without_ids(prompt), llm_string], adapter="langchain 1", namespace=self._control.namespace
        )


def _without_ids(prompt: str) -> Any:
    """Return the messages that a chat model's prompt holds, without what is of one run; else the prompt."""
    try:
        messages = json.loads(prompt)
        if not (isinstance(messages, list) and messages):
            return prompt
        for message in messages:
            if message["lc"] != 1 or message["type"] != "constructor":
                return prompt
            for name in _OF_ONE_RUN:
                message["kwargs"].pop(name, None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return prompt
    return json.dumps(messages)


def _text(prompt: str) -> str:
    """Return the text of the last message of a user in a chat model's prompt; another prompt as it is."""
    try:
        messages = json.loads(prompt)
        said = [m["kwargs"]["content"] for m in messages if m["kwargs"].get("type") == "human"]
        return text_of(said[-1]) if said else prompt
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return prompt


def _cost(generations: Sequence[Generation]) -> dict[str, Any] | None:
    """Return what a chat model's answers say of their tokens; how long they took LangChain tells no cache."""
    for generation in generations:
        message = getattr(generation, "message", None)
        usage = getattr(message, "usage_metadata", None)
        if message is not None and usage:
            model = str(message.response_metadata.get("model_name", ""))
            details = {"cached_tokens": (usage.get("input_token_details") or {}).get("cache_read")}
            return asdict(
                Cost.from_usage({**usage, "input_tokens_details": details}, seconds=0.0, model=model)
            )
    return None


def _dumped(generations: Sequence[Generation]) -> list[Any] | None:
    """Return what is stored, if all of it comes back as it is."""
    try:
        # By way of JSON's text: dumped values may still hold subclasses of what JSON has.
        value: list[Any] = json.loads(json.dumps([dumpd(item) for item in generations]))
        back = [_load(item) for item in value]
    except (NotImplementedError, TypeError, ValueError):
        return None
    return value if back == list(generations) else None


def _load(item: Any) -> Generation:
    return load(item, allowed_objects=_ALLOWED)


def _outcome(generation: Generation) -> Outcome:
    message = getattr(generation, "message", None)
    said = dict(generation.generation_info or {}) | getattr(message, "response_metadata", {})
    reasons = (finish_reason(said.get(name)) for name in ("finish_reason", "stop_reason", "done_reason"))
    reason = next((reason for reason in reasons if reason), None)
    extra = getattr(message, "additional_kwargs", {})
    return Outcome(
        text=generation.text or text_of(getattr(message, "content", None)),
        finish_reason=reason,
        refusal=extra.get("refusal") or ("refusal" if reason == "refusal" else None),
        calls_tools=bool(getattr(message, "tool_calls", None) or extra.get("function_call")),
    )


# LangChain warns of `load` once in a process, as of a beta; here it is known, and pinned by tests.
with suppress_langchain_beta_warning():
    load([], allowed_objects=_ALLOWED)
