"""What checks found, on disk: lines that are only ever added, so that all processes and restarts agree.

A line names the partition and the item by digests, and holds no text. Checks older than 30 days are not read:
the claim that is tested begins anew (see `Audit`).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Final

from axolotl_cache.clock import Clock
from axolotl_cache.errors import StoreError

FILE_NAME: Final = "semantic_checks"
DAYS: Final = 30
"""For how long a check counts."""
_MOST_BYTES: Final = 4_000_000
"""Size from which a file is written anew with the lines that still count."""
_LINE: Final = re.compile(rb"check1 (\d+) ([0-9a-f]{32}) ([0-9a-f]{32}|-) ([hn]) ([01]\.\d{4}) ([01])\n")
_UNKNOWN: Final = b"-"


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of a stored answer with a fresh one."""

    partition: str
    """Digest of its name."""
    item: str
    """Digest of the key; "-" if it was erased."""
    is_hit: bool
    """Whether it was a hit, drawn to be checked; else one that was near, and was computed anyway."""
    probability: float
    """That the calibration gave, without the item's own offset."""
    right: bool


class CheckLog:
    """The lines, read as they come.

    Args:
        path: of the file; None keeps nothing.
        secret: keys the digests; with nothing, whoever guesses a prompt can recognise it.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path | None, secret: bytes, clock: Clock) -> None:
        self._path = path
        self._secret = secret
        self._clock = clock
        self._lock = Lock()
        self._at: tuple[int, int] = (0, 0)

    def digest(self, name: str) -> str:
        """Return what stands for a partition or a key."""
        return blake2b(name.encode(), key=self._secret, digest_size=16, person=b"axc-check").hexdigest()

    def add(self, check: Check) -> bool:
        """Add one, and return whether `new` will tell of it: not without a file.

        It is there for all, `kill -9` or not, when this returns; a power failure may undo it.

        Raises:
            StoreError: the file can't be written.
        """
        if self._path is None:
            return False
        kind = "h" if check.is_hit else "n"
        line = f"check1 {self._day()} {check.partition} {check.item} {kind} {check.probability:.4f} "
        try:
            with _Locked(self._path) as file:
                os.write(file, f"{line}{int(check.right)}\n".encode())
                if os.fstat(file).st_size > _MOST_BYTES:
                    self._write_anew(file, forget_items=False)
        except OSError as error:
            raise StoreError(f"{self._path} can't be written ({error}): a check is lost") from error
        return True

    def new(self) -> tuple[bool, list[Check]]:
        """Return what was added since the last time, by anyone; True if that is all there is, from the start.

        Raises:
            StoreError: the file can't be read.
        """
        if self._path is None:
            return False, []
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    inode, read = self._at
                    anew = inode != status.st_ino or status.st_size < read
                    if not anew and status.st_size == read:
                        return False, []
                    start = 0 if anew else read
                    file.seek(start)
                    found = file.read()
            except FileNotFoundError:
                return False, []
            except OSError as error:
                raise StoreError(f"{self._path} can't be read ({error})") from error
            whole = found[: found.rfind(b"\n") + 1]
            self._at = (status.st_ino, start + len(whole))
        return anew, list(self._read(whole))

    def forget_items(self) -> None:
        """Take away what tells which entries were checked; what their partitions came to stays.

        Raises:
            StoreError: the file can't be written anew.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            with _Locked(self._path) as file:
                self._write_anew(file, forget_items=True)
        except OSError as error:
            raise StoreError(f"{self._path} can't be written ({error})") from error

    def _read(self, lines: bytes) -> Iterator[Check]:
        first = self._day() - DAYS
        for day, partition, item, kind, probability, right in _LINE.findall(lines):
            if int(day) >= first:
                yield Check(
                    partition.decode(), item.decode(), kind == b"h", float(probability), right == b"1"
                )

    def _write_anew(self, file: int, *, forget_items: bool) -> None:
        """Put another file in this one's place, with the lines that still count. Holds the file's lock."""
        if self._path is None:
            return
        first, kept = self._day() - DAYS, []
        for match in _LINE.finditer(os.pread(file, os.fstat(file).st_size, 0)):
            if int(match[1]) < first or (forget_items and match[4] == b"n"):
                continue
            item = match[3]
            kept.append(match[0].replace(b" %b " % item, b" %b " % _UNKNOWN) if forget_items else match[0])
        draft = self._path.with_name(f"{self._path.name}.new")
        new = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = b"".join(kept)
            while rest:
                rest = rest[os.write(new, rest) :]
            os.fsync(new)
        finally:
            os.close(new)
        draft.replace(self._path)

    def _day(self) -> int:
        return int(self._clock() // 86_400)


class _Locked:
    """The file, open and locked, and the one that has the name: another process may have written it anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> int:
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                if os.stat(self._path).st_ino == os.fstat(self._file).st_ino:
                    return self._file
            except FileNotFoundError:
                pass
            os.close(self._file)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
