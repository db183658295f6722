"""What is asked and what is answered: the words that every tier shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Any

from axolotl_cache.directives import delta_seconds, directives
from axolotl_cache.errors import RequestError


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    """The text; of several parts, their texts one a line."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """The parts as OpenAI writes them, if the content came as a list: for templates that read parts."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """What an assistant called, as OpenAI writes it, but with each call's arguments as an object."""
    tool_call_id: str = ""
    """Of a tool's message: which call it answers."""
    name: str = ""


MAX_LOGPROBS = 20
"""The most alternatives that may be asked for at each token, as in OpenAI's interface."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; names and meaning as in transformers' GenerationConfig."""

    max_new_tokens: int | None = None
    """Longest answer; None is 512 tokens, or what the model's context leaves."""
    temperature: float = 0.0
    """0 is greedy: the most likely token, always."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """None is off. Else the log probability of every chosen token, and those of this many of the most
    likely ones at its place, from 0 to `MAX_LOGPROBS`. They are the log-softmax of the model's own logits,
    before repetition penalty, temperature and filters, as in vLLM (its `logprobs_mode` of `raw_logprobs`,
    the default); the shape and the limit are those of OpenAI's `top_logprobs`."""

    @property
    def is_greedy(self) -> bool:
        """Whether no randomness is involved."""
        return self.temperature == 0.0

    @property
    def is_repeatable(self) -> bool:
        """Whether asking again must give the same answer, so that a stored one may stand in for it."""
        return self.is_greedy or self.seed is not None

    def canonical(self) -> dict[str, Any]:
        """Return what of these settings can change the answer or what comes with it, as JSON types.

        Greedy answers do not depend on the seed or on the filters of the distribution, so that two
        greedy requests that differ only there share one entry.
        """
        settings: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "stop": list(self.stop),
            "temperature": self.temperature,
        }
        if self.logprobs is not None:
            settings["logprobs"] = self.logprobs  # no part of the text, but of what is stored with it
        if not self.is_greedy:
            settings |= {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p, "seed": self.seed}
        return settings


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What the client says about the response cache, for this one request.

    Raises:
        RequestError: a negative or impossible time.
    """

    no_cache: bool = False
    """Compute the answer anew, and store it."""
    no_store: bool = False
    """Do not store this answer. One that is stored already may be served."""
    only_if_cached: bool = False
    """Serve a stored answer, or none: computing it is a `NotCached` error."""
    max_age_seconds: float | None = None
    """Serve no answer older than this."""
    ttl_seconds: float | None = None
    """How long this answer may be served; wins over `ttl_rules` and `entry_timeout`. 0 stores nothing."""
    namespace: str = ""
    """Joined to the model's namespace, never in its place: requests of another one share no answers."""
    sampled: bool = False
    """Serve and store an answer that was sampled without a seed, though asking again might give another."""
    truncated: bool = False
    """Store an answer that `max_new_tokens` cut off."""
    refusals: bool = False
    """Store an answer although it reads like a refusal."""
    semantic: bool = True
    """Whether the answer to a question in other words will do, where that tier is on."""

    def __post_init__(self) -> None:
        if self.max_age_seconds is not None and not (
            isfinite(self.max_age_seconds) and self.max_age_seconds >= 0
        ):
            raise RequestError(f"max-age is a number of seconds from 0, not {self.max_age_seconds}")
        if self.ttl_seconds is not None and not self.ttl_seconds >= 0:  # not a number is refused, too
            raise RequestError(f"a ttl is a number of seconds from 0, not {self.ttl_seconds}")

    @classmethod
    def parse(cls, header: str) -> CacheControl:
        """Return what a `Cache-Control` request header asks for.

        Known are no-cache, no-store, max-age and only-if-cached. max-stale, min-fresh and no-transform have
        no effect: expired answers are never served, and nothing is transformed. Anything else is ignored, as
        the standard wants it. A max-age that is no number counts as no-cache.

        Args:
            header: the value; several header lines joined with commas.

        Source: RFC 9111, sections 1.2.2, 4.2.1, 5.2 and 5.2.1.
        """
        found = directives(header)
        ages = [delta_seconds(argument) for argument in found.get("max-age", [])]
        known = [age for age in ages if age is not None]
        return cls(
            no_cache="no-cache" in found or len(known) < len(ages),
            no_store="no-store" in found,
            only_if_cached="only-if-cached" in found,
            max_age_seconds=min(known, default=None),
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a conversation or a plain prompt, and how to answer it."""

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    """A prompt that is already rendered; the chat template is not applied. Either this or `messages`."""
    sampling: Sampling = Sampling()
    cache_control: CacheControl = CacheControl()
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools that the model may call, as OpenAI writes them; given to the chat template."""
    tenant: str = ""
    """Another tenant shares nothing with this one, in any tier."""
    principal: str = ""
    """Who asks. Another principal is served no answer of this one's; prefixes are shared."""
    session: str = ""
    """Which conversation this is, of this principal. What it computed is kept for its next turn; stored
    answers can be removed by it."""
    entities: tuple[str, ...] = ()
    """What the request is about, as `order 4711`; their records join the prompt, and stored answers can be
    removed by it."""
    route: str = ""
    """Where the request came in, as `/v1/chat/completions`; for `ttl_rules`."""
    tags: tuple[str, ...] = ()
    adapter: str = ""
    """Name of a loaded adapter; empty for the model as it was loaded, its own adapter included."""


class Served(StrEnum):
    """Which tier an answer came from; the values of the `X-Cache` header."""

    HIT_EXACT = "hit-exact"
    HIT_SEMANTIC = "hit-semantic"
    HIT_SESSION = "hit-session"
    HIT_PREFIX = "hit-prefix"
    MISS = "miss"

    @property
    def is_stored(self) -> bool:
        """Whether the answer was a stored one: nothing was computed for it."""
        return self not in {Served.HIT_PREFIX, Served.MISS}


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a tier could not serve."""

    reason: str
    """One sentence for people."""
    first_difference_tokens: int | None = None
    """Position in the prompt, in tokens, of the first token that nothing cached agrees with."""
    expected_text: str | None = None
    """What the nearest cached prompt has there."""
    found_text: str | None = None
    """What this prompt has there."""


@dataclass(frozen=True, slots=True)
class Match:
    """The stored question whose answer was served for one in other words."""

    question: str
    """Its last message. Somebody else may have asked it: do not hand it out to whoever asks."""
    key: str
    """Of its entry."""
    probability: float
    """That its answer is right for this question, as calibrated."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. `prompt_tokens == cached_tokens + computed_tokens`."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache, or all of them on a response hit."""
    completion_tokens: int

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that went through the model for this answer."""
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was at its place."""

    token: int
    text: str
    """The token by itself; special ones written out, and part of a character as the sign U+FFFD."""
    logprob: float
    """Natural logarithm of the probability; -9999 stands for anything below."""
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens there, the likeliest first, as many as were asked for; without a `top` of
    their own. The chosen token is among them only if it is one of them."""


@dataclass(frozen=True, slots=True)
class TtlDecision:
    """For how long an answer may be served, and what decided it."""

    ttl_seconds: float | None
    """None is for ever; 0 is never: it is not stored."""
    kind: str
    """`static`, `dynamic` or `realtime`; empty if no kind was found, or none mattered."""
    why: str
    """What decided, for people: the request, a rule and its number, what was recognised, or the default."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What an answer would have cost more without the cache."""

    tokens: int = 0
    """Tokens of prompt and answer that were not computed."""
    seconds: float = 0.0
    """On a response hit, what computing took, less what serving took; behind a prefix, an estimate."""
    money: Decimal | None = None
    """At the prices given; None without a price for this model."""
    currency: str = ""

    def __add__(self, other: Saved) -> Saved:
        """Return both together."""
        money = [saved.money for saved in (self, other) if saved.money is not None]
        return Saved(
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            sum(money, Decimal(0)) if money else None,
            self.currency or other.currency,
        )


@dataclass(frozen=True, slots=True)
class EntityUse:
    """What an entity meant for one answer."""

    name: str
    """Kind and value, as `order 67890`."""
    why: str
    """`asked for` by the request itself, `this turn` speaks of it, or an `earlier turn` did."""
    record: str
    """`joined` the prompt, `no record`, `not allowed`, `failed`, `no provider`, or `left out`."""
    note: str = ""
    """For people: why it failed, or what is reused in its place."""
    tokens: int = 0
    """Of its record in the prompt; 0 where the answer was stored, and no token was looked at."""
    cached_tokens: int = 0
    """Those of them that were not computed."""


@dataclass(frozen=True, slots=True)
class SessionAccount:
    """What a request's session and entities did for its answer."""

    id: str
    """Of the session; empty for a request with entities and no session."""
    turn: int = 0
    """Number of the turn, from 1; 0 without a session."""
    entities: tuple[EntityUse, ...] = ()
    unsure: tuple[str, ...] = ()
    """What the turn may point back to, likeliest first, where it can't be told which of several."""
    conversation_tokens: int = 0
    """Tokens of the prompt behind system message and records; 0 where no token was looked at."""
    conversation_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and where it came from."""

    text: str
    finish_reason: str
    """`stop` (end token or stop string) or `length`."""
    served: Served
    usage: Usage
    ttft_seconds: float
    total_seconds: float
    age_seconds: float = 0.0
    """Age of a stored answer; 0 for one computed now."""
    saved: Saved = Saved()
    """What the cache saved with this answer; nothing on a miss."""
    key: str = ""
    """Of its entry in the response cache, for `report_wrong` and `invalidate`; empty if that is off."""
    ttl: TtlDecision | None = None
    """For how long it may be served, and why; None if the response cache is off."""
    response_miss: Miss | None = None
    """Why the response cache did not serve; None if it did, or if it is off."""
    semantic_miss: Miss | None = None
    """Why no question in other words could serve: which guard forbade the nearest, or how far it was; None if
    one did, if an equal one did, or if that tier is off."""
    match: Match | None = None
    """On a semantic hit, the question whose answer this is."""
    prefix_miss: Miss | None = None
    """Where the prefix cache stopped agreeing; None on a response hit, which looks nothing up there."""
    not_stored: str | None = None
    """Why this answer was not kept for the next who asks; None if it was."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token of the answer, if `Sampling.logprobs` asked for them; the end token has none.
    A token whose text a stop string cut off is among them."""
    session: SessionAccount | None = None
    """What session and entities did for it; None for a request without either, or with sessions off."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer's text, as it comes."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that came since the piece before; all pieces together have those of the answer."""
    served: Served = field(default=Served.MISS, compare=False)
    """Which tier the answer is from, as far as can be told by now; its `Answer` has the last word."""
