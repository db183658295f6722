"""What is asked and what is answered: the words that every tier shares. Nothing here does any work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


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
    """What the client says about caching, after RFC 9111, section 5.2.1."""

    no_cache: bool = False
    """Compute the answer anew, and store it."""
    no_store: bool = False
    """Do not store this answer."""
    max_age_seconds: float | None = None
    """Serve no answer older than this."""
    ttl_seconds: float | None = None
    """How long this answer may be served; wins over `ttl_rules` and `entry_timeout`."""
    sampled: bool = False
    """Serve and store an answer that was sampled without a seed, though asking again might give another."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a conversation or a plain prompt, and how to answer it."""

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    """A prompt that is already rendered; the chat template is not applied. Either this or `messages`."""
    sampling: Sampling = Sampling()
    cache_control: CacheControl = CacheControl()
    tenant: str = ""
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
    saved_seconds: float = 0.0
    """Time that computing would have taken, less what this took; known for response hits."""
    response_miss: Miss | None = None
    """Why the response cache did not serve; None if it did, or if it is off."""
    prefix_miss: Miss | None = None
    """Where the prefix cache stopped agreeing; None on a response hit, which looks nothing up there."""
    not_stored: str | None = None
    """Why this answer was not kept for the next who asks; None if it was."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token of the answer, if `Sampling.logprobs` asked for them; the end token has none.
    A token whose text a stop string cut off is among them."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer's text, as it comes."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that came since the piece before; all pieces together have those of the answer."""
