"""Prompts that come again: to the letter, or nearly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from axolotl_cache.language.volatile import masked
from axolotl_cache.profiling.blocks import Blocks, digest
from axolotl_cache.profiling.counting import FrequentItems
from axolotl_cache.profiling.record import Record

_HELD: Final = 300_000
_SHOWN: Final = 10
_EXAMPLE_CHARACTERS: Final = 120
_LONGEST_COMPARED: Final = 2_000
"""Characters of a question; longer ones are not rewritten by people."""
_NOT_WORDS: Final = re.compile(r"[^\w<>]+")


@dataclass(frozen=True, slots=True)
class Repeat:
    """A prompt that was asked more than once."""

    requests: int
    example: str
    """How its last question begins; empty if the log has no text."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """What a response cache without bounds would see."""

    requests: int
    exact: int
    """Requests whose prompt was asked before, to the letter."""
    unrepeatable: int
    """Of these, sampled without a seed, so that a stored answer may not stand in."""
    near: int
    """Requests whose question differs from all before only in case, spaces, punctuation, dates or ids."""
    same_words: int
    """Further requests whose question has the same words as one before, in another order."""
    most_frequent: tuple[Repeat, ...]
    counts_may_miss: int
    """How much a count may be too small, because rare prompts were forgotten to bound the memory."""


class RepeatCounter:
    """Counts prompts by digest, and questions in simpler and simpler forms."""

    def __init__(self) -> None:
        self._exact: FrequentItems[str] = FrequentItems(_HELD)
        self._near: FrequentItems[None] = FrequentItems(_HELD)
        self._words: FrequentItems[None] = FrequentItems(_HELD)
        self._counts = [0, 0, 0, 0, 0]
        self._system = ("", "")

    def see(self, record: Record, blocks: Blocks) -> None:
        """Count a request."""
        self._counts[0] += 1
        if not blocks.key:
            return
        question = record.question if record.has_text else ""
        again = self._exact.add(blocks.key, lambda: question[:_EXAMPLE_CHARACTERS]) > 1
        if again:
            self._counts[1] += 1
            self._counts[2] += not record.is_repeatable
        if not question or len(question) > _LONGEST_COMPARED:
            return
        words = _NOT_WORDS.sub(" ", masked(question).casefold()).split()
        before = self._before(record)
        near = self._near.add(_key(before, words), _nothing) > 1
        same_words = self._words.add(_key(before, sorted(set(words))), _nothing) > 1
        if not again:
            self._counts[3] += near
            self._counts[4] += same_words and not near

    def _before(self, record: Record) -> str:
        """Return what stands in front of the question: it is part of it."""
        system = record.system
        if system != self._system[0]:  # masking is slow, and most requests have the system prompt of the last
            self._system = (system, masked(system))
        others = [text for role, text in record.messages if role not in {"system", "developer"}]
        history = "\0".join(others[:-1] if others and others[-1] is record.question else others)
        return f"{record.tenant}\0{self._system[1]}\0{history if record.messages else ''}"

    def result(self) -> Repeats:
        """Return what was seen."""
        requests, exact, unrepeatable, near, same_words = self._counts
        several = sorted(((count, note) for _, count, note in self._exact if count > 1), key=lambda e: -e[0])
        return Repeats(
            requests,
            exact,
            unrepeatable,
            near,
            same_words,
            tuple(Repeat(count, note) for count, note in several[:_SHOWN]),
            self._exact.missed,
        )


def _nothing() -> None:
    """There is nothing to note."""


def _key(before: str, words: list[str]) -> int:
    return digest("\0".join((before, *words)).encode("utf-8", "surrogatepass"))
