"""A cache for LiteLLM: `litellm.cache = LiteLLMCache(SmartInferenceCache())`.

Sampled answers are cached, too: to install it is to ask for that. `control=CacheControl(sampled=False)`
caches only what has a temperature of 0 or a seed, and embeddings. LiteLLM replays a stream as one piece; for
streams as they came, use `axolotl_cache.integrations.http`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from axolotl_cache.config import TtlRules
from axolotl_cache.integrations.answers import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    NOT_UNDERSTOOD,
    RESPONSES,
    why_payload_not_stored,
)
from axolotl_cache.integrations.asked import facts_asked, lasting, policy_of
from axolotl_cache.integrations.tally import Tally
from axolotl_cache.integrations.usage import usage_in
from axolotl_cache.request import CacheControl
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.response.owners import KINDS, checked_tags, owner_tag
from axolotl_cache.response.prices import Cost
from axolotl_cache.response.ttl_rules import TtlPolicy

try:
    from litellm.caching.base_cache import BaseCache
    from litellm.caching.caching import Cache
    from litellm.types.utils import all_litellm_params
except ImportError as error:
    raise ImportError(
        f"a cache for LiteLLM needs litellm 1.80 or later ({error}): pip install 'axolotl-cache[litellm]'"
    ) from error

TAG: Final = "litellm"
"""On all entries that a `LiteLLMCache` stores."""

NO_KEY: Final = "something in the request has no text that stands for it"
NOT_REPEATABLE: Final = "it was sampled, and only repeatable answers are wanted"

_PREFIX: Final = "axolotl-cache:"
_UNCACHEABLE: Final = f"{_PREFIX}none:"
_ADDRESS: Final = ("api_base", "api_version", "base_url", "custom_llm_provider", "headers", "organization")
"""Owned by LiteLLM, and in none of its keys; yet they decide who answers."""
_DELIVERY: Final = frozenset({"parent_otel_span", "request_timeout", "timeout"})
_TENANTS: Final = ("user_api_key_org_id", "user_api_key_team_id")
_USERS: Final = ("user_api_key_user_id", "user_api_key_end_user_id")
_RESERVED: Final = tuple(f"{kind}:" for kind in KINDS)
_AS_IT_COMES: Final = CacheControl(sampled=True)


class LiteLLMCache(Cache):  # type: ignore[misc]  # litellm is not there when types are checked
    """LiteLLM's cache, with keys of its own and answers in a `SmartInferenceCache`.

    LiteLLM's key leaves out who asks and whom, and does not say where one field ends: here it is one part of
    the key, beside the messages, the server's address, the API key (the one given, and the proxy's digest of
    its own), every field that LiteLLM does not know, and all as one digest. Of the arguments of a call only
    these are kept: from `metadata`, ids of team, organisation and user, as owners of the entry, and `tags`.

    Args:
        cache: where answers are kept.
        control: what holds for all: `sampled=False`, `truncated=True`, `refusals=True`, `ttl_seconds` (that
            of a call wins), `namespace`; nothing else has an effect.
        tags: of all entries, beside `TAG`.
        share_between_keys: whether all API keys share answers.
        ttl_rules: for how long answers of which kind are served, as the configuration has them or as they
            stand in its YAML; a call's own `ttl` wins. The route is the kind of call, as `acompletion`.
        litellm_options: of LiteLLM's own `Cache`: `mode`, `supported_call_types`, `ttl`, `namespace`.

    Raises:
        ValueError: a tag is a reserved one, or the rules can't be understood.
    """

    def __init__(
        self,
        cache: SmartInferenceCache,
        *,
        control: CacheControl = _AS_IT_COMES,
        tags: Iterable[str] = (),
        share_between_keys: bool = False,
        ttl_rules: TtlRules | Mapping[str, Any] | None = None,
        **litellm_options: Any,
    ) -> None:
        super().__init__(type="local", **litellm_options)
        self.cache = _Backend(cache, control, checked_tags(tags), policy_of(ttl_rules))
        self._share_between_keys = share_between_keys

    @property
    def not_stored(self) -> dict[str, int]:
        """How many answers were not stored, by reason."""
        counts: dict[str, int] = self.cache.not_stored.counts()
        return counts

    def get_cache_key(self, **kwargs: Any) -> str:
        """Return the key for the arguments of a call; one that nothing is stored under, if they have none."""
        theirs: str = super().get_cache_key(**kwargs)
        if theirs.startswith(_PREFIX):
            return theirs  # LiteLLM remembers a call's key
        backend = self.cache
        if not (backend.control.sampled or "input" in kwargs or _is_repeatable(kwargs)):
            return f"{_UNCACHEABLE}{NOT_REPEATABLE}"
        try:
            asked = _plain(dict(_deciding(kwargs)))
        except TypeError:
            return f"{_UNCACHEABLE}{NO_KEY}"
        tenant = [] if self._share_between_keys else [kwargs.get("api_key"), _proxy_key(kwargs)]
        ours = _PREFIX + backend.cache.generate_key(
            [theirs, asked, [None if key is None else str(key) for key in tenant]],
            adapter="litellm 1",
            namespace=backend.control.namespace,
        )
        params = kwargs.get("litellm_params")
        if isinstance(params, dict):
            params["preset_cache_key"] = ours
        return ours


class _Backend(BaseCache):  # type: ignore[misc]  # as above
    """What LiteLLM asks to keep and to give back. None of the arguments beside a value is kept."""

    def __init__(
        self,
        cache: SmartInferenceCache,
        control: CacheControl,
        tags: tuple[str, ...],
        ttl: TtlPolicy | None = None,
    ) -> None:
        super().__init__()
        self._ttl = ttl
        self.cache = cache
        self.control = control
        self.tags = (TAG, *tags)
        self.not_stored = Tally()

    def get_cache(self, key: str, **kwargs: Any) -> Any:
        if key.startswith(_UNCACHEABLE):
            return None
        return self.cache.get(self._own_key(key, kwargs))

    def set_cache(self, key: str, value: Any, **kwargs: Any) -> None:
        reason = (
            key.removeprefix(_UNCACHEABLE)
            if key.startswith(_UNCACHEABLE)
            else _why_not_stored(value, self.control)
        )
        if reason is not None:
            self.not_stored.add(reason)
            return
        own = self.control.ttl_seconds if kwargs.get("ttl") is None else float(kwargs["ttl"])
        tags = (*self.tags, *_tags(kwargs))
        ttl, kind = lasting(self._ttl, own, facts_asked(kwargs, tags, str(kwargs.get("call_type", ""))))
        stored = _plain(value)
        self.cache.set(self._own_key(key, kwargs), stored, ttl=ttl, tags=tags, kind=kind, cost=_cost(stored))

    def _own_key(self, key: str, kwargs: Mapping[str, Any]) -> str:
        if key.startswith(_PREFIX):
            return key
        # A `cache_key` that the caller chose: it is not taken for what was asked, or for who asks.
        asked = [key, _plain(kwargs.get("messages")), _proxy_key(kwargs)]
        return self.cache.generate_key(asked, adapter="litellm 1")

    async def async_get_cache(self, key: str, **kwargs: Any) -> Any:
        return self.get_cache(key, **kwargs)

    async def async_set_cache(self, key: str, value: Any, **kwargs: Any) -> None:
        self.set_cache(key, value, **kwargs)

    async def async_set_cache_pipeline(self, cache_list: list[tuple[str, Any]], **kwargs: Any) -> None:
        for key, value in cache_list:
            self.set_cache(key, value, **kwargs)

    async def batch_cache_write(self, key: str, value: Any, **kwargs: Any) -> None:
        self.set_cache(key, value, **kwargs)

    async def delete_cache_keys(self, keys: Iterable[str]) -> int:
        return sum(self.cache.invalidate(key=key) for key in keys)

    def flush_cache(self) -> None:
        self.cache.invalidate(tag=TAG)

    async def ping(self) -> bool:
        return True

    async def test_connection(self) -> dict[str, str]:
        return {"status": "success", "message": repr(self.cache)}

    async def disconnect(self) -> None:
        """Leave the cache open: it is its owner's."""


