"""Records of entities: fetched once, kept for their TTL, and shown to those alone who may see them now."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, Final
from weakref import WeakValueDictionary

from axolotl_cache.clock import Clock
from axolotl_cache.entities import Entity
from axolotl_cache.session.provider import EntityProvider, EntityRecord, Who
from axolotl_cache.session.render import LONGEST_RECORD_CHARACTERS, digest, record_text

DEFAULT_TTL_SECONDS: Final = 300.0
_MOST_RECORDS: Final = 10_000
_RECORD_BYTES: Final = 700
"""What a record takes beside its text: its names, its digest, its place in the table."""


class Sight(StrEnum):
    """What became of an entity's record, for a request."""

    JOINED = "joined"
    NONE = "no record"
    NOT_ALLOWED = "not allowed"
    FAILED = "failed"
    NO_PROVIDER = "no provider"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one principal gets to see of an entity, now."""

    sight: Sight
    text: str = ""
    """The record as it stands in a prompt."""
    digest: str = ""
    why: str = ""
    """For people, where it failed."""
    was_cached: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    text: str
    digest: str
    fetched_at: float
    expires_at: float


class _Gate:
    """Lets one thread at a time fetch an entity's record."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@dataclass(slots=True)
class RecordStats:
    """Counters since the start."""

    asked: int = 0
    refused: int = 0
    fetched: int = 0
    reused: int = 0
    failed: int = 0


class Records:
    """Records by tenant and entity. From any thread.

    The provider is asked each time whether this principal may see the record, before anything is looked up: a
    yes is good for one request, and so is a no. Only records are kept; that there is none, and that the
    provider failed, is not.

    Args:
        provider: where they come from.
        clock: seconds since the epoch.
        plain: takes what has a meaning in prompts out of a record's text.
        dropped_at: returns when records of an entity, of all tenants, were last dropped by another process;
            None if they were not, or long ago.
        max_bytes: bound on what is kept; what was used longest ago goes. None bounds the number alone.
    """

    def __init__(
        self,
        provider: EntityProvider,
        clock: Clock,
        *,
        plain: Callable[[str], str] = lambda text: text,
        dropped_at: Callable[[str], float | None] = lambda name: None,
        max_bytes: int | None = None,
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._plain = plain
        self._dropped_at = dropped_at
        self._max_bytes = max_bytes
        self.held_bytes = 0
        """About what the records take that are kept."""
        self._kinds = frozenset(provider.kinds)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._gates: WeakValueDictionary[tuple[str, str], _Gate] = WeakValueDictionary()
        self._drops = 0
        self._dropped: set[str] = set()
        self.stats = RecordStats()

    def __len__(self) -> int:
        return len(self._known)

    def has_kind(self, entity: Entity) -> bool:
        """Return whether there are records of such entities."""
        return entity.kind in self._kinds

    def see(self, entity: Entity, who: Who) -> Seen:
        """Return the record of an entity, if they may see it now.

        Cost: the provider's `may_see`, and its `fetch` if the record is not known. Never raises: that the
        provider failed is in what is returned.
        """
        self.stats.asked += 1
        try:
            # Nothing but True: what a careless provider returns in its place is no yes.
            if self._provider.may_see(entity, who) is not True:
                self.stats.refused += 1
                return Seen(Sight.NOT_ALLOWED)
            return self._record(entity, who.tenant)
        except Exception as error:  # it is the user's own code: whatever it raises, others' requests go on
            self.stats.failed += 1
            return Seen(Sight.FAILED, why=f"{type(error).__name__}: {error}")

    def drop(self, entity: Entity) -> int:
        """Forget an entity's records, of all tenants; what is being fetched now is not kept either.

        Returns:
            How many were known.
        """
        with self._lock:
            self._drops += 1
            gone = [key for key in self._known if key[1] == entity.canonical]
            for key in gone:
                self._forget(key)
            return len(gone)

    def take_dropped(self) -> set[str]:
        """Return, once, the entities whose records turned out to be dropped by another process."""
        if not self._dropped:
            return set()
        with self._lock:
            dropped, self._dropped = self._dropped, set()
            return dropped

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._drops += 1
            self._known.clear()
            self.held_bytes = 0

    def _record(self, entity: Entity, tenant: str) -> Seen:
        key = (tenant, entity.canonical)
        with self._lock:
            gate = self._gates.setdefault(key, _Gate())
        with gate.lock:
            known = self._look_up(key)
            if known is not None:
                self.stats.reused += 1
                return Seen(Sight.JOINED, known.text, known.digest, was_cached=True)
            while True:
                drops = self._drops
                known = self._fetched(entity, tenant)
                with self._lock:
                    if drops == self._drops:  # else it may be what was to be forgotten
                        break
            if known is None:
                return Seen(Sight.NONE)
            if known.expires_at > known.fetched_at:
                self._keep(key, known)
            return Seen(Sight.JOINED, known.text, known.digest)

    def _look_up(self, key: tuple[str, str]) -> _Known | None:
        dropped_at = self._dropped_at(key[1])
        now = self._clock()
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            is_dropped = dropped_at is not None and known.fetched_at <= dropped_at
            if is_dropped or now >= known.expires_at:
                self._forget(key)
                if is_dropped:
                    self._dropped.add(key[1])
                return None
            self._known.move_to_end(key)
            return known

    def _keep(self, key: tuple[str, str], known: _Known) -> None:
        most = float("inf") if self._max_bytes is None else self._max_bytes
        with self._lock:
            if key in self._known:
                self._forget(key)
            self._known[key] = known
            self.held_bytes += _size_bytes(known)
            while len(self._known) > _MOST_RECORDS or self.held_bytes > most:
                self._forget(next(iter(self._known)))

    def _forget(self, key: tuple[str, str]) -> None:
        self.held_bytes -= _size_bytes(self._known.pop(key))

    def _fetched(self, entity: Entity, tenant: str) -> _Known | None:
        now = self._clock()  # before: its time does not begin when the source at last answers
        self.stats.fetched += 1
        found = self._provider.fetch(entity, tenant)
        if found is None:
            return None
        if not isinstance(found, EntityRecord):
            if not isinstance(found, str | Mapping):
                raise TypeError(f"fetch returned {type(found).__name__}: return a dict, a text or None")
            found = EntityRecord(found)
        text = self._plain(record_text(entity.canonical, found.content))
        if len(text) > LONGEST_RECORD_CHARACTERS:
            raise ValueError(
                f"the record has {len(text):,} characters; a prompt takes {LONGEST_RECORD_CHARACTERS:,} at "
                "most: return only what questions are about"
            )
        return _Known(text, digest(text), now, now + self._ttl_seconds(found))

    def _ttl_seconds(self, record: EntityRecord) -> float:
        given: Any = record.ttl_seconds
        if given is None:
            given = getattr(self._provider, "ttl_seconds", DEFAULT_TTL_SECONDS)
        ttl = float(given)
        if not (isfinite(ttl) and ttl >= 0):
            raise ValueError(f"ttl_seconds is {given!r}: a number of seconds from 0 on is wanted")
        return ttl


def _size_bytes(known: _Known) -> int:
    # A text takes one, two or four bytes a character, by the widest in it.
    return sys.getsizeof(known.text) + _RECORD_BYTES
