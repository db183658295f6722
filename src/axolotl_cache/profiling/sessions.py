"""Conversations: named by the log, or recognised because one prompt goes on where another ended."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from axolotl_cache.profiling.blocks import Blocks, digest
from axolotl_cache.profiling.record import Record

_OPEN_SESSIONS: Final = 100_000
_GAPS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Sessions:
    """What conversations look like."""

    sessions: int
    """Conversations of at least two turns."""
    turns: int
    """Requests in them."""
    longest_turns: int
    by_turns: dict[str, int]
    """How many conversations have 1, 2, 3-4, 5-9, 10+ turns."""
    median_gap_seconds: float | None
    """From one turn to the next; None without times."""
    p95_gap_seconds: float | None
    are_named: bool
    """Whether the log names them. Otherwise a prompt that begins with all of an earlier one continues it."""


class SessionCounter:
    """Follows conversations; those idle longest are forgotten when there are too many."""

    def __init__(self) -> None:
        self._turns: OrderedDict[int, tuple[int, float | None, int]] = OrderedDict()
        """By name or last block: turns so far, when the last was, and the last block."""
        self._done = Counter[int]()
        self._gaps: list[float] = []
        self._gaps_seen = 0
        self._named = 0

    def see(self, record: Record, blocks: Blocks) -> None:
        """Count a request as the turn that it is."""
        if record.session:
            self._named += 1
            name = digest(f"{record.tenant}\0{record.session}".encode())
            self._turn(self._turns.pop(name, None), name, record)
        elif blocks.asked:
            before, turns = None, self._turns
            for block in reversed(blocks.ids):
                if block in turns:
                    before = turns.pop(block)
                    break
            # The last whole block names all before it: who has it goes on from here.
            self._turn(before, blocks.ids[-1], record)
        else:
            self._done[1] += 1

    def _turn(self, before: tuple[int, float | None, int] | None, name: int, record: Record) -> None:
        turns, last, _ = before or (0, None, 0)
        replaced = self._turns.pop(name, None)
        if replaced:
            self._done[replaced[0]] += 1
        at = record.arrived_seconds
        if at is not None and last is not None and at >= last:
            self._gap(at - last)
        self._turns[name] = (turns + 1, at, name)
        if len(self._turns) > _OPEN_SESSIONS:
            self._done[self._turns.popitem(last=False)[1][0]] += 1

    def _gap(self, seconds: float) -> None:
        self._gaps_seen += 1
        if len(self._gaps) < _GAPS:
            self._gaps.append(seconds)
        else:  # the oldest makes way: the last 50,000 gaps
            self._gaps[self._gaps_seen % _GAPS] = seconds

    def result(self) -> Sessions:
        """Return what was seen."""
        done = self._done + Counter(turns for turns, _, _ in self._turns.values())
        gaps = sorted(self._gaps)
        several = {turns: count for turns, count in done.items() if turns > 1}
        return Sessions(
            sessions=sum(several.values()),
            turns=sum(turns * count for turns, count in several.items()),
            longest_turns=max(done, default=0),
            by_turns={
                label: sum(count for turns, count in done.items() if low <= turns <= high)
                for label, low, high in _CLASSES
            },
            median_gap_seconds=gaps[len(gaps) // 2] if gaps else None,
            p95_gap_seconds=gaps[int(len(gaps) * 0.95)] if gaps else None,
            are_named=self._named > 0,
        )


_CLASSES: Final = (("1", 1, 1), ("2", 2, 2), ("3-4", 3, 4), ("5-9", 5, 9), ("10+", 10, 10**12))
