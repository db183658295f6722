"""The way to the servers: whom to ask, for how long, and what happens when they do not answer.

Requests never look for a primary: they use the one that is known, and when it fails they go on without.
Looking is done by one thread, which also tells those who may wait (writers, removals) when it is found.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import redis
from redis import exceptions

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.address import Address, Host
from axolotl_cache.stores.redis.breaker import Breaker
from axolotl_cache.stores.redis.client import PASSING, make_client
from axolotl_cache.stores.redis.layout import Layout, discover
from axolotl_cache.stores.redis.stats import LinkReport

V = TypeVar("V")

_WATCH_SECONDS: Final = 1.0
_FEW_COPIES_SECONDS: Final = 0.25
_FIRST_RETRY_SECONDS: Final = 0.05
_LAST_RETRY_SECONDS: Final = 1.0
_WARN_AGAIN_SECONDS: Final = 60.0


class StoreFullError(StoreError):
    """The servers take no more: they are at their memory limit, and evict nothing."""


class Link:
    """A deployment of Redis or Valkey, as long as this object lives.

    Args:
        address: where it is.
        copies: how many servers should have a write, the primary included.
        follow: whether another primary is looked for when the one that is known fails.
        lookup_seconds: most that a lookup of a request waits for one read.
        patient_seconds: the same for those who can wait.
        report: gets one line when things begin to fail or are well again, from any thread.
    """

    def __init__(
        self,
        address: Address,
        *,
        copies: int = 1,
        follow: bool = True,
        lookup_seconds: float = 0.1,
        patient_seconds: float = 2.0,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.address = address
        self.copies = copies
        self.lookup_seconds = lookup_seconds
        self._patient_seconds = patient_seconds
        self._follow = follow
        self._report = report
        self._begin()

    def _begin(self) -> None:
        self.breaker = Breaker()
        self._news = threading.Condition()
        self._layout: Layout | None = None
        self._clients: dict[tuple[Host, bool], redis.Redis] = {}
        self._online: dict[Host, int] = {}
        self._trouble = "not reached yet"
        self._told: tuple[str, float] = ("", 0.0)
        self._closed = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._watch, name="redis-link", daemon=True)
        self._thread.start()

    # What callers ask

    @property
    def layout(self) -> Layout | None:
        """The servers as they were last seen; None before they ever were."""
        return self._layout

    def wait_up(self, timeout_seconds: float) -> bool:
        """Wait until the servers are known; return whether they are."""
        with self._news:
            return self._news.wait_for(lambda: self._layout is not None or self._closed, timeout_seconds)

    def is_up(self) -> bool:
        """Whether a call is worth trying now."""
        return self._layout is not None and not self.breaker.open_for_any()

    def online_replicas(self, host: Host) -> int:
        """Return how many replicas followed this primary when it was last asked."""
        return self._online.get(host, 0)

    def replicas_of(self, tag: bytes) -> int:
        """Return how many replicas follow the primary that holds `tag`."""
        layout = self._layout
        return 0 if layout is None else self.online_replicas(layout.primary(tag))

    def call(
        self,
        tag: bytes,
        work: Callable[[redis.Redis], V],
        *,
        within_seconds: float = 0.0,
        lookup: bool = False,
    ) -> V:
        """Return what `work` does with a client of the primary that holds `tag`.

        Args:
            tag: a key, or the part in braces of one.
            work: sends commands; may be run several times, so twice must be as good as once.
            within_seconds: how long to go on trying; 0 tries once, and not at all while the breaker is open.
            lookup: whether a request is waiting, so that each read has little time.

        Raises:
            StoreFullError: the servers are full.
            StoreError: it could not be done in time.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            error: BaseException
            try:
                host, client = self._client(tag, lookup)
                result = work(client)
            except PASSING as caught:
                error = caught
                self._failed(host, caught)
            except _Unreachable as caught:
                error = caught
            except exceptions.OutOfMemoryError as caught:
                raise StoreFullError(
                    f"{host} is at its memory limit and evicts nothing: {caught}"
                ) from caught
            except (exceptions.RedisError, exceptions.RedisClusterException) as caught:
                raise StoreError(f"{host} refused: {caught}") from caught
            else:
                self.breaker.went_well(host)
                return result
            left = deadline - time.monotonic()
            if left <= 0 or self._closed:
                raise StoreError(f"Redis at {self.address} can't be used: {error}") from error
            with self._news:
                self._news.wait(min(left, _FIRST_RETRY_SECONDS))

    def refresh(self) -> None:
        """Have the servers looked at now."""
        self._must_run()
        with self._news:
            self._news.notify_all()

    def report(self) -> LinkReport:
        """Return how things stand. Cost: none, it is as the last look was."""
        layout, broken = self._layout, self.breaker.reasons()
        if layout is None:
            trouble = f"Redis at {self.address} is not reached: {self._trouble}"
            return LinkReport(False, "", "", (), self.copies, 0, trouble, *self.breaker.counts)
        had = min(1 + self.online_replicas(host) for host in layout.primaries)
        trouble = ""
        if broken:
            trouble = "; ".join(f"{host} fails: {why}" for host, why in broken.items())
        elif had < self.copies:
            trouble = too_few(self.copies, had)
        return LinkReport(
            not broken,
            layout.kind,
            layout.server,
            tuple(map(str, layout.primaries)),
            self.copies,
            had,
            trouble,
            *self.breaker.counts,
        )

    def new_client(self, host: Host, *, timeout_seconds: float) -> redis.Redis:
        """Return a client of one's own."""
        return make_client(
            self.address, host, timeout_seconds=timeout_seconds, connect_seconds=self._patient_seconds
        )

    def close(self) -> None:
        """Let go of all connections."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._drop_clients()

    def forget_after_fork(self) -> None:
        """In a forked child: the parent's thread and connections are not this process's."""
        if not self._closed:
            self._begin()

    # Inside

    def _client(self, tag: bytes, lookup: bool) -> tuple[Host, redis.Redis]:
        self._must_run()
        layout = self._layout
        if layout is None:
            raise _Unreachable(self._trouble)
        host = layout.primary(tag)
        reason = self.breaker.open_for(host)
        if reason is not None:
            raise _Unreachable(reason)
        client = self._clients.get((host, lookup))
        if client is None:
            seconds = self.lookup_seconds if lookup else self._patient_seconds
            client = self._clients[host, lookup] = make_client(
                self.address, host, timeout_seconds=seconds, connect_seconds=seconds
            )
        return host, client

    def _must_run(self) -> None:
        if self._pid != os.getpid():
            self.forget_after_fork()

    def _failed(self, host: Host, error: BaseException) -> None:
        if self.breaker.failed(host, error):
            with self._news:
                self._news.notify_all()

    def _watch(self) -> None:
        """Look at the servers once a second, and as often as need be while something is wrong."""
        turn, pause = 0, _FIRST_RETRY_SECONDS
        while not self._closed:
            try:
                self._look(turn)
            except Exception as error:
                # Whatever it is, the thread goes on: without it nobody would ever find the servers again.
                self._trouble = str(error)
            self._tell()
            turn += 1
            well = self.is_up()
            pause = _FIRST_RETRY_SECONDS if well else min(2 * pause, _LAST_RETRY_SECONDS / 4)
            with self._news:
                if not self._closed:
                    self._news.notify_all()
                    self._news.wait(self._calm_seconds() if well and self.is_up() else pause)

    def _calm_seconds(self) -> float:
        """Return when to look again: soon if replicas are missing, as writes wait for their number."""
        report = self.report()
        return _WATCH_SECONDS if report.copies >= report.copies_wanted else _FEW_COPIES_SECONDS

    def _look(self, turn: int) -> None:
        before = layout = self._layout
        if layout is None or self._follow:
            try:
                layout = discover(self.address, layout, turn=turn)
            except StoreError:
                if layout is None:
                    raise
                # Those who know may be away while the primary is well.
        online: dict[Host, int] = {}
        troubles: dict[Host, str] = {}
        for host in layout.primaries:
            try:
                online[host] = self._examine(host)
            except (*PASSING, exceptions.RedisError, _Unreachable) as error:
                troubles[host] = str(error) or type(error).__name__
        if before is not None and before.primaries != layout.primaries:
            self._drop_clients()
        self._online = online
        self._layout = layout
        for host in online:
            self.breaker.close(host)
        for host, trouble in troubles.items():
            self.breaker.failed(host, ConnectionError(trouble), certain=True)
        self.breaker.keep_only(layout.primaries)

    def _examine(self, host: Host) -> int:
        """Return how many replicas a primary has; raise if it is none, or no good for requests."""
        # Through a connection of its own: what the pool has may be to a server long gone.
        with make_client(self.address, host, timeout_seconds=1.0, connect_seconds=1.0) as client:
            client.ping()
            started = time.monotonic()
            info: Any = client.info("replication")
            took = time.monotonic() - started
        if info.get("role") != "master":
            raise _Unreachable("is no primary (any more)")
        if took > self.lookup_seconds:
            raise _Unreachable(f"takes {took:.2f} s to answer, and requests wait {self.lookup_seconds:g} s")
        replicas = (info.get(f"slave{number}") for number in range(int(info.get("connected_slaves", 0))))
        return sum(isinstance(each, dict) and each.get("state") == "online" for each in replicas)

    def _tell(self) -> None:
        trouble = self.report().trouble
        before, at = self._told
        now = time.monotonic()
        if bool(trouble) == bool(before) and (trouble == before or now - at < _WARN_AGAIN_SECONDS):
            return
        self._told = (trouble, now)
        with suppress(Exception):  # who can't be told is no reason to stop
            self._report(f"warning: {trouble}" if trouble else f"Redis at {self.address} is well again")

    def _drop_clients(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            with suppress(Exception):
                client.connection_pool.disconnect(inuse_connections=False)


class _Unreachable(Exception):
    """There is nobody to ask now."""


def too_few(wanted: int, had: int) -> str:
    """Return what to say of too few copies."""
    return (
        f"replication_count is {wanted}, and a write has {had} {'copy' if had == 1 else 'copies'} now: no "
        f"write is acknowledged. Start {wanted - had} more replica{'s' if wanted - had > 1 else ''}, or "
        "lower replication_count"
    )
