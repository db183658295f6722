"""Conversations: named by the log, or recognised because one prompt goes on where another ended."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
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
    """Whether the log names them. Otherwise a prompt that begins with all of an earlier one, and has more,
    goes on with it."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A conversation that may go on."""

    turns: int
    last_seconds: float | None
    tokens: int
    """Of the last prompt."""
    answer_tokens: int
    """Of its answer; 0 if the log does not say."""

    def is_behind(self, blocks: Blocks, *, is_longer: bool) -> bool:
        """Return whether a prompt that begins like the last one can be the next.

        Args:
            blocks: of the prompt.
            is_longer: whether it has more whole blocks. Otherwise it must have room for the answer.
        """
        more = blocks.tokens - self.tokens
        return more > 0 if is_longer else 0 < self.answer_tokens < more


class SessionCounter:
    """Follows conversations; those idle longest are forgotten when there are too many.

    Without names, a prompt goes on where another ended if it has all of that one's messages and more. Of a
    prompt that is one text, or hashes, only whole blocks can be compared. There, many prompts end in the same
    block where they share a long beginning and differ in little behind it, and that is no conversation's end.
    So a block in which one ended that another went on from is none any more.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, _Open] = OrderedDict()
        """By name, by digest of the messages, or by last block."""
        self._shared: OrderedDict[int, None] = OrderedDict()
        """Blocks that no conversation's end is told by."""
        self._done = Counter[int]()
        self._gaps: list[float] = []
        self._gaps_seen = 0
        self._named = 0

    def see(self, record: Record, blocks: Blocks) -> None:
        """Count a request as the turn that it is."""
        if record.session:
            self._named += 1
            name = digest(f"{record.tenant}\0{record.session}".encode())
            self._turn(self._open.pop(name, None), name, record, blocks)
        elif record.messages:
            names = _names(record)
            before = next((name for name in reversed(names[:-1]) if name in self._open), None)
            known = None if before is None else self._open.pop(before)
            self._turn(known, names[-1], record, blocks)
        elif blocks.asked:
            self._by_blocks(record, blocks)
        else:
            self._done[1] += 1

    def _by_blocks(self, record: Record, blocks: Blocks) -> None:
        end = blocks.ids[-1]
        found = next((block for block in reversed(blocks.ids) if block in self._open), None)
        before = None
        if found is not None:
            before = self._open.pop(found)
            self._shared[found] = None
            if len(self._shared) > _OPEN_SESSIONS:
                self._shared.popitem(last=False)
            if not before.is_behind(blocks, is_longer=found != end):
                self._done[before.turns] += 1
                before = None
        if end in self._shared:
            self._done[1 if before is None else before.turns + 1] += 1
        else:
            self._turn(before, end, record, blocks)

    def _turn(self, before: _Open | None, name: int, record: Record, blocks: Blocks) -> None:
        turns, last = (before.turns, before.last_seconds) if before else (0, None)
        replaced = self._open.pop(name, None)
        if replaced:
            self._done[replaced.turns] += 1
        at = record.arrived_seconds
        if at is not None and last is not None and at >= last:
            self._gap(at - last)
        self._open[name] = _Open(turns + 1, at, blocks.tokens, record.completion_tokens or 0)
        if len(self._open) > _OPEN_SESSIONS:
            self._done[self._open.popitem(last=False)[1].turns] += 1

    def _gap(self, seconds: float) -> None:
        self._gaps_seen += 1
        if len(self._gaps) < _GAPS:
            self._gaps.append(seconds)
        else:  # the oldest makes way: the last 50,000 gaps
            self._gaps[self._gaps_seen % _GAPS] = seconds

    def result(self) -> Sessions:
        """Return what was seen."""
        done = self._done + Counter(each.turns for each in self._open.values())
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


def _names(record: Record) -> list[int]:
    """Return a digest of the messages up to each, in whose conversation they are."""
    names = []
    state = blake2b(f"{record.tenant}\0{record.model}".encode("utf-8", "surrogatepass"), digest_size=8)
    for role, text in record.messages:
        said = text.encode("utf-8", "surrogatepass")
        state.update(f"\0{role}\0{len(said)}\0".encode("utf-8", "surrogatepass") + said)
        names.append(int.from_bytes(state.copy().digest(), "little"))
    return names
