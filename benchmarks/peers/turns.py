"""Sides taking turns at a workload, so that a busy machine tells on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from common import say
from peers import Run, Side, converse, run
from workloads import Conversation, TokenRequest


@dataclass(frozen=True, slots=True)
class Entry:
    """A side, and how much of a workload it is given."""

    side: Side
    rounds: int
    most_requests: int | None = None
    """Of a slow side; its time is scaled to all of them. None gives it all."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What alternating came to."""

    rates: dict[str, list[float]]
    """Output tokens per second of each side in each of its rounds."""
    rows: list[dict[str, Any]]

    def ratio(self, side: str, other: str) -> float:
        """Return the median over the rounds that both have of one side's rate over the other's."""
        return median(a / b for a, b in zip(self.rates[side], self.rates[other], strict=False))

    def best(self, sides: Sequence[str]) -> str:
        """Return the side with the highest median rate."""
        return max(sides, key=lambda name: median(self.rates[name]))


def alternate(name: str, entries: Sequence[Entry], requests: Sequence[TokenRequest]) -> Compared:
    """Serve a workload by every side in turns, each round from a cold start."""
    runs: dict[str, list[Run]] = {entry.side.name: [] for entry in entries}
    for entry, number in _order(entries):
        given = thinned(requests, entry.most_requests)
        entry.side.forget(given)
        runs[entry.side.name].append(run(entry.side, given))
        rate = scaled_rate(entry.side, runs[entry.side.name][-1], requests)
        say(f"  {name}, round {number + 1}: {entry.side.name} {rate:.1f} tokens/s")
    rates = {e.side.name: [scaled_rate(e.side, r, requests) for r in runs[e.side.name]] for e in entries}
    rows = [_row(name, e, runs[e.side.name], rates[e.side.name], len(requests)) for e in entries]
    return Compared(rates, rows)


def _order(entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Return whose turn it is, there and back, so that nobody always follows the same side."""
    rounds = max(entry.rounds for entry in entries)
    turns = [(entry, r) for r in range(rounds) for entry in (reversed(entries) if r % 2 else entries)]
    return [(entry, number) for entry, number in turns if number < entry.rounds]


def thinned(requests: Sequence[TokenRequest], most: int | None) -> list[TokenRequest]:
    """Return at most `most` requests, spread over all of them, as close in time as all of them are."""
    if most is None or len(requests) <= most:
        return list(requests)
    step = len(requests) / most
    picked = [requests[int(number * step)] for number in range(most)]
    return [replace(request, at_seconds=request.at_seconds / step) for request in picked]


def scaled_rate(side: Side, served: Run, requests: Sequence[TokenRequest]) -> float:
    """Return output tokens per second, as if the side had served all requests.

    What comes before a reusing side's first token, above all the shared prefix, is not scaled: it would be
    paid once. Everything else grows with the output tokens.
    """
    tokens = sum(request.new_tokens for request in requests)
    head = min(served.ttft_seconds[0], served.seconds) if side.reuses else 0.0
    return tokens / (head + (served.seconds - head) * tokens / served.output_tokens)


def _row(
    workload: str, entry: Entry, runs: Sequence[Run], rates: Sequence[float], requests: int
) -> dict[str, Any]:
    served = len(runs[0].served)
    row = {
        "part": "throughput",
        "workload": workload,
        "side": entry.side.name,
        "settings": entry.side.settings,
        "requests": served,
        "tokens_per_second": median(rates),
        "tokens_per_second_rounds": list(rates),
        "ttft_median_ms": median(median(r.ttft_seconds) for r in runs) * 1e3,
        "prompt_tokens": sum(len(request.tokens) for request in runs[0].requests),
        "computed_tokens": runs[-1].computed_tokens,
    }
    if served < requests:
        row["scaled_to_requests"] = requests
    return row


def hold(name: str, entries: Sequence[Entry], conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    """Hold conversations with every side in turns; return a row for each side and turn."""
    held: dict[str, list[list[Run]]] = {entry.side.name: [] for entry in entries}
    for entry, _ in _order(entries):
        entry.side.forget()
        held[entry.side.name].append(converse(entry.side, conversations))
    rows = []
    for entry in entries:
        rounds = held[entry.side.name]
        for turn, runs in enumerate(zip(*rounds, strict=True), 1):
            rows.append(
                {
                    "part": "turns",
                    "workload": name,
                    "side": entry.side.name,
                    "settings": entry.side.settings,
                    "turn": turn,
                    "rounds": len(rounds),
                    "prompt_tokens": sum(len(request.tokens) for request in runs[0].requests),
                    "computed_tokens": runs[-1].computed_tokens,
                    "ttft_median_ms": median(median(r.ttft_seconds) for r in runs) * 1e3,
                    "tokens_per_second": median(r.tokens_per_second for r in runs),
                }
            )
    return rows


def quickest(
    candidates: Sequence[Callable[[], Side]], requests: Sequence[TokenRequest]
) -> tuple[Side, list[dict[str, Any]]]:
    """Try a side's settings once each; return the side with the best, and a row for each.

    Args:
        candidates: each makes the side with some settings.
        requests: what is served; the first of them once before, to warm up.
    """
    rows = []
    best: Side | None = None
    best_rate = 0.0
    for make in candidates:
        side = make()
        side.forget(requests)
        run(side, requests[:1])
        side.forget(requests)
        rate = run(side, requests).tokens_per_second
        rows.append(
            {"part": "choice", "side": side.name, "settings": side.settings, "tokens_per_second": rate}
        )
        say(f"  {side.name}, {side.settings}: {rate:.1f} tokens/s")
        worse = side
        if rate > best_rate:
            worse, best, best_rate = best, side, rate
        if worse is not None:
            worse.close()
    if best is None:
        raise ValueError("there is nothing to choose from")
    return best, rows
