"""What an HTTP request to a model's API asks of the cache: its key, and what may be done with it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

from axolotl_cache.config import TtlRules
from axolotl_cache.errors import RequestError
from axolotl_cache.integrations.answers import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from axolotl_cache.integrations.asked import facts_asked, lasting, policy_of
from axolotl_cache.request import CacheControl
from axolotl_cache.response import CanonicalRequest, SmartInferenceCache
from axolotl_cache.response.owners import checked_tags
from axolotl_cache.response.ttl_rules import TtlPolicy

TTL_HEADER: Final = "x-cache-ttl"
TAGS_HEADER: Final = "x-cache-tags"
NAMESPACE_HEADER: Final = "x-cache-namespace"

_ENDINGS: Final = (
    (CHAT, "/chat/completions"),
    (COMPLETIONS, "/completions"),
    (RESPONSES, "/responses"),
    (EMBEDDINGS, "/embeddings"),
    # Not any `messages`: to post one to OpenAI's threads changes the thread.
    (MESSAGES, "/v1/messages"),
)
_CREDENTIALS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_DECIDING: Final = ("accept", "anthropic-", "openai-", "x-goog-user-project")
"""Headers, or beginnings of their names, that choose a version, a beta, an account: part of the key."""
_STATEFUL: Final = ("background", "conversation")
"""Fields that make an answer depend on, or change, what the server remembers."""
_LONGEST_HEADER_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """What the headers of one request say about the cache."""

    control: CacheControl
    tags: tuple[str, ...]
    namespace: str
    """Joined to the transport's own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that may be served from the cache, or stored."""

    key: str
    shape: str
    """Which API's: `answers.CHAT`, ..."""
    wish: Wish
    streams: bool
    """Whether it asks for server-sent events."""
    kind: str = ""
    """Of its content, as `ttl_rules` have it; where nothing is known of it, nothing."""

    @property
    def may_share(self) -> bool:
        """Whether any stored answer, and that of an equal request under way, will do."""
        control = self.wish.control
        return not (control.no_cache or control.no_store) and control.max_age_seconds is None

    @property
    def may_store(self) -> bool:
        """Whether the answer may be stored."""
        return not self.wish.control.no_store and self.wish.control.ttl_seconds != 0


