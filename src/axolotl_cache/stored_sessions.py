"""The sessions, and the records of entities, of a configuration. Loads neither the engine nor torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Final, cast

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.config import Settings, read_encryption_key
from axolotl_cache.entities import Extractor, OwnKind
from axolotl_cache.errors import ConfigError, ErasureReport, Problem, StoreError
from axolotl_cache.paths import cache_home, keys_and_values_home
from axolotl_cache.prefix import label
from axolotl_cache.session import Records, Sessions, entity_fence, load_provider
from axolotl_cache.session.sessions import MOST_SESSIONS
from axolotl_cache.shared_servers import shared_tier
from axolotl_cache.stores import SharedStore, SqliteStore, make_policy, open_disk

_SCOPE: Final = b"sessions"
_PASS_ON_SECONDS: Final = 5.0


def session_folder(settings: Settings) -> Path | None:
    """Return the folder where sessions are kept; None if they are kept in memory."""
    if not (settings.inference.enable_persistence and settings.session.enable_session_cache):
        return None
    own = settings.inference.persistence_path
    return (Path(own).expanduser() if own else cache_home()) / "sessions"


def open_session_store(settings: Settings, clock: Clock = wall_clock) -> SharedStore | None:
    """Open the store of sessions' records, on disk, on shared servers or both; None if they stay in memory.

    Raises:
        ConfigError: the encryption key that the settings name is not there, or others may read it.
        ModuleNotFoundError: there are servers, and the extra `redis` is not installed.
        StoreError: the folder can't be used.
    """
    folder = session_folder(settings)
    # The response cache tells what is wrong with the servers; once is enough.
    shared = shared_tier(settings, lambda line: None) if settings.session.enable_session_cache else None
    if folder is None and shared is None:
        return None
    disk = open_disk(
        folder,
        MOST_SESSIONS,
        scope=_SCOPE,
        policy=make_policy("lru", MOST_SESSIONS, Random()),  # noqa: S311 - which goes first, no secret
        max_bytes=None,
        encryption_key=read_encryption_key(settings),
    )
    if shared is None:
        return disk.store
    near = shared.in_front(
        disk.store,
        MOST_SESSIONS,
        # Who shares servers need not share sessions: a session's name does not say whose program it is of.
        scope=_SCOPE + settings.inference.environment_tag.encode(),
        policy="lru",
        max_bytes=None,
        encryption_key=read_encryption_key(settings),
        folder=disk.folder,
        clock=clock,
        kind="sessions",
    )
    return cast(SharedStore, near)


def open_sessions(
    settings: Settings,
    *,
    persistent: bool = True,
    clock: Clock = wall_clock,
    max_bytes: int | None = None,
) -> Sessions | None:
    """Return the sessions that the settings describe; None if they are off.

    Args:
        settings: what is in force.
        persistent: False keeps them in memory, whatever the settings say.
        clock: wall clock.
        max_bytes: bound on what they take in memory, their keys and values not counted.

    Raises:
        ConfigError: a pattern of `entity_kinds` can't be used; or see `open_session_store`.
        StoreError: see `open_session_store`.
    """
    if not settings.session.enable_session_cache:
        return None
    return Sessions(
        settings.session.session_timeout,
        clock,
        extractor=_extractor(settings),
        store=open_session_store(settings, clock) if persistent else None,
        max_bytes=max_bytes,
    )


def open_records(
    settings: Settings,
    sessions: Sessions | None,
    *,
    plain: Callable[[str], str] = lambda text: text,
    clock: Clock = wall_clock,
    max_bytes: int | None = None,
) -> Records | None:
    """Return the records of the provider that the settings name; None if they name none.

    Args:
        settings: what is in force.
        sessions: through which other processes say that records are not good any more.
        plain: takes what has a meaning in prompts out of a record's text.
        clock: seconds since the epoch.
        max_bytes: bound on what is kept of them.

    Raises:
        ConfigError: the provider can't be loaded, or is none.
    """
    name = settings.session.entity_provider
    if not name:
        return None
    where = str(settings.sources.get("session_management.entity_provider", "configuration"))
    provider = load_provider(name, folder=settings.path.parent, where=where)
    if sessions is None:
        return Records(provider, clock, plain=plain, max_bytes=max_bytes)
    return Records(provider, clock, plain=plain, dropped_at=sessions.dropped_at, max_bytes=max_bytes)


def drop_stored_entity(settings: Settings, name: str) -> None:
    """Tell running programs that the records of an entity are not good any more; remove its KV on disk.

    Args:
        settings: what is in force.
        name: its one form, as `order 67890`.

    Raises:
        StoreError: it could not be told, or something not be removed.
    """
    with _opened(settings) as sessions:
        if sessions is not None:
            sessions.drop_entity(name)
    for folder in sorted(path.parent for path in keys_and_values_home().glob("kv-*/cache.sqlite3")):
        with closing(SqliteStore(folder, sys.maxsize)) as store:
            store.remove(wall_clock(), tag=label(entity_fence(name)))


def end_stored_session(settings: Settings, id: str) -> None:
    """Remove the records of the sessions of this id; running programs begin them anew.

    Raises:
        StoreError: they could not be removed.
    """
    with _opened(settings) as sessions:
        if sessions is not None:
            sessions.end(id)


def erase_stored_sessions(settings: Settings, tag: str) -> ErasureReport:
    """Erase the records of an owner's sessions, as `user:ann`.

    Raises:
        ErasureError: they could not be erased.
    """
    with _opened(settings) as sessions:
        return ErasureReport() if sessions is None else sessions.erase(tag=tag)[1]


@contextmanager
def _opened(settings: Settings) -> Iterator[Sessions | None]:
    """Yield the sessions that are stored, closed behind the block; None if there are none on disk."""
    folder = session_folder(settings)
    if settings.cluster is None and (folder is None or not folder.is_dir()):  # looking must not make one
        yield None
        return
    store = open_session_store(settings)
    sessions = Sessions(settings.session.session_timeout, wall_clock, store=store)
    with closing(sessions):
        yield sessions
        is_passed_on = getattr(store, "flush", lambda seconds: True)(_PASS_ON_SECONDS)
        if not is_passed_on:
            raise StoreError("Redis is not reached: other machines have not been told")


def _extractor(settings: Settings) -> Extractor | None:
    kinds = settings.session.entity_kinds
    if not kinds:
        return None
    own: list[OwnKind] = []
    for name, pattern in kinds.items():
        try:
            own.append(OwnKind(name, pattern))
        except ValueError as error:
            where = str(settings.sources.get("session_management.entity_kinds", "configuration"))
            problem = Problem(where, "session_management.entity_kinds", str(error))
            raise ConfigError([problem]) from error
    return Extractor(tuple(own))
