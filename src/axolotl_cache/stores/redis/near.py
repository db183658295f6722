"""A machine's own store in front of the one that all machines share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from axolotl_cache.clock import Clock
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import ErasureError, StoreError
from axolotl_cache.stores.base import Departure, Record, SharedStore, Stamp
from axolotl_cache.stores.redis.lease import Leases
from axolotl_cache.stores.redis.news import News
from axolotl_cache.stores.redis.remote import Remote
from axolotl_cache.stores.redis.removals import Removal, Removals
from axolotl_cache.stores.redis.stats import LinkReport, RemoteStats
from axolotl_cache.stores.redis.store import RedisStore
from axolotl_cache.stores.redis.writer import Writer

_MOST_TRUSTED: Final = 100_000
_CLOSE_SECONDS: Final = 5.0


class NearStore:
    """Records of this machine, in memory or on its disk, in front of those that all machines share.

    What is asked for and not here is looked for there, once, for the time of one lookup at the most; when
    the servers fail, not at all until they are well. What is stored here goes there in the background. What
    others change or remove is not served from here any more within a second, for as long as the servers are
    reached; what was missed meanwhile is made up for when they are again.

    Bounds, order and counts are those of the near side.

    Args:
        near: this machine's; its own from now on.
        far: the one that is shared; its own from now on.
        clock: seconds since the epoch.
        folder: where it keeps how far it has read the announcements; None where nothing is kept on disk.
        max_pending_bytes: bound on what waits to be written to the far side.
        recheck_seconds: how often copies are compared again, where the servers can't track changes.
        report: gets one line for each thing worth knowing, from any thread.
    """

    def __init__(
        self,
        near: SharedStore,
        far: Remote,
        *,
        clock: Clock,
        folder: Path | None,
        max_pending_bytes: int = 64 * 1024 * 1024,
        recheck_seconds: float = 5.0,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._near = near
        self._far = far
        self._redis = far.redis
        self._link = far.redis.link
        self._clock = clock
        self._lock = threading.Lock()
        self._trusted: set[str] = set()
        self._foreign = self._arrived = 0
        self._erasures = 0
        self._hits = self._misses = self._failed_lookups = 0
        self.capacity = near.capacity
        self.max_bytes = near.max_bytes
        self.writer = Writer(far, self._link, clock, max_bytes=max_pending_bytes, report=report)
        self.leases = Leases(self._redis, far.name_of)
        self.removals = Removals(clock)
        self._folder, self._recheck_seconds = folder, recheck_seconds
        self.news = self._new_news()
        self.news.start()

    # Reading

    @property
    def size_bytes(self) -> int:
        """Bytes of the near side."""
        return self._near.size_bytes

    @property
    def damaged(self) -> int:
        """Records that were found damaged, near or far."""
        return self._near.damaged + self._far.damaged

    @property
    def erasures(self) -> int:
        """Has changed if anyone, on any machine, has erased something since."""
        return self._near.erasures + self._erasures

    def __len__(self) -> int:
        return len(self._near)

    def generation(self) -> int:
        """Return a number that has changed if anyone but this object has changed something since."""
        return self._near.generation() + self._foreign

    @property
    def arrived(self) -> int:
        """Has changed if other machines have stored what is not here."""
        return self._arrived

    def get(self, key: str) -> Record | None:
        """Return the record, from here or from there; what was there is here from now on."""
        self._verify(key)
        record = self._near.get(key)
        if record is not None and self.news.may_serve(record):
            return record
        found = self._lookup(key)
        if found is None or not found.is_live(self._clock()) or self.removals.covers(key, found):
            return None
        with suppress(StoreError):  # a disk that takes nothing is no reason not to serve it
            self._near.put(key, found, self._clock())
        self._trust(key)
        return found

    def version(self, key: str) -> int | None:
        """Return the version stored here."""
        return self._near.version(key)

    def stamp(self, key: str) -> Stamp | None:
        """Return version and expiry as they are here, compared with there if that is in doubt."""
        self._verify(key)
        return self._near.stamp(key)

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by any machine, if that is recent.

        Cost: a round trip where nothing is here, and nothing is known of it.
        """
        here = self._near.removed_at(key)
        if here is not None or self._near.version(key) is not None or not self._link.is_up():
            return here
        try:
            return self._far.removed_at(key, lookup=True)
        except StoreError:
            self._failed_lookups += 1
            return None

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return the keys of what is here, the lowest rank first; with a tag, also of what is there."""
        here = self._near.keys(tag=tag)
        if tag is None or not self._link.is_up():
            return here
        try:
            there = self._far.tagged(tag)
        except StoreError:
            self._failed_lookups += 1
            return here
        return list(dict.fromkeys((*here, *there)))

    # Writing

    def touch(self, key: str) -> None:
        """Note that `key` was used just now."""
        self._near.touch(key)
        self._far.touch(key)

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record` expire at `expires_at` instead, here now and there soon."""
        self._near.postpone(key, record, expires_at)
        self.writer.then(key, lambda: self._far.postpone(key, record, expires_at))

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key` here, and there in the background; return what had to go here."""
        try:
            departed = self._near.put(key, record, now)
        finally:
            self.writer.put(key, record, self.leases.token(key))
            self._trust(key)
        return departed

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` here if it still has that version."""
        return self._near.discard(key, version)

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given, here, there and on every other machine.

        Raises:
            StoreError: the servers could not be reached, so that other machines may still serve it. Here it
                is gone; it is removed there, and announced, when they can be.
        """
        removal = Removal(now, None if keys is None else tuple(keys), tag, created_before)
        gone = self._remove_here(removal, now)
        self.removals.add(removal)
        try:
            gone += self.news.carry_out(removal)
        except StoreError as error:
            raise StoreError(
                f"removed on this machine alone: {error}. Other machines may serve it until Redis is reached "
                "again; then it is removed there by itself, as long as this process lives"
            ) from error
        return list(dict.fromkeys(gone))

    def expire(self, now: float) -> list[str]:
        """Remove everything expired here; there, it goes by itself."""
        return self._near.expire(now)

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, here, there and on every other machine that is running.

        Raises:
            ErasureError: something could not be removed; all else is.
        """
        removal = Removal(self._clock(), tag=tag, is_erasure=True)
        report, failed = ErasureReport(), False
        try:
            report += self._near.erase(tag)
        except ErasureError as error:
            report, failed = report + error.report, True
        self.writer.drop(removal.covers)
        self.removals.add(removal)
        try:
            report += self.news.erase(removal)
        except StoreError as error:
            left = f"entries in Redis at {self._link.address}, and on other machines: {error}"
            report, failed = report + ErasureReport(left=(left,)), True
        if failed:
            raise ErasureError(report)
        return report

    def close(self) -> None:
        """Write what waits, for 5 seconds at the most, and let go of both sides."""
        self.writer.close(_CLOSE_SECONDS)
        self.leases.close()
        self.news.close()
        self._far.close()
        self._near.close()

    def check_invariants(self) -> None:
        """Raise AssertionError where either side's bookkeeping is off; for tests."""
        self.flush(10)
        sides: tuple[Any, ...] = (self._near, self._redis)
        for side in sides:
            getattr(side, "_inner", side).check_invariants()

    # For those who look after it

    @property
    def redis(self) -> RedisStore:
        """The store on the servers; sealed entries are sealed in it."""
        return self._redis

    def stats(self) -> RemoteStats:
        """Return what was counted since this object was made."""
        return RemoteStats(
            link=self._link.report(),
            hits=self._hits,
            misses=self._misses,
            failed_lookups=self._failed_lookups,
            written=self.writer.written,
            acknowledged=self._redis.acknowledged,
            unacknowledged=self._redis.unacknowledged,
            dropped=self.writer.dropped,
            refused=self.writer.refused,
            fenced=self.writer.fenced,
            pending_bytes=self.writer.pending_bytes,
            removals_to_pass_on=self.removals.waiting,
            is_coherent=self.news.is_listening(),
        )

    def report(self) -> LinkReport:
        """Return how things stand with the servers."""
        return self._link.report()

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all that was stored is there, too; return whether it is."""
        return self.writer.flush(timeout_seconds)

    def take_lease(self, key: str) -> bool | None:
        """Be the only machine to compute `key`; False if another is, None if nobody can tell now.

        Cost: a round trip, and none while the servers fail.
        """
        return self.leases.take(key) if self._link.is_up() else None

    def free_lease(self, key: str) -> None:
        """Let others compute `key` again, once what was computed is there. Never waits."""
        if self.leases.token(key) is not None:
            self.writer.then(key, lambda: self.leases.free(key))

    def forget_after_fork(self) -> None:
        """In a forked child: threads, locks and connections are the parent's."""
        self._lock = threading.Lock()
        for part in (self._near, self._redis, self.writer, self.leases):
            renew = getattr(part, "forget_after_fork", None)
            if renew is not None:
                renew()
        self.news = self._new_news()
        self.news.start()

    # For the news

    def doubt_all(self) -> None:
        """Any copy here may be out of date: compare each before it is served again."""
        with self._lock:
            self._trusted = set()
            self._foreign += 1

    def heard_of_change(self, names: Sequence[str]) -> None:
        """Somebody, maybe this process, has changed these: compare those that are here."""
        for name in names:
            key = self._far.key_of(name)
            stamp = None if key is None else self._near.stamp(key)
            self._arrived += stamp is None
            if key is not None and stamp is not None:
                there = self._far.stamp(key)
                if key not in self.writer and _is_older(stamp, there):
                    self._let_go(key, stamp.version)

    def heard_of_removal(self, removal: Removal) -> None:
        """Somebody has removed these."""
        if removal.is_erasure:
            with suppress(ErasureError):
                self._near.erase(removal.tag)
            self.writer.drop(removal.covers)
            with self._lock:
                self._erasures += 1
                self._foreign += 1
        else:
            self._remove_here(removal, self._clock())

    def forget_all(self) -> None:
        """Announcements were missed for good: nothing here can be trusted."""
        self._remove_here(Removal(self._clock()), self._clock())

    # Inside

    def _new_news(self) -> News:
        return News(
            self,
            self._far,
            self.removals,
            clock=self._clock,
            folder=self._folder,
            recheck_seconds=self._recheck_seconds,
        )

    def _remove_here(self, removal: Removal, now: float) -> list[str]:
        self.writer.drop(removal.covers)
        try:
            return self._near.remove(
                now, keys=removal.keys, tag=removal.tag, created_before=removal.created_before
            )
        finally:
            with self._lock:
                self._foreign += 1

    def _let_go(self, key: str, version: int) -> None:
        self._near.discard(key, version)
        with self._lock:
            self._trusted.discard(key)
            self._foreign += 1

    def _trust(self, key: str) -> None:
        with self._lock:
            if len(self._trusted) > _MOST_TRUSTED:
                self._trusted = set()
            self._trusted.add(key)

    def _verify(self, key: str) -> None:
        """Compare a copy that is in doubt with what is there, if it can be done in time."""
        if key in self._trusted or not self._link.is_up() or key in self.writer:
            return
        here = self._near.stamp(key)
        if here is None:
            return
        try:
            there = self._far.stamp(key, lookup=True)
            removed_at = None if there is not None else self._far.removed_at(key, lookup=True)
        except StoreError:
            self._failed_lookups += 1
            return
        if _is_older(here, there) or removed_at is not None:
            self._near.discard(key, here.version)
        self._trust(key)

    def _lookup(self, key: str) -> Record | None:
        if not self._link.is_up():
            return None
        try:
            found = self._far.get(key, lookup=True)
        except StoreError:
            self._failed_lookups += 1
            return None
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found


def _is_older(here: Stamp, there: Stamp | None) -> bool:
    """Whether a copy here is not what is there: another value, or one that uses elsewhere let live longer."""
    if there is None:
        return False
    if here.version != there.version:
        return True
    return here.expires_at is not None and there.expires_at is not None and there.expires_at > here.expires_at
