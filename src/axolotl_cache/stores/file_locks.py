"""Locks between processes, on single bytes of one file: a process that dies, however, frees its own."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import Lock

OPENING = 0
"""The byte that is held while a database is opened; those of names come after it."""

# Open-file-description locks belong to the descriptor, so that two caches in one process exclude each other,
# and closing another descriptor of the file does not drop them.
_LOCK = fcntl.F_OFD_SETLK
_LOCK_WAIT = fcntl.F_OFD_SETLKW


def offset_of(name: str) -> int:
    """Return the byte that stands for `name`, the same in every process. Cost: 1 us."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + (int.from_bytes(digest) >> 2)


class FileLocks:
    """Exclusive locks on single bytes of one file. The file stays empty, whatever the offset.

    Between processes, and between objects of this class; one object asking twice for a byte is let in
    twice, so its own threads must have agreed beforehand who asks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._opening = Lock()

    @contextmanager
    def held(self, offset: int) -> Iterator[None]:
        """Hold one byte, waiting for as long as another process holds it."""
        self.acquire(offset)
        try:
            yield
        finally:
            self.release(offset)

    def acquire(self, offset: int) -> None:
        """Take one byte, waiting for as long as another process holds it."""
        self._set(_LOCK_WAIT, fcntl.F_WRLCK, offset)

    def try_acquire(self, offset: int) -> bool:
        """Take one byte if nobody holds it; never waits."""
        try:
            self._set(_LOCK, fcntl.F_WRLCK, offset)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self, offset: int) -> None:
        """Free one byte; one that is not held is fine."""
        if self._fd is not None:
            self._set(_LOCK, fcntl.F_UNLCK, offset)

    def close(self) -> None:
        """Close the file, which frees everything held through it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        self.close()

    def forget_after_fork(self) -> None:
        """In a forked child: let go of the parent's descriptor.

        The two share it, so that a lock of the parent's would outlive the parent in the child. Closing
        one copy frees nothing.
        """
        self._opening = Lock()
        self.close()

    def _set(self, command: int, kind: int, offset: int) -> None:
        if self._fd is None:
            with self._opening:
                if self._fd is None:
                    self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Linux's struct flock: type, whence, start, length, pid (0, as open-file-description locks demand)
        fcntl.fcntl(self._fd, command, struct.pack("hhqqi0q", kind, os.SEEK_SET, offset, 1, 0))
