"""A word of memory that processes share: whoever commits a change leaves a new number in it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from axolotl_cache.stores.base import new_version


class ChangeMark:
    """A 64-bit number in a mapped file, and another one for erasures.

    Reading it costs 0.04 us where asking SQLite costs 3 us and waits for whoever is writing. It is a hint
    that something was committed: the numbers are random, so that no two writers leave the same one and a
    reader that compares with the last it saw can't mistake a new one for an old one, whatever the order
    in which writers come. A writer that dies between its commit and its mark leaves none; so readers ask
    SQLite itself once a second as well.
    """

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Not just made longer: writing into a hole, once the disk is full, would kill the process.
            os.posix_fallocate(fd, 0, mmap.PAGESIZE)
            # Never unmapped by hand: threads read without a lock, and the memory goes with the object.
            self._words = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
        finally:
            os.close(fd)

    def read(self) -> int:
        """Return the number that the last writer left."""
        return self._words[0]

    def change(self) -> int:
        """Leave a new number, and return it."""
        mark = new_version()
        self._words[0] = mark
        return mark

    def erasure(self) -> int:
        """Return the number that the last erasure left; 0 if there was none."""
        return self._words[1]

    def note_erasure(self) -> None:
        """Leave a new number for an erasure, and then the one that has readers look at it."""
        self._words[1] = new_version()
        self.change()
