"""Equal requests of several threads, computed once."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing
from typing import Final

from axolotl_cache.request import Answer, Delta

READER_SECONDS: Final = 2.0
"""How long in all an answer may wait for its reader while an equal request waits for it."""


class Computing:
    """An answer on its way, and how long its reader has let it lie."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        self.is_for_one = False
        """Whether the answer came to its end and was not stored: then the next one will not be, either."""
        self._unread_seconds = 0.0
        self._handed_out_at: float | None = None

    def handed_out(
        self, parts: Generator[Delta | Answer, None, None]
    ) -> Generator[Delta | Answer, None, None]:
        """Yield the parts, and note how long each is with the reader."""
        with closing(parts):
            for part in parts:
                self.is_for_one = isinstance(part, Answer) and part.not_stored is not None
                since = self._handed_out_at = time.monotonic()
                yield part
                self._handed_out_at = None
                self._unread_seconds += time.monotonic() - since

    def wait(self) -> bool:
        """Wait until it has ended; return False once its reader has kept the caller waiting for too long."""
        until = self._unread() + READER_SECONDS
        while (left := until - self._unread()) > 0:
            if self.done.wait(left):
                return True
        return False

    def _unread(self) -> float:
        since = self._handed_out_at
        return self._unread_seconds + (0.0 if since is None else time.monotonic() - since)


class EqualRequests:
    """Lets equal requests of several threads be computed once: the others wait until the answer is stored.

    A slow reader holds up nobody else: of those that have waited for it too long, one computes the answer
    again, and the rest wait for that one. Where an answer turns out to be one that is not stored, all that
    waited for it compute their own, at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._computing: dict[str, Computing] = {}

    def begin(self, key: str, mine: Computing) -> bool:
        """Return True if the caller is to compute `key`, and must `end` it; False if it is to look again.

        Waits for another that computes it, but not if that is of this thread, which may be reading two
        streams in turns.
        """
        with self._lock:
            other = self._computing.setdefault(key, mine)
        if other.thread == mine.thread:
            return True
        if other.wait():
            # Those who waited in vain do not wait for one another.
            return other.is_for_one
        with self._lock:
            if self._computing.get(key) is not other:
                return False
            self._computing[key] = mine
            return True

    def end(self, key: str, mine: Computing) -> None:
        """Let those who wait for `mine` look again: for the answer, or to compute it themselves."""
        with self._lock:
            if self._computing.get(key) is mine:
                del self._computing[key]
        mine.done.set()
