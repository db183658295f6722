"""What a replica holds, in the numbers that routers know: asked of the prefix tree, and bounded."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from axolotl_cache.ray_serve.ticket import Ticket

MOST_TOLD: Final = 8192
"""Numbers in a report, 8 bytes each: prompts of half a million tokens."""
_MOST_PROMPTS: Final = 512
_MOST_CONVERSATIONS: Final = 1024
_MOST_CUT: Final = 32
"""Prompts that one report cuts into tokens, some milliseconds each; others wait for the next."""

Share = Callable[[], float]
"""The part of a prompt's tokens that the tree has now, 0 to 1."""


@dataclass(slots=True)
class _Prompt:
    chunks: Sequence[int]
    begin: Callable[[], Share]
    share: Share | None = None


class Holdings:
    """Remembers the last prompts, and asks what is left of each. Every method may be called from any thread.

    Args:
        most_told: numbers in a report.
        most_prompts: remembered.
    """

    def __init__(self, *, most_told: int = MOST_TOLD, most_prompts: int = _MOST_PROMPTS) -> None:
        self._most_told = most_told
        self._most_prompts = most_prompts
        self._lock = threading.Lock()
        self._prompts: OrderedDict[int, _Prompt] = OrderedDict()
        self._conversations: OrderedDict[int, None] = OrderedDict()

    def note(self, ticket: Ticket, begin: Callable[[], Share]) -> None:
        """Remember a prompt that was served.

        Args:
            ticket: its numbers.
            begin: cuts it into tokens, and returns what asks the tree for them; called later, once.
        """
        with self._lock:
            if ticket.chunks:
                name = ticket.chunks[-1]
                known = self._prompts.pop(name) if name in self._prompts else _Prompt(ticket.chunks, begin)
                self._prompts[name] = known
                while len(self._prompts) > self._most_prompts:
                    self._prompts.popitem(last=False)
            if ticket.conversation is not None:
                self._conversations.pop(ticket.conversation, None)
                self._conversations[ticket.conversation] = None
                while len(self._conversations) > _MOST_CONVERSATIONS:
                    self._conversations.popitem(last=False)

    def told(self) -> bytes:
        """Return what is held now, newest prompts first, 8 bytes a number, as `read_told` reads it.

        Cost: cuts at most some 32 prompts into tokens, and walks the tree once for each prompt.
        """
        with self._lock:
            prompts = list(reversed(self._prompts.values()))
            numbers = dict.fromkeys(reversed(self._conversations))
        cut = 0
        for prompt in prompts:
            if prompt.share is None and cut < _MOST_CUT:
                prompt.share = prompt.begin()
                cut += 1
            share = 1.0 if prompt.share is None else prompt.share()
            for chunk in prompt.chunks[: int(share * len(prompt.chunks) + 1e-9)]:
                numbers[chunk] = None
            if len(numbers) >= self._most_told:
                break
        return array("Q", list(numbers)[: self._most_told]).tobytes()


def read_told(told: bytes) -> array[int]:
    """Return the numbers of a report."""
    numbers = array("Q")
    numbers.frombytes(told)
    return numbers
