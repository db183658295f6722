"""`SmartInferenceCache`: answers by key, in memory, and on disk if asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from axolotl_cache.budget import Tenant
from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.request import Saved
from axolotl_cache.response import codec
from axolotl_cache.response.accounts import Savings, as_cost, checked_kind, decode_cost, encode_cost, measured
from axolotl_cache.response.key import KeyMaker, scope_of
from axolotl_cache.response.lifetime import Lifetime
from axolotl_cache.response.owners import checked_tags, erased_owner, owner_tag, refuse_reserved
from axolotl_cache.response.prices import NO_PRICES, PriceTable
from axolotl_cache.response.request_key import KeyExplanation
from axolotl_cache.response.results import CacheStats, Entry
from axolotl_cache.response.tiers import Tiers, Watcher
from axolotl_cache.response.wrong import WrongAnswers, answer_digest
from axolotl_cache.stores import (
    OVERHEAD_BYTES,
    MemoryStore,
    PolicyName,
    Record,
    make_policy,
    open_disk,
)

if TYPE_CHECKING:
    from axolotl_cache.encryption_key import EncryptionKey
    from axolotl_cache.namespace import Namespace
    from axolotl_cache.response.flight import Flights
    from axolotl_cache.stores import SharedStore
    from axolotl_cache.stores.redis.near import NearStore
    from axolotl_cache.stores.redis.tier import SharedTier

F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")

_NO_DEFAULT: Any = object()


class SmartInferenceCache(MutableMapping[str, Any]):
    """A cache of answers: bounded, each with a time to live, optionally on disk.

        cache_key = cache.generate_key(user_input)
        if cache.contains(cache_key):
            return cache.get(cache_key)
        cache.set(cache_key, result)

    Values are str, bytes, JSON, numpy arrays and torch tensors; what comes back equals what went in, type
    and dtype included, and changing it does not change the cache. It knows no model: without `namespace=`,
    an answer outlives a change of model, template or adapter until its time is up.

    Safe for threads, for processes that share `persistence_path`, and across `fork`. A hit in memory waits
    for another thread's write to disk only when another process has just changed the folder. Should the disk
    fail while it runs, it goes on in memory, says so in a `StoreWarning`, and counts it in
    `stats().store_errors`.

    Args:
        capacity: most entries, a hard bound, in memory as on disk. What `contains` has reported is kept on
            top of it, for 10 seconds at the most.
        timeout: seconds for which an entry may be served; None is for ever.
        persistence_path: a folder, made with mode 0700 if need be; None keeps everything in memory.
        namespace: binds the keys, and what of the folder is seen, to a model: a `Namespace`, or a string.
        policy: what is evicted first: `lru` (least recently used), `lfu` (least frequently used, lately) or
            `adaptive` (newcomers must have been wanted more often than what they would push out).
        max_bytes: most bytes, a hard bound beside `capacity`, in memory as on disk; None is no bound. An
            entry counts with its payload, key, tags, kind and cost, and 200 bytes on top.
        sliding: whether an entry's time begins anew with each use.
        jitter: by what share of its time an entry may live shorter, so that those stored together do not
            expire together: 0.1 is up to 10 %. How much, only its key decides.
        prices: what tokens cost, for the account of what hits save.
        encryption_key: what is on disk is encrypted with it, answers, keys and tags alike: 32 bytes, or the
            same in hexadecimal or base64, or a callable that returns either. None leaves it readable.
        shared: Redis or Valkey servers behind memory and disk, which several machines share.
        clock: seconds since the epoch.

    Raises:
        StoreFormatError: the folder holds another program's database, or a later version's.
        StoreError: the folder can't be used at all; or not with this key, or not without one.
        ImportError: there is an `encryption_key`, and the extra `encryption` is not installed.
    """

    def __init__(
        self,
        capacity: int = 2000,
        timeout: float | None = 1800,
        persistence_path: str | os.PathLike[str] | None = None,
        *,
        namespace: Namespace | str | None = None,
        policy: PolicyName = "lru",
        max_bytes: int | None = None,
        sliding: bool = False,
        jitter: float = 0.0,
        prices: PriceTable = NO_PRICES,
        encryption_key: EncryptionKey | None = None,
        shared: SharedTier | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        if type(capacity) is not int:
            raise TypeError(f"capacity is a number of entries, an int, not {capacity!r}")
        if capacity < 1:
            raise ValueError(f"capacity is at least 1 entry, not {capacity}")
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes <= OVERHEAD_BYTES):
            raise ValueError(
                f"max_bytes is a number of bytes, an int above {OVERHEAD_BYTES} (what each entry counts on "
                f"top of its payload), or None for no bound, not {max_bytes!r}"
            )
        self._lifetime = Lifetime(timeout, sliding, jitter)
        self._prices = prices
        self._capacity = capacity
        self._clock = clock
        self._make_key = KeyMaker(namespace)
        self._scope = scope_of(namespace)
        disk = open_disk(
            None if persistence_path is None else Path(persistence_path),
            capacity,
            scope=self._scope,
            policy=make_policy(policy, capacity, Random()),  # noqa: S311 - luck, and no secret
            max_bytes=max_bytes,
            encryption_key=encryption_key,
        )
        self._folder = disk.folder
        own = make_policy(policy, capacity, Random())  # noqa: S311
        memory = MemoryStore(capacity, policy=own, max_bytes=max_bytes, saved_seconds=_saved_seconds)
        self._shared: NearStore | None = None
        below = disk.store
        if shared is not None:
            self._shared = shared.in_front(
                disk.store,
                capacity,
                scope=self._scope,
                policy=policy,
                max_bytes=max_bytes,
                encryption_key=encryption_key,
                folder=disk.folder,
                clock=clock,
            )
            below = cast("SharedStore", self._shared)
        self._tiers = Tiers(memory, below, clock, Savings(prices))
        self._digest_secret = disk.secret
        self._wrong = WrongAnswers(disk.folder, self._scope, disk.secret)
        self._flights: Flights | None = None
        self._making_flights = Lock()
        _ALIVE.add(self)

    @property
    def memory_tenant(self) -> Tenant:
        """The part of it that is in memory, to share that with other caches (`budget.py`)."""
        return self._tiers

    def bound_tenants(self, bound_of: Callable[[str], int | None]) -> None:
        """Bound what each tenant holds (the tag `tenant:NAME` of `owner_tags`), beside the bounds of all.

        When the cache is full, the tenant with most above an equal share loses first, bound or not.

        Args:
            bound_of: returns the most bytes of a tenant, or None; asked whenever one stores something, with
                locks held: it must be quick.
        """
        self._tiers.bound_tenants(bound_of)

    def tenant_bytes(self, tenant: str) -> int:
        """Return the bytes of a tenant's entries, as far as this process knows them."""
        return self._tiers.tenant_bytes(tenant)

    # The four of every day

    def generate_key(self, user_input: Any, **context: Any) -> str:
        """Return the key for an input: a digest of all of it, and of the namespace.

        Equal in every process, on every machine and in every later version. Nothing is normalised: two
        inputs that differ in anything give two keys. Cost: 1 us for 500 characters.

        Args:
            user_input: a str, or JSON-like: a list of messages, a dict; or a `CanonicalRequest`.
            context: what else decides the answer, as `temperature=0.2`; JSON-like.

        Raises:
            TypeError: something in it is not JSON-like; the message says where.
        """
        return self._make_key(user_input, context)

    def explain_key(self, user_input: Any, **context: Any) -> KeyExplanation:
        """Return what `generate_key` makes of the same arguments: the key, and what is in it, part by part.

        Names, digests and lengths, no values. `explanation.difference(other)` names what differs.
        """
        return self._make_key.explain(user_input, context)

    def contains(self, key: str) -> bool:
        """Whether there is something to serve for `key`.

        If so, it stays at hand for 5 to 10 seconds: the `get` that follows finds it even if it expires or is
        evicted in between. Only removing it on purpose, or storing something else, undoes that. Changes
        no count and no recency. Cost: 1 us from memory.
        """
        return self._tiers.contains(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value for `key`, or `default`. Counts one hit or miss. Cost: 1 us from memory."""
        record = self._tiers.serve(key, promised=True)
        return default if record is None else codec.decode(record)

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        sliding: bool | None = None,
        kind: str = "",
        cost: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store `value` under `key`, in place of what was there, and return whether it is stored.

        It is not if this very answer was reported as wrong for `key`, if it is larger than `max_bytes`, or
        if `ttl` is 0.

        With persistence it is on disk when this returns, and `kill -9` does not undo it. Should the disk
        refuse, it is kept in memory, with a warning. Cost: 5 us, and 60 us more with persistence.

        Args:
            key: as `generate_key` makes it, or any str.
            value: str, bytes, JSON, numpy array or torch tensor.
            ttl: seconds for which it may be served; None is the cache's timeout, `math.inf` for ever, and 0
                keeps nothing, what was there before included.
            tags: for `invalidate(tag=...)`; those of `owner_tags` for `invalidate(session=...)` and the like.
            sliding: whether its time begins anew with each use; None is as the cache has it.
            kind: what kind of content it is, `static` or `dynamic`; comes back with `lookup`.
            cost: what making it took, a small JSON object (`prompt_tokens`, `completion_tokens`, `seconds`,
                `model`); comes back with `lookup`.

        Raises:
            TypeError: a value that would not come back as it went in; the message says what to do.
            ValueError: a ttl below 0, a kind that there is not, a cost above 2,000 characters, or a tag with
                a prefix that says whose an entry is.
        """
        kind = checked_kind(kind)
        return self._keep(key, value, self._record(key, value, ttl, checked_tags(tags), sliding, kind, cost))

    # Beyond them

    def lookup(self, key: str, *, max_age_seconds: float | None = None) -> Entry | None:
        """Return value and dates in one call, or None. Counts one hit or miss.

        Args:
            key: what to look for.
            max_age_seconds: an older entry is a miss; it stays where it is.
        """
        record = self._tiers.serve(key, promised=False, max_age_seconds=max_age_seconds)
        return None if record is None else self._entry(record)

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], V],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        sliding: bool | None = None,
        kind: str = "",
    ) -> V:
        """Return the value for `key`, and compute and store it first if it is not there.

        However many ask at once, threads, tasks and processes sharing `persistence_path`, one computes and
        the others wait for it. If it fails, its caller gets the error, nothing is stored, and one of those
        who wait takes over; so it is if its process is killed.

        Raises:
            RuntimeError: computing `key` asks for `key` itself.
            TypeError: the value can't be cached, see `set`.
        """
        tags, kind = checked_tags(tags), checked_kind(kind)
        found = self._tiers.serve(key, promised=False)
        while found is None:
            flight, leads = self._single_flight().join(key, in_task=False)
            if leads:
                with self._single_flight().lead(flight) as outcome:
                    found = self._tiers.peek(
                        key
                    )  # another process, or the leader before, may have been faster
                    if found is not None:
                        outcome.append(found)
                        self._tiers.count_coalesced()
                        break
                    started = perf_counter()
                    value = compute()
                    cost = measured(value, perf_counter() - started)
                    outcome.append(self._record(key, value, ttl, tags, sliding, kind, cost))
                    if ttl != 0:
                        self._keep(key, value, outcome[0])
                    return value
            else:
                found = flight.wait()
                if found is not None:
                    self._tiers.count_coalesced()
        answer: V = codec.decode(found)
        return answer

    async def aget_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        sliding: bool | None = None,
        kind: str = "",
    ) -> V:
        """Do as `get_or_compute`, for `await`: waiting does not block the event loop.

        Reading and writing the disk does, for well under a millisecond with values of everyday size. If
        the task that computes is cancelled, one of those who wait takes over.
        """
        tags, kind = checked_tags(tags), checked_kind(kind)
        found = self._tiers.serve(key, promised=False)
        while found is None:
            flight, leads = self._single_flight().join(key, in_task=True)
            if leads:
                async with self._single_flight().lead_in_task(flight) as outcome:
                    found = self._tiers.peek(key)
                    if found is not None:
                        outcome.append(found)
                        self._tiers.count_coalesced()
                        break
                    started = perf_counter()
                    value = await compute()
                    cost = measured(value, perf_counter() - started)
                    outcome.append(self._record(key, value, ttl, tags, sliding, kind, cost))
                    if ttl != 0:
                        self._keep(key, value, outcome[0])
                    return value
            else:
                found = await flight.wait_in_task()
                if found is not None:
                    self._tiers.count_coalesced()
        answer: V = codec.decode(found)
        return answer

    def alone(self, key: str, is_wanted: Callable[[], bool] = lambda: True) -> AbstractContextManager[None]:
        """Keep other processes and machines from streaming `key` too, within the context.

        For what is given out piece by piece, where `get_or_compute` can't help: look whether it is stored
        now, and only then compute. Whoever streams it elsewhere is waited for, for 30 seconds at the most;
        then nobody is kept out. Within a process, threads must have agreed beforehand who asks.

        Args:
            key: of what will be stored.
            is_wanted: asked while waiting; False ends that.
        """
        if not self._is_shared_with_others:
            return nullcontext()
        return self._single_flight().alone(key, is_wanted)

    def alone_in_task(self, key: str) -> AbstractAsyncContextManager[None]:
        """Do as `alone`, for `async with`: waiting does not block the event loop."""
        if not self._is_shared_with_others:
            return nullcontext()
        return self._single_flight().alone_in_task(key)

    def cached(
        self,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        version: str = "",
        sliding: bool | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator that keeps a function's answers, coroutine functions' too.

        The key is the function's module (in a script, its file) and qualified name, its arguments
        (JSON-like; defaults filled in) and `version`: with persistence, change that when the function's
        meaning changes. What a function has from elsewhere is not in its key: give each closure made by one
        `def`, and each lambda of one function, a version of its own. The decorated function has
        `cache_key(*args, **kwargs)`.

        Raises:
            TypeError: a bound method without `version`, or a callable without a name, as a partial.
        """
        decorator = import_module("axolotl_cache.response.decorator")
        checked_tags(tags := tags if isinstance(tags, str) else tuple(tags))  # now, not at the first call

        def decorate(function: F) -> F:
            wrapped: F = decorator.cached_function(
                self, function, ttl=ttl, tags=tags, version=version, sliding=sliding
            )
            return wrapped

        return decorate

    def invalidate(
        self,
        key: str | None = None,
        *,
        tag: str | None = None,
        entity: str | None = None,
        session: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        model: str | None = None,
        version: str | None = None,
        older_than_seconds: float | None = None,
    ) -> int:
        """Remove what meets every condition given, in every process that shares the folder.

        At most one of `tag` and the owners (`entity` to `version`, as `owner_tags` stored them); with it, or
        alone, a key and an age. A promise made by `contains` goes with it.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: no condition at all (`cache_clear` is for everything), or several tags and owners.
            StoreError: the disk refused, so that entries may still be there for other processes.
        """
        owners = {
            "entity": entity,
            "session": session,
            "user": user,
            "tenant": tenant,
            "model": model,
            "version": version,
        }
        labels = [str(owner_tag(kind, name)) for kind, name in owners.items() if name is not None]
        if tag is not None:
            refuse_reserved(tag)
            labels.append(tag)
        if key is None and not labels and older_than_seconds is None:
            raise TypeError(
                "invalidate what? Give a key, tag=, entity=, session=, user=, tenant=, model=, version= or "
                "older_than_seconds=; cache_clear() is for everything"
            )
        if len(labels) > 1:
            raise TypeError(f"invalidate by one tag or owner at a time, not by {' and '.join(labels)}")
        label = labels[0] if labels else None
        return self._tiers.remove(key=key, tag=label, older_than_seconds=older_than_seconds)

    def erase(
        self, *, tenant: str | None = None, user: str | None = None, session: str | None = None
    ) -> ErasureReport:
        """Erase every entry of a tenant, a user or a session: of all namespaces, in memory and in every file.

        Afterwards no file in the folder holds a byte of them, and other processes have let go of them with
        their next call. What is computed meanwhile is stored when it is done: stop the owner's requests
        first. Databases that were set aside as damaged are deleted. docs/erasure.md says what is not
        reached. Cost: the database is written anew.

        Returns:
            What was removed. Only entries stored with the owner (`owner_tags`) are known to be theirs.

        Raises:
            TypeError: none of them, or several.
            ErasureError: something could not be removed. All else is, and the error says what is left.
        """
        return self._tiers.erase(erased_owner(tenant=tenant, user=user, session=session))

    def report_wrong(self, key: str, value: Any = _NO_DEFAULT) -> bool:
        """Remove a wrong answer, and remember it: this same answer is never stored under `key` again.

        Another one may be. It is remembered for this namespace by all processes that share the folder, for
        good; equal answers are known as `axolotl_cache.response.wrong.answer_digest` says.

        Args:
            key: of the entry.
            value: the wrong answer, if the entry may have gone or changed since it was read; without it, what
                is stored now.

        Returns:
            Whether it was stored, and is removed.

        Raises:
            StoreError: the disk refused to remember or to remove it; other processes may still serve it.
        """
        record = self._tiers.peek(key)
        found = None if record is None else codec.decode(record)
        known = value is not _NO_DEFAULT or record is not None
        wrong = found if value is _NO_DEFAULT else value
        removed = False
        try:
            if known:
                self._wrong.add(key, wrong)
        finally:
            # Whatever became of the memory: what is known to be wrong is not served, by a promise either.
            if record is None or answer_digest(found) == answer_digest(wrong):
                removed = self._tiers.remove(key=key) > 0
        return removed

    def cache_clear(self) -> int:
        """Remove everything of this cache's namespace, and return how many entries that was.

        Counts in `stats` go on. Raises StoreError as `invalidate` does.
        """
        return self._tiers.remove()

    def stats(self) -> CacheStats:
        """Return what was counted since this object was made, and what is held now. Cost: O(1) or 10 us."""
        return replace(
            self._tiers.stats(),
            refused_as_wrong=self._wrong.refused,
            saved=self._tiers.savings.add_up(),
            shared=None if self._shared is None else self._shared.stats(),
        )

    @property
    def shared(self) -> NearStore | None:
        """The tier that several machines share: its `report()` for `/readyz`, `flush()`; None without one."""
        return self._shared

    def age(self, key: str) -> float | None:
        """Return the age of an entry in seconds, or None if it is not there. Changes no count."""
        record = self._tiers.peek(key)
        return None if record is None else max(0.0, self._clock() - record.created_at)

    def peek(self, key: str) -> Entry | None:
        """Return value and dates as `lookup` does. Changes no count and no recency."""
        record = self._tiers.peek(key)
        return None if record is None else self._entry(record)

    def tagged(self, tag: str) -> list[str]:
        """Return the keys of the entries with a tag. Cost: O(their number) on disk, O(entries) in memory."""
        return self._tiers.keys(tag=tag)

    def generation(self) -> int:
        """Return a number that is another one once another process or machine has changed what is stored."""
        return self._tiers.generation() + (0 if self._shared is None else self._shared.arrived)

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of every entry that goes; see `axolotl_cache.response.tiers.Watcher`."""
        self._tiers.watch(watcher)

    def beside(self, name: str) -> tuple[Path | None, bytes]:
        """Return where a file of this name lies beside the entries, and a secret to key digests in it.

        For what is kept about entries, as digests. No path without persistence, no secret without encryption.
        """
        return None if self._folder is None else self._folder / name, self._digest_secret

    def is_reported_wrong(self, key: str, value: Any) -> bool:
        """Whether this very answer was reported as wrong for `key`; also if that can't be read."""
        return self._is_wrong(key, value)

    def why_missing(self, key: str) -> str | None:
        """Return why there is nothing to serve for `key`, or None if there is. Changes no count.

        `never seen`, `expired 12.3 s ago`, `evicted ...`, `invalidated ...`; the last 4,096 departures that
        this process saw are remembered.
        """
        return self._tiers.explain_missing(key)

    def close(self) -> None:
        """Close the files. What was stored stays stored; using the cache afterwards is a StoreError."""
        self._tiers.close()
        if self._flights is not None:
            self._flights.close()

    # A mapping

    @property
    def timeout(self) -> float | None:
        """Seconds for which an entry may be served; None is for ever."""
        return self._lifetime.timeout

    @property
    def is_persistent(self) -> bool:
        """Whether answers are kept on disk, too."""
        return self._tiers.is_persistent

    @property
    def maxsize(self) -> int:
        """Most entries ever held: `capacity`."""
        return self._capacity

    @property
    def currsize(self) -> int:
        """Entries that can be served now: `len(cache)`."""
        return len(self)

    def __getitem__(self, key: str) -> Any:
        record = self._tiers.serve(key, promised=True)
        if record is None:
            raise KeyError(key)
        return codec.decode(record)

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._tiers.remove(key=key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self._tiers.contains(key)  # type: ignore[arg-type]  # a mapping may be asked about any object

    def __len__(self) -> int:
        return len(self._tiers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now, the next to be evicted first.

        With `adaptive` that is the next unless a newcomer turns out to have been wanted less.
        """
        return iter(self._tiers.keys())

    def pop(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Remove `key` and return what `get` would have; without a default, KeyError if that is nothing."""
        record = self._tiers.serve(key, promised=True)
        if record is not None:
            self._tiers.remove(key=key)
            return codec.decode(record)
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default

    def clear(self) -> None:
        """Remove everything, as `cache_clear`."""
        self.cache_clear()

    # Two caches are equal when they are one: comparing contents would read everything.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        where = "memory" if self._folder is None else str(self._folder)
        return f"<SmartInferenceCache capacity={self._capacity} timeout={self.timeout} in {where}>"

    def __enter__(self) -> SmartInferenceCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _record(
        self,
        key: str,
        value: Any,
        ttl: float | None,
        tags: tuple[str, ...],
        sliding: bool | None,
        kind: str = "",
        cost: Mapping[str, Any] | None = None,
    ) -> Record:
        name, payload = codec.encode(value)
        now = float(self._clock())
        expires_at, sliding_seconds = self._lifetime.of(key, now, ttl=ttl, sliding=sliding)
        return Record(
            payload,
            name,
            now,
            expires_at,
            tags,
            sliding_seconds=sliding_seconds,
            kind=kind,
            cost=encode_cost(cost),
        )

    def _entry(self, record: Record) -> Entry:
        cost = decode_cost(record.cost)
        return Entry(
            codec.decode(record),
            record.created_at,
            record.expires_at,
            record.tags,
            record.kind,
            cost,
            Saved() if cost is None else self._prices.saved_by_answer(as_cost(cost), 0.0),
        )

    def _keep(self, key: str, value: Any, record: Record) -> bool:
        if self._is_wrong(key, value):
            return False
        is_stored = self._tiers.keep(key, record)
        if is_stored and self._is_wrong(key, value):  # reported meanwhile, and removed too early
            self._tiers.remove(key=key)
            return False
        return is_stored

    def _is_wrong(self, key: str, value: Any) -> bool:
        try:
            return self._wrong.refuses(key, value)
        except StoreError as error:  # not knowing what was reported, it stores nothing
            self._tiers.report(error)
            return True

    @property
    def _is_shared_with_others(self) -> bool:
        return self._folder is not None or self._shared is not None

    def _single_flight(self) -> Flights:
        # Loaded when it is first needed: asyncio and futures take longer to import than all the rest.
        if self._flights is None:
            flight = import_module("axolotl_cache.response.flight")
            with self._making_flights:
                if self._flights is None:
                    lock_file = None if self._folder is None else self._folder / "computing.lock"
                    self._flights = flight.Flights(
                        lock_file, scope=self._scope, report=self._tiers.report, leases=self._shared
                    )
        return self._flights

    def _after_fork(self) -> None:
        self._making_flights = Lock()
        self._tiers.forget_after_fork()
        self._wrong.forget_after_fork()
        if self._shared is not None:
            self._shared.forget_after_fork()
        if self._flights is not None:
            self._flights.forget_after_fork()


_ALIVE: weakref.WeakSet[SmartInferenceCache] = weakref.WeakSet()


def _saved_seconds(record: Record) -> float:
    """Return what a hit saves: what computing the answer took, as far as that is known."""
    cost = decode_cost(record.cost)
    return as_cost(cost).seconds if cost else 0.0


def _renew_in_child() -> None:
    for cache in list(_ALIVE):
        cache._after_fork()


os.register_at_fork(after_in_child=_renew_in_child)
