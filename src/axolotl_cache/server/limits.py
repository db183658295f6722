"""What the server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server."""

    most_running: int = 32
    """Choices that are computed at once; the engine's batch."""
    most_waiting: int = 256
    """Requests that wait for it; a further one gets a 429."""
    deadline_seconds: float = 600.0
    """From a request's arrival to its last byte; OpenAI's clients wait as long."""
    most_body_bytes: int = 8 * 2**20
    grace_seconds: float = 30.0
    """How long what runs may go on when the server is told to stop."""
