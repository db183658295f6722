"""The engines that `engine.py` compares with, each behind the same few methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workloads import Conversation, TokenRequest


@dataclass(frozen=True, slots=True)
class Served:
    """How one request went. Times are seconds from the start of its workload."""

    tokens: list[int]
    first_token_seconds: float
    end_seconds: float
    computed_tokens: int | None = None
    """Prompt tokens that went through the model; None if the side does not tell."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a workload went."""

    requests: Sequence[TokenRequest]
    served: Sequence[Served]

    @property
    def seconds(self) -> float:
        """From the first arrival to the end of the last answer."""
        return max(s.end_seconds for s in self.served) - min(r.at_seconds for r in self.requests)

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(s.tokens) for s in self.served)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens over seconds, the prefill of every prefix included."""
        return self.output_tokens / self.seconds

    @property
    def computed_tokens(self) -> int | None:
        """Prompt tokens that went through the model; None if the side does not tell."""
        computed = [s.computed_tokens for s in self.served if s.computed_tokens is not None]
        return sum(computed) if len(computed) == len(self.served) else None

    @property
    def ttft_seconds(self) -> list[float]:
        """From each request's arrival to its first token, waiting included."""
        pairs = zip(self.requests, self.served, strict=True)
        return [s.first_token_seconds - r.at_seconds for r, s in pairs]


class Side(Protocol):
    """An engine with its settings."""

    name: str
    settings: str
    """What was chosen for it, in words."""
    reuses: bool
    """Whether a prompt is spared what another one has computed."""

    def forget(self, coming: Sequence[TokenRequest] = ()) -> None:
        """Drop whatever could be reused, so that the next workload starts cold.

        Args:
            coming: what is served next, for a side that can be set up for it; empty if nobody knows yet.
        """

    def serve(self, requests: Sequence[TokenRequest]) -> list[Served]:
        """Serve the requests as they arrive, in order; return how each went."""

    def close(self) -> None:
        """Give everything back."""


class Stopwatch:
    """Seconds since a workload's start."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._started

    def wait_until(self, seconds: float) -> None:
        """Sleep until then, or not at all."""
        remaining = seconds - self.seconds()
        if remaining > 0:
            time.sleep(remaining)


def run(side: Side, requests: Sequence[TokenRequest]) -> Run:
    """Serve a workload, and see that every answer has its length.

    Raises:
        RuntimeError: a side stopped early or ran on; its time would be of other work.
    """
    served = side.serve(requests)
    for request, answer in zip(requests, served, strict=True):
        if len(answer.tokens) != request.new_tokens:
            raise RuntimeError(f"{side.name}: {len(answer.tokens)} tokens, not {request.new_tokens}")
    return Run(requests, served)


def converse(side: Side, conversations: Sequence[Conversation]) -> list[Run]:
    """Hold conversations, all at their n-th turn at the same time; return a run for each turn.

    Each side goes on from its own answers: their words differ, their lengths do not.
    """
    histories = [list(c.system) for c in conversations]
    runs = []
    for number in range(len(conversations[0].turns)):
        requests = []
        for history, conversation in zip(histories, conversations, strict=True):
            history.extend(conversation.turns[number])
            requests.append(TokenRequest(list(history), conversation.new_tokens))
        runs.append(run(side, requests))
        for history, answer in zip(histories, runs[-1].served, strict=True):
            history.extend(answer.tokens)
    return runs
