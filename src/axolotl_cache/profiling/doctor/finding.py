"""What the doctor finds, and the causes that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Symptom(StrEnum):
    """What is wrong, as a user sees it."""

    LOW_HIT_RATE = "low hit rate"
    MEMORY_HIGH = "memory high"
    INCONSISTENT_ANSWERS = "inconsistent answers"


class Cause(StrEnum):
    """Why. The values are what `--json` prints, and stay as they are."""

    CLOCK = "clock-in-prompt"
    REQUEST_ID = "id-in-prompt"
    USER_FIRST = "user-before-stable-part"
    TEXT_FIRST = "text-before-stable-part"
    TOOL_ORDER = "tool-order"
    PART_ORDER = "part-order"
    TEMPLATE = "template-changed"
    BLANKS = "blanks"
    MAX_TOKENS = "max-tokens-differ"
    SEEDS = "seeds-differ"
    UNSEEDED = "sampling-without-seed"
    TTL = "ttl-too-short"
    CAPACITY = "capacity-too-small"
    NAMESPACE = "namespace-changed"
    MEMORY_PRESSURE = "memory-pressure"
    MEMORY_FULL = "memory-full"
    UNEXPLAINED = "answers-differ"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause."""

    symptom: Symptom
    cause: Cause
    title: str
    evidence: tuple[str, ...]
    fix: str
    gain_requests: float = 0.0
    """Share of all requests that the response cache would answer in addition, from 0 to 1."""
    gain_tokens: float = 0.0
    """Share of all prompt tokens that need not be computed in addition, from 0 to 1."""

    @property
    def gain(self) -> str:
        """The gain for people."""
        parts = []
        if self.gain_requests:
            parts.append(f"+{100 * self.gain_requests:.1f} points of the requests from the response cache")
        if self.gain_tokens:
            parts.append(f"+{100 * self.gain_tokens:.1f} points of the prompt tokens from the prefix cache")
        return ", ".join(parts)