@dataclass(frozen=True, slots=True)
class Rules:
    """How one transport's requests are read.

    Args: see `axolotl_cache.integrations.http.CachingTransport`.
    """

    control: CacheControl
    tags: tuple[str, ...]
    leave_out: tuple[str, ...]
    vary: tuple[str, ...]
    share_between_keys: bool
    secret: bytes
    ttl: TtlPolicy | None = None

    def wish(self, headers: MutableMapping[str, str]) -> Wish:
        """Return what the headers ask of the cache, and take out those that are for nobody else.

        Raises:
            RequestError: one of them can't be understood.
        """
        said = {name: headers.pop(name, "") for name in (TTL_HEADER, TAGS_HEADER, NAMESPACE_HEADER)}
        asked = CacheControl.parse(headers.get("cache-control", ""))
        base = self.control
        ages = [age for age in (base.max_age_seconds, asked.max_age_seconds) if age is not None]
        ttl = _seconds(said[TTL_HEADER]) if said[TTL_HEADER] else base.ttl_seconds
        control = replace(
            base,
            no_cache=base.no_cache or asked.no_cache,
            no_store=base.no_store or asked.no_store,
            only_if_cached=base.only_if_cached or asked.only_if_cached,
            max_age_seconds=min(ages, default=None),
            ttl_seconds=ttl,
        )
        own = [tag.strip() for tag in said[TAGS_HEADER].split(",") if tag.strip()]
        try:
            tags = tuple(dict.fromkeys((*self.tags, *checked_tags(own))))
        except ValueError as error:
            raise RequestError(f"X-Cache-Tags: {error}") from None
        return Wish(control, tags, said[NAMESPACE_HEADER])

    def shape(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Return which API a request is for, or None if nothing of it is cached."""
        is_json = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        if method != "POST" or not is_json or "content-encoding" in headers:
            return None
        path = path.rstrip("/")
        return next((shape for shape, ending in _ENDINGS if path.endswith(ending)), None)

    def plan(
        self,
        cache: SmartInferenceCache,
        shape: str,
        wish: Wish,
        *,
        address: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Plan | None:
        """Return what to do about a request, or None if it must be computed and not stored.

        Args:
            cache: makes the key.
            shape: as `shape` gave it.
            wish: as `wish` gave it.
            address: scheme, host, port, path and query.
            headers: as they will be sent.
            body: as it will be sent.
        """
        try:
            request = json.loads(body)
            if not isinstance(request, dict) or any(request.get(name) for name in _STATEFUL):
                return None
            if not (wish.control.sampled or shape == EMBEDDINGS or _is_repeatable(request)):
                return None
            leave_out = [name for name in self.leave_out if name in request]
            key = cache.generate_key(
                CanonicalRequest(request, leave_out=leave_out),
                adapter="http 1",
                address=address,
                headers=self._deciding(headers),
                tenant="" if self.share_between_keys else self._tenant(headers),
                # A stream is stored as it came: what else decides its pieces belongs to it.
                stream=[bool(request.get("stream")), request.get("stream_options")],
                namespace=[self.control.namespace, wish.namespace],
            )
        except (ValueError, TypeError, RecursionError):
            return None  # whatever it is, it is for the server to say what is wrong with it
        wish, kind = (wish, "") if self.ttl is None else self._lasting(wish, request, address)
        return Plan(key, shape, wish, bool(request.get("stream")), kind)

    def _lasting(self, wish: Wish, request: Mapping[str, Any], address: str) -> tuple[Wish, str]:
        """Return the wish with the time to live that the rules have for it, and the kind of content."""
        route = "/" + address.partition("://")[2].partition("/")[2].partition("?")[0]
        facts = facts_asked(request, wish.tags, route)
        seconds, kind = lasting(self.ttl, wish.control.ttl_seconds, facts)
        return replace(wish, control=replace(wish.control, ttl_seconds=seconds)), kind

    def _deciding(self, headers: Mapping[str, str]) -> dict[str, str]:
        names = sorted(name.lower() for name in headers)
        return {
            name: headers[name]
            for name in dict.fromkeys(names)
            if name in self.vary or (name.startswith(_DECIDING) and name != "accept-encoding")
        }

    def _tenant(self, headers: Mapping[str, str]) -> str:
        digest = blake2b(key=self.secret, digest_size=32, person=b"axc-api-key")
        # Beside a key, a cookie is the network's, and another one in each connection.
        for name in _CREDENTIALS if any(name in headers for name in _CREDENTIALS) else ("cookie",):
            value = headers.get(name, "").encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b;" % (len(value), value))
        return digest.hexdigest()


def make_rules(
    control: CacheControl,
    tags: Iterable[str],
    leave_out: Iterable[str],
    vary: Iterable[str],
    share_between_keys: bool,
    secret: bytes,
    ttl_rules: TtlRules | Mapping[str, Any] | None = None,
) -> Rules:
    """Return the rules for a transport's arguments.

    Raises:
        TypeError: several are given as one str.
        ValueError: a field that can't be left out, a reserved tag, a secret that is too long, or `ttl_rules`
            that can't be understood.
    """
    for name, several in (("leave_out", leave_out), ("vary", vary)):
        if isinstance(several, str):
            raise TypeError(f"{name} is several: write {name}=[{several!r}]")
    fields = tuple(leave_out)
    CanonicalRequest({}, leave_out=fields)  # refuses now what it would refuse at every request
    if len(secret) > blake2b.MAX_KEY_SIZE:
        raise ValueError(f"a secret has {blake2b.MAX_KEY_SIZE} bytes at the most, not {len(secret)}")
    names = tuple(name.lower() for name in vary)
    policy = policy_of(ttl_rules)
    return Rules(control, checked_tags(tags), fields, names, share_between_keys, secret, policy)


def _is_repeatable(request: Mapping[str, Any]) -> bool:
    return request.get("temperature") == 0 or request.get("seed") is not None


def _seconds(text: str) -> float:
    try:
        seconds = float(text) if len(text) < _LONGEST_HEADER_CHARACTERS else float("nan")
    except ValueError:
        seconds = float("nan")
    if not (isfinite(seconds) and seconds >= 0):
        raise RequestError(f"X-Cache-TTL is a number of seconds from 0, not {text[:50]!r}")
    return seconds
