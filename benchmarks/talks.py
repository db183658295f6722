"""A conversation to be held with a model, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Talk:
    """What one person says to a help desk."""

    name: str
    """Of the session and of the principal."""
    system: str
    says: tuple[str, ...]
    """What the person says, turn by turn."""
    hears: tuple[str, ...]
    """What the desk answered then, turn by turn; empty where the model's own answers are what was said."""
