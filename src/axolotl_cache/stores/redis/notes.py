"""Announcements of removals: every machine reads them, those that were away as soon as they are back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
from redis import exceptions

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.client import PASSING
from axolotl_cache.stores.redis.commands import Commands
from axolotl_cache.stores.redis.space import Space

MOST_NOTES: Final = 10_000
_BLOCK_MS: Final = 100
"""Short, so that closing need not wait long for a read under way; ten of these a second are nothing."""
_JOIN_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.1
_BEGIN: Final = "0-0"
_ADD: Final = f"return redis.call('XADD', KEYS[1], 'MAXLEN', '~', '{MOST_NOTES}', '*', 'note', ARGV[1])"


@dataclass(frozen=True, slots=True)
class Note:
    """Something was removed, and nobody may serve it any more."""

    sender: str
    """Which cache object said it: its own notes are not news to it."""
    scope: str
    at: float
    """Seconds since the epoch, by the sender's clock."""
    keys: tuple[str, ...] | None = None
    """With an encryption key these are sealed, and so is the tag."""
    tag: str | None = None
    created_before: float | None = None
    is_erasure: bool = False
    """Of all scopes, and nothing of it is to be left anywhere."""

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes) -> Note | None:
        """Undo `to_json`; None if it is of a later version."""
        try:
            told = json.loads(text)
            told["keys"] = None if told["keys"] is None else tuple(told["keys"])
            return cls(**told)
        except (ValueError, TypeError, KeyError):
            return None


class Notes:
    """A stream on the servers, read by a thread of its own.

    Args:
        commands: the way to the servers.
        space: returns the names of keys, once the servers are known.
        on_note: told of each note of others.
        on_gap: told when notes were missed for good: whatever they named is not known.
        on_lost: told when the servers have lost their notes, so that ours may be news again.
        on_turn: called in its thread several times a second while the servers are there.
        position: of the last note that was read in an earlier life; None: this is the first.
    """

    def __init__(
        self,
        commands: Commands,
        space: Callable[[], Space],
        *,
        on_note: Callable[[Note], None],
        on_gap: Callable[[], None],
        on_lost: Callable[[], None],
        on_turn: Callable[[], None],
        position: str | None,
    ) -> None:
        self._commands = commands
        self._space = space
        self._on_note = on_note
        self._on_gap = on_gap
        self._on_lost = on_lost
        self._on_turn = on_turn
        self.position = position
        self.caught_up = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-notes", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def announce(self, note: Note) -> None:
        """Tell everybody.

        Raises:
            StoreError: it could not be done in time.
        """
        self._commands.script(_ADD, [self._space().notes()], [note.to_json()], acknowledge=True)

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (*PASSING, exceptions.RedisError, StoreError):
                self.caught_up.clear()
                self._closed.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        """Read from one primary until it is none any more."""
        link = self._commands.link
        layout = self._commands.layout()
        stream = self._space().notes()
        host = layout.primary(stream)
        with link.new_client(host, timeout_seconds=2.0) as client:
            self._find_place(client, stream)
            while self._read(client, stream, block=False):
                pass
            self.caught_up.set()
            while not self._closed.is_set():
                now = link.layout
                if now is None or now.primary(stream) != host:
                    return
                self._on_turn()
                self._read(client, stream, block=True)

    def _find_place(self, client: redis.Redis, stream: bytes) -> None:
        answers: Any = client
        first = [_text(each[0]) for each in answers.xrange(stream, count=1)]
        last = [_text(each[0]) for each in answers.xrevrange(stream, count=1)]
        if self.position is None:
            self.position = last[0] if last else _BEGIN
        elif self.position != _BEGIN and (not last or _order(last[0]) < _order(self.position)):
            self.position = _BEGIN
            self._on_lost()
        elif first and _order(first[0]) > _order(self.position) and answers.xlen(stream) >= 0.9 * MOST_NOTES:
            self._on_gap()

    def _read(self, client: redis.Redis, stream: bytes, *, block: bool) -> bool:
        answers: Any = client
        wait: dict[str, int] = {"block": _BLOCK_MS} if block else {}
        found = answers.xread({stream: self.position}, count=1000, **wait)
        if not found:
            return False
        for identity, fields in found[0][1]:
            note = Note.from_json(fields.get(b"note", b""))
            if note is not None:
                self._on_note(note)
            self.position = _text(identity)
        return True


def _order(identity: str) -> tuple[int, int]:
    milliseconds, _, number = identity.partition("-")
    return int(milliseconds), int(number or 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
