"""Sessions: one conversation each, kept until it was idle for its timeout, and found after a restart."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.clock import Clock
from axolotl_cache.entities import Extractor
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.session.conversation import Conversation
from axolotl_cache.session.session import Session, SessionName
from axolotl_cache.stores import Record, SharedStore

MOST_SESSIONS: Final = 50_000
"""Sessions kept in this process's memory, however small they are."""
CODEC: Final = "session"
_DROPPED: Final = "dropped"
_DROPPED_SECONDS: Final = 7 * 86_400.0


class Sessions:
    """The sessions of a process, the one used last at the end. From any thread.

    Args:
        timeout_seconds: a session ends that long after its last turn.
        clock: seconds since the epoch.
        store: where records outlive the process; None keeps them in memory alone.
        extractor: finds entities; None for the built-in kinds.
        max_bytes: bound on what they take in memory, their keys and values not counted, as seen at the end
            of each turn; the sessions idle longest go, and come back from a store. None is no bound.
    """

    def __init__(
        self,
        timeout_seconds: float,
        clock: Clock,
        *,
        store: SharedStore | None = None,
        extractor: Extractor | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        """About what they take in memory, their keys and values not counted."""
        self.timeout_seconds = timeout_seconds
        self._clock = clock
        self._store = store
        self._extractor = extractor
        self._lock = threading.Lock()
        self._sessions: OrderedDict[SessionName, Session] = OrderedDict()
        self._erasures = 0 if store is None else store.erasures
        self.begun = 0
        self.ended = 0
        self.expired = 0
        self.store_errors = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def use(self, name: SessionName) -> Session:
        """Return the session of this name for a turn: the one that is known, or a new one."""
        now = self._clock()
        with self._lock:
            session = self._take(name) if name in self._sessions else None
            if session is None or now - session.used_at >= self.timeout_seconds or self._is_ended(session):
                session = self._restored(name, now) or Session(
                    name, now, now, conversation=Conversation(self._extractor)
                )
                self.begun += not session.turns
            session.used_at = now
            self._sessions[name] = session
            self._count(session)
            return session

    def take_idle(self) -> list[Session]:
        """Take out the sessions whose time is over, and those above the bound; end their leases."""
        deadline = self._clock() - self.timeout_seconds
        idle: list[Session] = []
        with self._lock:
            idle += self._take_erased()
            while self._sessions:
                oldest = next(iter(self._sessions.values()))
                if oldest.used_at > deadline and not self._are_too_many():
                    break
                idle.append(self._take(oldest.name))
        self.expired += len(idle)
        return idle

    def save(self, session: Session) -> None:
        """Write a session's record, for after a restart. A store that fails is counted, and nothing more."""
        with self._lock:
            self._count(session)
        if self._store is None:
            return
        with session.lock:
            data = {
                "name": [session.name.tenant, session.name.principal, session.name.id],
                "turns": session.turns,
                "conversation": session.conversation.to_json(),
            }
        payload = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        now = self._clock()
        record = Record(payload, CODEC, now, now + self.timeout_seconds, session.name.tags)
        try:
            self._store.put(session.name.key, record, now)
        except StoreError:
            self.store_errors += 1

    def end(self, id: str, *, tenant: str | None = None, principal: str | None = None) -> list[Session]:
        """End the sessions of this id: take them out, remove their records; their leases are to be ended.

        Args:
            id: of the session.
            tenant: whose; None is anybody's.
            principal: whose; None is anybody's.

        Raises:
            StoreError: the record is still there; the sessions are out all the same.
        """
        with self._lock:
            names = [
                name
                for name in self._sessions
                if name.id == id and tenant in (None, name.tenant) and principal in (None, name.principal)
            ]
            gone = [self._take(name) for name in names]
        self.ended += len(gone)
        self._remove_stored(id, tenant, principal)
        return gone

    def erase(self, *, tag: str) -> tuple[list[Session], ErasureReport]:
        """End the sessions of an owner (as `tenant:acme`), and erase their records.

        Raises:
            ErasureError: the store could not; the sessions are out all the same.
        """
        with self._lock:
            names = [name for name in self._sessions if tag in name.tags]
            gone = [self._take(name) for name in names]
        report = ErasureReport(entries=len(gone))
        return gone, report if self._store is None else report + self._store.erase(tag)

    def drop_entity(self, name: str) -> None:
        """Leave word for other processes that the records of an entity, fetched up to now, are not good.

        Raises:
            StoreError: it could not be left.
        """
        if self._store is not None:
            now = self._clock()
            self._store.put(_drop_key(name), Record(b"", _DROPPED, now, now + _DROPPED_SECONDS), now)

    def now(self) -> float:
        """Return the time on the clock of sessions, seconds since the epoch."""
        return self._clock()

    def dropped_at(self, name: str) -> float | None:
        """Return when records of an entity were last dropped, by any process; None if never, or long ago."""
        if self._store is None:
            return None
        with suppress(StoreError):
            record = self._store.get(_drop_key(name))
            return None if record is None else record.created_at
        return None

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def __iter__(self) -> Iterator[Session]:
        """Yield the sessions, the one used longest ago first."""
        with self._lock:
            return iter(list(self._sessions.values()))

    def _take_erased(self) -> list[Session]:
        """Take out the sessions whose records were erased by another process."""
        if self._store is None:
            return []
        try:
            self._store.generation()
            if self._store.erasures == self._erasures:
                return []
            gone = [name for name in self._sessions if self._store.stamp(name.key) is None]
        except StoreError:
            self.store_errors += 1
            return []
        self._erasures = self._store.erasures
        return [self._take(name) for name in gone]

    def _are_too_many(self) -> bool:
        is_large = self.max_bytes is not None and self.held_bytes > self.max_bytes
        return is_large or len(self._sessions) > MOST_SESSIONS

    def _take(self, name: SessionName) -> Session:
        """Take a session out. With the lock."""
        session = self._sessions.pop(name)
        self.held_bytes -= session.counted_bytes
        session.counted_bytes = 0
        return session

    def _count(self, session: Session) -> None:
        """Count what a session takes now, if it is still one of these. With the lock."""
        if self._sessions.get(session.name) is session:
            now_bytes = session.held_bytes  # once: a turn of it may be reading its messages
            self.held_bytes += now_bytes - session.counted_bytes
            session.counted_bytes = now_bytes

    def _is_ended(self, session: Session) -> bool:
        """Return whether another process has ended it since, by removing its record."""
        if self._store is None:
            return False
        removed_at = None
        with suppress(StoreError):
            removed_at = self._store.removed_at(session.name.key)
        return removed_at is not None and removed_at >= session.begun_at

    def _remove_stored(self, id: str, tenant: str | None, principal: str | None) -> None:
        if self._store is None:
            return
        now = self._clock()
        if tenant is not None and principal is not None:
            self._store.remove(now, keys=[SessionName(tenant, principal, id).key])
            return
        is_anybodys = tenant is None and principal is None
        for key in () if is_anybodys else self._store.keys(tag=f"session:{id}"):
            name = self._name_of(key)
            is_theirs = name is not None and name.id == id
            if name and is_theirs and tenant in (None, name.tenant) and principal in (None, name.principal):
                self._store.remove(now, keys=[key])
        if is_anybodys:
            self._store.remove(now, tag=f"session:{id}")

    def _name_of(self, key: str) -> SessionName | None:
        if self._store is None:
            return None
        record = self._store.get(key)
        data = None if record is None or record.codec != CODEC else _loads(record.payload)
        try:
            return None if data is None else SessionName(*map(str, data["name"]))
        except (KeyError, TypeError):
            return None

    def _restored(self, name: SessionName, now: float) -> Session | None:
        if self._store is None:
            return None
        try:
            record = self._store.get(name.key)
        except StoreError:
            self.store_errors += 1
            return None
        if record is None or record.codec != CODEC or not record.is_live(now):
            return None
        data = _loads(record.payload)
        try:
            if data is None or data["name"] != [name.tenant, name.principal, name.id]:
                return None
            conversation = Conversation.from_json(data["conversation"], self._extractor)
            return Session(name, now, now, int(data["turns"]), conversation)
        except (KeyError, TypeError, ValueError, AttributeError):  # of a version with other records
            return None


def _drop_key(name: str) -> str:
    return blake2b(name.encode(), digest_size=16, person=b"axc-drop").hexdigest()


def _loads(payload: bytes) -> Any:
    try:
        data = json.loads(payload)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None
