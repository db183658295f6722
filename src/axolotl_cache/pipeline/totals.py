"""What a run came to: the figures of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from axolotl_cache.request import Answer, Served


@dataclass(slots=True)
class Kept:
    """Answers that were stored for one reason."""

    count: int = 0
    seconds: float = 0.0
    """All their TTLs together, those that are for ever left out."""
    for_ever: int = 0

    @property
    def mean_ttl_seconds(self) -> float | None:
        """Mean of the TTLs that have an end; None if none has."""
        ending = self.count - self.for_ever
        return self.seconds / ending if ending else None


@dataclass(slots=True)
class Totals:
    """What a run came to."""

    requests: int = 0
    served: Counter[Served] = field(default_factory=Counter)
    prompt_tokens: int = 0
    stored_tokens: int = 0
    """Prompt tokens of the answers that came from the response cache."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""
    completion_tokens: int = 0
    response_saved_seconds: float = 0.0
    """What the stored answers took to compute, less what serving them took."""
    prefix_saved_seconds: float = 0.0
    """Reused prompt tokens, at the prefill speed measured in this run: an estimate."""
    saved_tokens: int = 0
    """Tokens of prompts and answers that were not computed, by either cache."""
    saved_money: Decimal | None = None
    """By either cache, at the prices given; None without any."""
    currency: str = ""
    kept: dict[tuple[str, str], Kept] = field(default_factory=dict)
    """What was stored, by (kind, what decided its TTL)."""
    session_turns: int = 0
    """Requests with a session."""
    record_tokens: int = 0
    """Prompt tokens of entities' records, in answers that were computed."""
    record_cached_tokens: int = 0
    not_stored: Counter[str] = field(default_factory=Counter)
    """What was not, by reason; answers that never came to their end included."""

    def count(self, answer: Answer) -> None:
        """Add one answer."""
        self.requests += 1
        self.served[answer.served] += 1
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens
        if answer.served.is_stored:
            self.stored_tokens += answer.usage.prompt_tokens
            self.response_saved_seconds += answer.saved.seconds
        else:
            self.cached_tokens += answer.usage.cached_tokens
            self.prefix_saved_seconds += answer.saved.seconds
            self._count_stored(answer)
        if answer.session is not None:
            self.session_turns += answer.session.turn > 0
            self.record_tokens += sum(use.tokens for use in answer.session.entities)
            self.record_cached_tokens += sum(use.cached_tokens for use in answer.session.entities)
        self.saved_tokens += answer.saved.tokens
        if answer.saved.money is not None:
            self.saved_money = (self.saved_money or Decimal(0)) + answer.saved.money
            self.currency = answer.saved.currency

    def _count_stored(self, answer: Answer) -> None:
        if answer.not_stored:
            self.not_stored[answer.not_stored] += 1
        elif answer.ttl is not None:
            kept = self.kept.setdefault((answer.ttl.kind, answer.ttl.why), Kept())
            kept.count += 1
            kept.seconds += answer.ttl.ttl_seconds or 0.0
            kept.for_ever += answer.ttl.ttl_seconds is None
