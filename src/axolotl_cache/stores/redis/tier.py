"""What a configuration says of Redis, and the store that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, cast

from axolotl_cache.clock import Clock
from axolotl_cache.encryption_key import EncryptionKey, read_key
from axolotl_cache.stores.base import SharedStore
from axolotl_cache.stores.policies import PolicyName, make_policy
from axolotl_cache.stores.redis.address import parse_address
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.local import LocalStore
from axolotl_cache.stores.redis.near import NearStore
from axolotl_cache.stores.redis.remote import Remote
from axolotl_cache.stores.redis.store import RedisStore

_START_SECONDS: Final = 1.0
"""How long a start waits for the servers; when they come later they are used from then on."""
_WITHIN_SECONDS: Final = 1.0


@dataclass(frozen=True)
class SharedTier:
    """Redis or Valkey servers that several machines share.

    Args:
        connection_string: see `parse_address`; it may hold a password, and is never shown.
        copies: how many servers should have a write, the primary included.
        follow: whether another primary is looked for when one fails.
        lookup_seconds: most that a request waits for a lookup.
        report: gets one line for each thing worth knowing, from any thread.
    """

    connection_string: str = field(repr=False)
    copies: int = 1
    follow: bool = True
    lookup_seconds: float = 0.1
    report: Callable[[str], None] = field(default=lambda line: None, repr=False)

    def link(self) -> Link:
        """Return a way to the servers, which are being looked for from now on.

        Raises:
            ConfigError: the connection string is none.
        """
        return Link(
            parse_address(self.connection_string),
            copies=self.copies,
            follow=self.follow,
            lookup_seconds=self.lookup_seconds,
            report=self.report,
        )

    def blocks(self, kind: str, capacity: int, *, encryption_key: EncryptionKey | None) -> SharedStore:
        """Return a store of many entries of one size, without a near side.

        Args:
            kind: tells such stores apart.
            capacity: most entries.
            encryption_key: what goes to the servers is sealed with it.

        Raises:
            ConfigError: the connection string is none.
            ModuleNotFoundError: there is a key, and the extra `encryption` is not installed.
        """
        link = self.link()
        link.wait_up(_START_SECONDS)
        far = open_far(
            link,
            capacity,
            kind=kind,
            scope=b"",
            policy="lru",
            max_bytes=None,
            encryption_key=encryption_key,
        )
        return cast(SharedStore, far)

    def in_front(
        self,
        near: SharedStore | None,
        capacity: int,
        *,
        scope: bytes,
        policy: PolicyName,
        max_bytes: int | None,
        encryption_key: EncryptionKey | None,
        folder: Path | None,
        clock: Clock,
        kind: str = "answers",
    ) -> NearStore:
        """Return a store that has these servers behind it.

        Args:
            near: this machine's own store; None keeps the near side in memory.
            capacity: most entries, on each side.
            scope: entries of another scope are not seen.
            policy: who goes first, on each side.
            max_bytes: most bytes, on each side.
            encryption_key: what goes to the servers is sealed with it.
            folder: of the near side's files.
            clock: seconds since the epoch.
            kind: of the entries; those of another kind are not seen.

        Raises:
            ConfigError: the connection string is none.
            ModuleNotFoundError: there is a key, and the extra `encryption` is not installed.
        """
        link = self.link()
        far = open_far(
            link,
            capacity,
            kind=kind,
            scope=scope,
            policy=policy,
            max_bytes=max_bytes,
            encryption_key=encryption_key,
        )
        link.wait_up(_START_SECONDS)
        if near is None:
            own = make_policy(policy, capacity, Random())  # noqa: S311
            near = LocalStore(capacity, policy=own, max_bytes=max_bytes)
        return NearStore(near, far, clock=clock, folder=folder, report=self.report)


def open_far(
    link: Link,
    capacity: int,
    *,
    kind: str,
    scope: bytes,
    policy: PolicyName,
    max_bytes: int | None,
    encryption_key: EncryptionKey | None,
) -> Remote:
    """Return the shared store of one kind of entries, sealed if there is a key.

    Those with different keys, or without one, have different stores: none sees or drops what it can't read.
    """
    own = make_policy(policy, capacity, Random())  # noqa: S311 - luck, and no secret
    name = f"axolotl-cache:1:{kind}"
    if encryption_key is None:
        return RedisStore(
            link,
            capacity,
            space=name,
            scope=scope,
            policy=own,
            max_bytes=max_bytes,
            within_seconds=_WITHIN_SECONDS,
        )
    from axolotl_cache.stores.redis.sealed import SealedRedisStore
    from axolotl_cache.stores.sealing import Sealer

    sealer = Sealer(read_key(encryption_key))
    sealed_scope = sealer.scope(scope)
    inner = RedisStore(
        link,
        capacity,
        space=f"{name}:sealed-{sealer.check.hex()[:16]}",
        scope=sealed_scope,
        policy=own,
        max_bytes=max_bytes,
        within_seconds=_WITHIN_SECONDS,
    )
    return SealedRedisStore(inner, sealer, scope=sealed_scope)
