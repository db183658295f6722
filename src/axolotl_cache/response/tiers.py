"""Records in memory and, if asked for, on disk: what is current, what was promised, and what has gone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock, RLock
from typing import Any, TypeVar

from axolotl_cache.budget import Ghosts
from axolotl_cache.clock import Clock
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.response.accounts import Savings
from axolotl_cache.response.departures import Departures
from axolotl_cache.response.lifetime import STEP
from axolotl_cache.response.promises import Promises
from axolotl_cache.response.results import CacheStats
from axolotl_cache.response.tenants import TenantShares
from axolotl_cache.stores import Departure, MemoryStore, Record, SharedStore, StoreWarning

V = TypeVar("V")
Watcher = Callable[[Iterable[str] | None, bool], None]
"""Told the keys that went, None being any of them, and whether that was on purpose. Called with locks held,
so that it must be quick and must not ask the cache."""

PROMISE_SECONDS = 5.0
"""How long, at the least, what `contains` reported is there for the `get` that follows."""
_WARN_EVERY_SECONDS = 60.0


class Tiers:
    """Memory in front of a disk that other processes may change; or memory alone.

    Two locks. `_changing` is held while the disk is read or written, so that memory and disk take changes in
    one order. `_lock`, only ever taken inside it and only for moments, guards everything in memory, the
    memory store included. A hit in memory takes `_lock` alone, and so does not wait for another thread's
    write to disk; the first one after another process's commit asks the disk, and may wait.
    """

    def __init__(self, memory: MemoryStore, disk: SharedStore | None, clock: Clock, savings: Savings) -> None:
        self._memory = memory
        self._disk = disk
        self._clock = clock
        self._changing = RLock()
        self._lock = Lock()
        self._promises = Promises(PROMISE_SECONDS)
        self._departures = Departures()
        self.savings = savings
        self._generation = 0
        self._erasures = 0 if disk is None else disk.erasures
        # Keys whose copy in memory is known to be what the disk has, as of `_generation`.
        self._checked: set[str] = set()
        # Keys whose row on disk is out of date, because the disk refused to change it, and since when: a
        # later row is another process's, and stays.
        self._unsaved: dict[str, float] = {}
        self._memory_hits = self._disk_hits = self._misses = self._coalesced = self._sets = 0
        self._expirations = self._evictions = self._invalidations = self._store_errors = 0
        self._too_large = 0
        self._warned_at: float | None = None
        self._closed = False
        self._watchers: list[Watcher] = []
        self._tenants = TenantShares(memory, disk)
        self.watch(lambda keys, on_purpose: self._tenants.forget(keys))

    @property
    def is_persistent(self) -> bool:
        """Whether there is a disk behind memory."""
        return self._disk is not None

    # Sharing memory

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries in memory."""
        return self._memory.size_bytes

    @property
    def ghosts(self) -> Ghosts:
        """What memory had to evict; remembered from the first time that somebody asks."""
        with self._lock:
            if self._memory.ghosts is None:
                self._memory.ghosts = Ghosts()
            return self._memory.ghosts

    def resize(self, max_bytes: int) -> int:
        """Hold at most so many bytes in memory from now on; the disk keeps what it has. Returns them."""
        now = self._clock()
        with self._changing, self._lock:
            self._memory.max_bytes = max_bytes
            departed = self._memory.shrink(now)
            if self._disk is None:
                self._note_departed(departed, now)
        return max_bytes

    def bound_tenants(self, bound_of: Callable[[str], int | None]) -> None:
        """Ask for the most bytes that a tenant may hold, each time that one stores something."""
        self._tenants.bound_of = bound_of

    def tenant_bytes(self, tenant: str) -> int:
        """Return what a tenant holds, as far as it is known here. Callable from any thread."""
        return self._tenants.held_bytes(tenant)

    # Reading

    def contains(self, key: str) -> bool:
        """Whether there is something to serve; if so, promise it to the `serve` that follows."""
        now = self._clock()
        generation = self._disk_generation()
        with self._lock:
            record = self._current(key, now, generation)
            if record is not None:
                self._promises.give(key, record, now)
                return True
        return self._find(key, now, promise=True) is not None

    def serve(self, key: str, *, promised: bool, max_age_seconds: float | None = None) -> Record | None:
        """Return what to serve, and count one hit or miss.

        Args:
            key: what to look for.
            promised: whether a promise of `contains` counts.
            max_age_seconds: an older record is a miss.
        """
        now = self._clock()
        generation = self._disk_generation()
        if max_age_seconds is None:
            with self._lock:
                record = self._current(key, now, generation)
                if record is not None:
                    self._memory_hits += 1
                    self._memory.touch(key)
                    if self._disk is not None:
                        self._disk.touch(key)
            if record is not None:
                if record.cost or record.sliding_seconds is not None:
                    return self._served(key, record, now)
                return record
        copy = self._memory.get(key)
        record = self._find(key, now)
        with self._lock:
            if record is None and promised:
                record = copy = self._promises.kept(key, now)
            if record is None or (max_age_seconds is not None and now - record.created_at > max_age_seconds):
                self._misses += 1
                if self._memory.ghosts is not None:
                    self._memory.ghosts.missed(key)
                return None
            if record is copy:
                self._memory_hits += 1
            else:
                self._disk_hits += 1
            self._memory.touch(key)
            if self._disk is not None:
                self._disk.touch(key)
        return self._served(key, record, now)

    def peek(self, key: str) -> Record | None:
        """Return what could be served; changes no count, no recency, no promise."""
        return self._find(key, self._clock())

    def explain_missing(self, key: str) -> str | None:
        """Return why there is nothing to serve, or None if there is."""
        now = self._clock()
        if self._find(key, now) is not None:
            return None
        with self._lock:
            return self._departures.explain(key, now) or "never seen, or gone too long ago to be remembered"

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return the keys of what can be served, all or with a tag, in the order in which it would go."""
        now = self._clock()
        with self._changing:
            self._purge(now)
            with self._lock:
                in_memory = self._memory.keys(tag=tag)
            if self._disk is None:
                return in_memory
            on_disk: list[str] = self._ask_disk(lambda disk: disk.keys(tag=tag), [])
            saved = [key for key in on_disk if key not in self._unsaved]
            return saved + [key for key in in_memory if key in self._unsaved]

    def __len__(self) -> int:
        now = self._clock()
        with self._changing:
            self._purge(now)
            return len(self.keys()) if self._unsaved else self._ask_disk(len, len(self._memory))

    def stats(self) -> CacheStats:
        """Return all counts. Cost: 10 us."""
        with self._changing:
            entries = len(self)
            stored_bytes = self._ask_disk(lambda disk: disk.size_bytes, self._memory.size_bytes)
            with self._lock:
                return CacheStats(
                    memory_hits=self._memory_hits,
                    disk_hits=self._disk_hits,
                    misses=self._misses,
                    coalesced=self._coalesced,
                    sets=self._sets,
                    expirations=self._expirations,
                    evictions=self._evictions,
                    invalidations=self._invalidations,
                    damaged=0 if self._disk is None else self._disk.damaged,
                    store_errors=self._store_errors,
                    entries=entries,
                    stored_bytes=stored_bytes,
                    memory_bytes=self._memory.size_bytes,
                    too_large=self._too_large,
                )

    def generation(self) -> int:
        """Return a number that is another one once some other process has changed what is stored."""
        return self._disk_generation()

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of every entry that goes, here or, once it is noticed, by another process."""
        self._watchers.append(watcher)

    # Changing

    def keep(self, key: str, record: Record) -> bool:
        """Store `record`, and return whether it is: not if it has expired, or is too large by itself.

        A disk that refuses is reported, and memory has it all the same.
        """
        _must_be_key(key)
        now = record.created_at
        if not record.is_live(now):
            _, trouble = self._remove(key=key)
            if trouble is not None:
                self.report(trouble)
            return False
        trouble = None
        with self._changing:
            self._must_be_open()
            departed: list[Departure] = []
            generation = 0
            if not self._make_room(key, record, now):
                return False
            if self._disk is not None:
                try:
                    # Before the row is written: a foreign change from here on leaves the key unchecked.
                    generation = self._disk.generation()
                    self._heed_erasures(self._disk)
                    departed = self._disk.put(key, record, now)
                    self._unsaved.pop(key, None)
                except StoreError as error:
                    trouble, generation = error, self._generation
            with self._lock:
                forgotten = self._memory.put(key, record, now)
                self._note_checked(key, generation)
                self._sets += 1
                if self._tenants.is_on and Departure(key, "too large") not in forgotten:
                    self._tenants.note(key, record)
                self._promises.replace(key, record, now)
                self._departures.forget(key)
                self._note_departed(forgotten if self._disk is None else departed, now)
            if trouble is not None:
                self._note_unsaved([key], now)
            else:
                # After memory has it: what memory has no room for need not go to disk, and can't evict it.
                trouble = self._catch_up(now)
        if trouble is not None:
            self.report(trouble)
        return Departure(key, "too large") not in (*forgotten, *departed)  # on disk it can be larger

    def remove(
        self, *, key: str | None = None, tag: str | None = None, older_than_seconds: float | None = None
    ) -> int:
        """Remove on purpose what meets every condition given, promises included; everything with none.

        Raises:
            StoreError: the disk refused; memory let go of it all the same.
        """
        count, trouble = self._remove(key=key, tag=tag, older_than_seconds=older_than_seconds)
        if trouble is not None:
            with self._lock:
                self._store_errors += 1
            raise trouble
        return count

    def erase(self, tag: str) -> ErasureReport:
        """Erase what has the tag, of all scopes, in memory and every file; see `SharedStore.erase`.

        With a disk, memory lets go of everything else, too, and reads it from there when it is wanted.

        Raises:
            ErasureError: the disk refused; memory let go of it all the same.
        """
        now = self._clock()
        with self._changing:
            self._must_be_open()
            if self._disk is None:
                with self._lock:
                    before = self._memory.size_bytes
                    gone = self._memory.remove(now, tag=tag)
                    self._promises.withdraw(tag=tag)
                    self._departures.clear()
                    self._tell_watchers(None, on_purpose=True)
                    self._invalidations += len(gone)
                    report = ErasureReport(len(gone), 0, before - self._memory.size_bytes)
                self.savings.add_up()
                return report
            self._catch_up(now)  # what only memory has of others goes to disk before memory is emptied
            try:
                report = self._disk.erase(tag)
            except StoreError:
                with self._lock:
                    self._store_errors += 1
                raise
            finally:
                self._let_go(self._disk)
            with self._lock:
                self._invalidations += report.entries
            return report

    def count_coalesced(self) -> None:
        """Count a miss that another caller's computation answered."""
        with self._lock:
            self._coalesced += 1

    def report(self, error: StoreError) -> None:
        """Count what the disk refused, and say so, once a minute at most."""
        with self._lock:
            self._store_errors += 1
            now = time.monotonic()
            if self._warned_at is not None and now < self._warned_at + _WARN_EVERY_SECONDS:
                return
            self._warned_at = now
        warnings.warn(f"the response cache goes on in memory: {error}", StoreWarning, stacklevel=4)

    def close(self) -> None:
        """Close the disk and let go of what is in memory."""
        with self._changing:
            if not self._closed:
                self._catch_up(self._clock())
            with self._lock:
                self._closed = True
                self._memory.close()
                self._promises.withdraw()
                self._checked.clear()
            if self._disk is not None:
                self._disk.close()

    def forget_after_fork(self) -> None:
        """In a forked child: no other thread is there to give a lock back."""
        self._changing = RLock()
        self._lock = Lock()
        self.savings.forget_after_fork()

    def _served(self, key: str, record: Record, now: float) -> Record:
        if record.cost:
            self.savings.note(record.cost)
        return record if record.sliding_seconds is None else self._slide(key, record, now)

    # Inside: holding `_lock`

    def _current(self, key: str, now: float, generation: int) -> Record | None:
        """Return the copy in memory if it may be served as it is."""
        if generation > self._generation:
            self._generation = generation
            self._checked = set()
        record = self._memory.get(key)
        if record is None or (record.expires_at is not None and now >= record.expires_at):
            return None
        if self._disk is not None and key not in self._checked:
            return None
        return record

    def _note_checked(self, key: str, generation: int) -> None:
        """The copy in memory is what the disk had at `generation`; if that is old, nothing is known."""
        if self._disk is None:
            return
        if generation > self._generation:
            self._generation = generation
            self._checked = set()
        if generation == self._generation:
            self._checked.add(key)
            if len(self._checked) > 2 * self._memory.capacity:
                self._checked.intersection_update(self._memory.keys())

    def _tell_watchers(self, keys: Iterable[str] | None, *, on_purpose: bool = False) -> None:
        for watcher in self._watchers:
            watcher(keys, on_purpose)

    def _note_departed(self, departed: Sequence[Departure], now: float) -> None:
        if departed:
            self._tell_watchers([key for key, _ in departed])
        for key, reason in departed:
            self._forget(key)
            self._departures.note(key, reason, now)
            if reason == "expired":
                self._expirations += 1
            elif reason == "evicted":
                self._evictions += 1
            else:
                self._too_large += 1
                self._promises.withdraw(key=key)

    def _forget(self, key: str) -> None:
        version = self._memory.version(key)
        if version is not None:
            self._memory.discard(key, version)

    # Inside: holding neither, or `_changing`

    def _make_room(self, key: str, record: Record, now: float) -> bool:
        """Have tenants lose what they hold above their share. Holds `_changing`.

        Returns:
            False if the record by itself is beyond its tenant's bound.
        """
        try:
            if not self._tenants.concern(record, now):
                return True
        except StoreError:
            return True  # the write that follows will say what is wrong
        if not self._tenants.fits(key, record):
            self._let_go_of(Departure(key, "too large"), now)
            return False
        with self._lock:
            going = list(self._tenants.in_the_way(key, record))
        for gone in going:
            self._let_go_of(Departure(gone, "evicted"), now)
        return True

    def _let_go_of(self, departure: Departure, now: float) -> None:
        if self._disk is not None and departure.key not in self._unsaved:
            with suppress(StoreError):  # a row that stays goes by the policy, or when its time is up
                version = self._disk.version(departure.key)
                if version is not None:
                    self._disk.discard(departure.key, version)
        with self._lock:
            self._note_departed([departure], now)

    def _remove(
        self, *, key: str | None = None, tag: str | None = None, older_than_seconds: float | None = None
    ) -> tuple[int, StoreError | None]:
        """Do as `remove`, and return what the disk refused instead of raising it."""
        now = self._clock()
        created_before = None if older_than_seconds is None else now - older_than_seconds
        keys = None if key is None else [key]
        trouble: StoreError | None = None
        late: StoreError | None = None
        with self._changing:
            self._purge(now)
            gone: set[str] = set()
            if self._disk is not None:
                try:
                    removed = self._disk.remove(now, keys=keys, tag=tag, created_before=created_before)
                    gone.update(each for each in removed if each not in self._unsaved)
                except StoreError as error:
                    trouble = error
            with self._lock:
                dropped = self._memory.remove(now, keys=keys, tag=tag, created_before=created_before)
                # A copy of what the disk does not have any more was removed before, by another process.
                gone.update(each for each in dropped if self._disk is None or each in self._unsaved)
                self._promises.withdraw(key=key, tag=tag, created_before=created_before)
                for each in gone:
                    self._forget(each)
                    self._promises.withdraw(key=each)
                    self._departures.note(each, "invalidated", now)
                if self._watchers:
                    self._tell_watchers({*gone, *dropped, *(keys or ())}, on_purpose=True)
                self._invalidations += len(gone)
            if trouble is not None:
                # Here, at least, what is known by name is not served from the row that stayed.
                self._note_unsaved(dropped if key is None else [key], now)
            else:
                late = self._catch_up(now)
        if late is not None:
            self.report(late)
        return len(gone), trouble

    def _disk_generation(self) -> int:
        if self._disk is None:
            return 0
        try:
            generation = self._disk.generation()
            if self._disk.erasures != self._erasures:
                self._let_go(self._disk)
            return generation
        except StoreError as error:
            self._must_be_open()
            self.report(error)
            return self._generation

    def _heed_erasures(self, disk: SharedStore) -> None:
        if disk.erasures != self._erasures:
            self._let_go(disk)

    def _let_go(self, disk: SharedStore) -> None:
        """Empty the memory: something was erased, and what it was nobody may know any more.

        Keys that the disk refused to change stay noted, so that their rows are still not served.
        """
        with self._changing, self._lock:
            self._erasures = disk.erasures
            self._memory.close()
            self._promises.withdraw()
            self._departures.clear()
            self._checked.clear()
            self._tell_watchers(None, on_purpose=True)
        self.savings.add_up()

    def _find(self, key: str, now: float, *, promise: bool = False) -> Record | None:
        """Return the live record from wherever it is, or None; drop it if it has expired."""
        _must_be_key(key)
        trouble: StoreError | None = None
        record: Record | None = None
        with self._changing:
            self._must_be_open()
            try:
                record = self._load(key, now)
                if record is not None and not record.is_live(now):
                    self._drop_expired(key, record)
                    record = None
            except StoreError as error:
                trouble, record = error, None
            if record is not None and promise:
                with self._lock:
                    self._promises.give(key, record, now)
        if trouble is not None:
            self.report(trouble)
        return record

    def _load(self, key: str, now: float) -> Record | None:
        """Return what is stored now, expired or not. Holds `_changing`."""
        disk = self._disk
        if disk is None or key in self._unsaved:
            return self._memory.get(key)
        generation = disk.generation()
        self._heed_erasures(disk)
        copy = self._memory.get(key)
        if copy is not None:
            # Another process may have moved the date of a sliding one: then it is read, and checked, anew.
            if disk.stamp(key) == (copy.version, copy.expires_at):
                with self._lock:
                    self._note_checked(key, generation)
                return copy
            with self._lock:
                self._forget(key)
        record = disk.get(key)
        if record is not None:
            with self._lock:
                self._memory.put(key, record, now)
                self._note_checked(key, generation)
                self._promises.replace(key, record, now)
            return record
        removed_at = disk.removed_at(key)
        with self._lock:
            if removed_at is not None:  # on purpose, by some process: that undoes a promise
                self._promises.withdraw(key=key)
            self._tell_watchers([key], on_purpose=removed_at is not None)
            if copy is not None:
                if removed_at is None:
                    self._departures.note(key, "lost", now)
                else:
                    self._departures.note(key, "removed", removed_at)
        return None

    def _slide(self, key: str, record: Record, now: float) -> Record:
        """Let a record that was used expire that much later; return it as it is then."""
        window, expires_at = record.sliding_seconds, record.expires_at
        if window is None or expires_at is None or not record.is_live(now):
            return record  # one that was promised, and has expired since, stays so
        later = now + window
        if later - expires_at < STEP * window:
            return record
        trouble: StoreError | None = None
        with self._changing:
            with self._lock:
                self._memory.postpone(key, record, later)
            if self._disk is not None and key not in self._unsaved and not self._closed:
                try:
                    self._disk.postpone(key, record, later)
                except StoreError as error:
                    trouble = error
        if trouble is not None:
            self.report(trouble)
        return replace(record, expires_at=later)

    def _note_unsaved(self, keys: Iterable[str], at: float) -> None:
        """The disk refused at `at` to change these. Holds `_changing`."""
        self._unsaved.update(dict.fromkeys(keys, at))
        if self._disk is not None and len(self._unsaved) > 4 * self._memory.capacity:
            # A key with neither a row nor a copy has nothing stale to hide, and nothing to save. A disk that
            # can't be asked leaves all of them in doubt.
            with suppress(StoreError):
                somewhere = {*self._disk.keys(), *self._memory.keys()}
                self._unsaved = {key: since for key, since in self._unsaved.items() if key in somewhere}

    def _catch_up(self, now: float) -> StoreError | None:
        """Change on disk what it refused to change before; return what it refuses now. Holds `_changing`."""
        if self._disk is None:
            return None
        for key, refused_at in list(self._unsaved.items()):
            try:
                departed: list[Departure] = []
                row = self._disk.get(key)
                if row and row.created_at <= refused_at and self._disk.discard(key, row.version):
                    row = None
                removed_at = self._disk.removed_at(key)
                overtaken = row is not None or (removed_at is not None and removed_at > refused_at)
                copy = self._memory.get(key)
                if not overtaken and copy is not None and copy.is_live(now):
                    departed = self._disk.put(key, copy, now)
            except StoreError as error:
                # To the end, so that one value too large for the disk does not keep all others waiting.
                self._unsaved[key] = self._unsaved.pop(key)
                return error
            del self._unsaved[key]
            with self._lock:
                if overtaken:  # another process stored or removed it later: the copy is out of date
                    self._forget(key)
                self._note_departed(departed, now)
        return None

    def _drop_expired(self, key: str, record: Record) -> None:
        with self._lock:
            self._forget(key)
            self._expirations += 1
            self._departures.note(key, "expired", record.expires_at or 0.0)
            self._tell_watchers([key])
        if self._disk is not None and key not in self._unsaved:
            self._disk.discard(key, record.version)

    def _purge(self, now: float) -> None:
        """Remove everything expired, here and on disk. Holds `_changing`."""
        self._must_be_open()

        def expire(disk: SharedStore) -> list[str]:
            disk.generation()
            self._heed_erasures(disk)
            return disk.expire(now)

        on_disk: list[str] = self._ask_disk(expire, [])
        with self._lock:
            expired = {key for key in on_disk if key not in self._unsaved}
            for key in expired:
                self._forget(key)
            expired.update(self._memory.expire(now))
            self._expirations += len(expired)
            for key in expired:
                self._departures.note(key, "expired", now)
            if expired:
                self._tell_watchers(expired)

    def _ask_disk(self, question: Callable[[Any], V], otherwise: V) -> V:
        if self._disk is None:
            return otherwise
        try:
            return question(self._disk)
        except StoreError as error:
            self.report(error)
            return otherwise

    def _must_be_open(self) -> None:
        if self._closed:
            raise StoreError(
                "this cache is closed: make another one; its persistence_path holds what was stored"
            )


def _must_be_key(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, as generate_key makes it, not {type(key).__name__}")
