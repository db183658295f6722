"""What an engine counts while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Counters since the start."""

    steps: int = 0
    prefill_tokens: int = 0
    """Prompt tokens that went through the model; padding is not counted."""
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    """Tokens that were computed on the chance that they are what comes next."""
    right_drafted_tokens: int = 0
    """Those of them that were; each is also one of `decode_tokens`."""
    loaded_tokens: int = 0
    """Tokens whose keys and values came from a lower tier."""
