"""Answers that were reported as wrong: remembered, so that the same one is never stored again.

The memory is a file of its own beside the cache, to which lines are only ever added: it outlives the entry, a
change of the database's format, and `kill -9`. It holds digests, and no text.
"""

from __future__ import annotations

import fcntl
import os
import re
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Final

from axolotl_cache.errors import StoreError
from axolotl_cache.response import codec

FILE_NAME: Final = "reported_wrong"

_LINE: Final = re.compile(rb"wrong1 ([0-9a-f]{64}) ([0-9a-f]{32})\n")
"""Version, digest of namespace and key, digest of the answer. Found behind a cut-off line as well."""

_ABOUT_STORING: Final = frozenset({"asked", "ttl_why"})
_ABOUT_THE_CALL: Final = frozenset({"created", "id", "service_tier", "system_fingerprint", "usage"})


def answer_digest(value: Any) -> str:
    """Return 32 hexadecimal digits that are equal for equal answers.

    What says how an answer came about is no part of it: in the pipeline's values what decided its TTL and
    which question it answers, and in OpenAI's shape (`choices`) the id, the date and `usage`. Other values
    count as a whole.

    Raises:
        TypeError: the value can't be cached.
    """
    if type(value) is dict:
        if type(value.get("text")) is str and "finish_reason" in value:
            value = {name: part for name, part in value.items() if name not in _ABOUT_STORING}
        elif type(value.get("choices")) is list:
            value = {name: part for name, part in value.items() if name not in _ABOUT_THE_CALL}
    kind, payload = codec.encode(value)
    return blake2b(kind.encode() + b":" + payload, digest_size=16, person=b"axc-wrong").hexdigest()


class WrongAnswers:
    """The answers of one namespace that were reported as wrong, by any process that shares the folder.

    Args:
        folder: where the cache keeps its files; None remembers in memory alone.
        scope: stands for the namespace.
        secret: keys the digests, up to 64 bytes; with nothing, whoever guesses an answer can recognise it.
    """

    def __init__(self, folder: Path | None, scope: bytes, secret: bytes = b"") -> None:
        self._file = None if folder is None else folder / FILE_NAME
        self._scope = scope
        self._secret = secret
        self._known: dict[str, set[str]] = {}
        self._read_bytes = 0
        self.refused = 0
        """Times that an answer was not stored because it had been reported."""
        self._lock = Lock()

    def add(self, key: str, value: Any) -> None:
        """Remember that `value` is wrong for `key`, for all processes.

        Raises:
            StoreError: the file can't be written; it is remembered in this process all the same.
        """
        name, digest = self._name(key), self._digest(value)
        with self._lock:
            self._known.setdefault(name, set()).add(digest)
            if self._file is None:
                return
            try:
                _append(self._file, f"wrong1 {name} {digest}\n".encode())
            except OSError as error:
                raise StoreError(f"{self._file} can't be written ({error}): the report is lost") from error

    def refuses(self, key: str, value: Any) -> bool:
        """Whether this very answer was reported as wrong for `key`, and so must not be stored; counts it.

        Cost: a `stat` of the file; digesting the value only if something was reported for the key.

        Raises:
            StoreError: the file is there and can't be read.
        """
        with self._lock:
            self._read_new()
            if not self._known:
                return False
            known = self._known.get(self._name(key)) if isinstance(key, str) else None
        if not known or self._digest(value) not in known:
            return False
        with self._lock:
            self.refused += 1
        return True

    def forget_after_fork(self) -> None:
        """In a forked child: no other thread is there to give the lock back."""
        self._lock = Lock()

    def _name(self, key: str) -> str:
        digest = blake2b(self._scope, key=self._secret, digest_size=32, person=b"axc-wrong-key")
        digest.update(b"%d:" % len(self._scope))
        digest.update(key.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _digest(self, value: Any) -> str:
        digest = answer_digest(value)
        return (
            blake2b(digest.encode(), key=self._secret, digest_size=16).hexdigest() if self._secret else digest
        )

    def _read_new(self) -> None:
        """Take in what was added to the file since the last time. Holds the lock."""
        if self._file is None:
            return
        try:
            size = os.stat(self._file).st_size
            if size == self._read_bytes:
                return
            with self._file.open("rb") as file:
                file.seek(self._read_bytes if size > self._read_bytes else 0)
                start, new = file.tell(), file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self._file} can't be read ({error})") from error
        whole = new[: new.rfind(b"\n") + 1]  # a line that is being written is read the next time
        self._read_bytes = start + len(whole)
        for name, digest in _LINE.findall(whole):
            self._known.setdefault(name.decode(), set()).add(digest.decode())


def _append(path: Path, line: bytes) -> None:
    """Add a line that is there, whole, when this returns, whatever other processes add."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