def _deciding(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what decides an answer: all that LiteLLM does not keep to itself, and the server's address."""
    for name in sorted(kwargs):
        is_owned = name in all_litellm_params or name.startswith(("litellm_", "_")) or name in _DELIVERY
        if kwargs[name] is not None and (name in _ADDRESS or not is_owned):
            yield name, kwargs[name]


def _is_repeatable(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("temperature") == 0 or kwargs.get("seed") is not None


def _metadata(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in (kwargs.get("litellm_params"), kwargs):
        for name in ("litellm_metadata", "metadata"):
            part = source.get(name) if isinstance(source, Mapping) else None
            found |= part if isinstance(part, dict) else {}
    return found


def _proxy_key(kwargs: Mapping[str, Any]) -> str | None:
    """Return the proxy's digest of the API key with which it was asked."""
    key = _metadata(kwargs).get("user_api_key")
    return None if key is None else str(key)


def _tags(kwargs: Mapping[str, Any]) -> list[str]:
    metadata = _metadata(kwargs)
    owners = [("tenant", metadata.get(name)) for name in _TENANTS]
    owners += [("user", metadata.get(name)) for name in _USERS]
    tags = [owner_tag(kind, str(name)) for kind, name in owners if name]
    given = metadata.get("tags")
    plain = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []
    # Whose an entry is, only the ids say.
    return [*tags, *(tag for tag in plain if not tag.startswith(_RESERVED))]


def _why_not_stored(value: Any, control: CacheControl) -> str | None:
    """Return why LiteLLM's value, `{"timestamp": ..., "response": ...}`, must not be stored."""
    answer = value.get("response") if isinstance(value, dict) else None
    try:
        payload = json.loads(answer) if isinstance(answer, str) else answer
    except ValueError:
        return NOT_UNDERSTOOD
    if not isinstance(payload, dict):
        return NOT_UNDERSTOOD
    if "embedding" in payload:
        payload = {"data": [payload]}  # one of several inputs, each stored by itself
    choices = payload.get("choices")
    if isinstance(choices, list):
        first = choices[0] if choices else None
        shape = COMPLETIONS if isinstance(first, dict) and "text" in first else CHAT
    else:
        shape = next((shape for name, shape in _SHAPES if name in payload), "")
    return why_payload_not_stored(shape, payload, control)


def _cost(value: Any) -> dict[str, Any] | None:
    """Return what an answer says of its tokens; how long it took LiteLLM tells no cache."""
    answer = value.get("response") if isinstance(value, dict) else None
    usage, model = usage_in([answer if isinstance(answer, str) else json.dumps(answer)])
    return asdict(Cost.from_usage(usage, seconds=0.0, model=model)) if usage else None


_SHAPES: Final = (("data", EMBEDDINGS), ("output", RESPONSES))


def _plain(value: Any) -> Any:
    """Return a value as JSON's own types.

    Raises:
        TypeError: something in it is neither JSON nor a model of pydantic's.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return [value.__qualname__, value.model_json_schema()]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value)} has no text that stands for it")
