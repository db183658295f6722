"""API keys and whose they are, in a file that holds no key: only digests.

A key is `axc-ID-SECRET`. The secret has 256 random bits, so that one round of BLAKE2 is enough to keep it
from whoever reads the file: there is no dictionary to try. The id finds the entry; the digest is compared in
constant time.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal

from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.paths import make_private

LOGGER: Final = logging.getLogger("axolotl_cache.server")

_FORMAT: Final = 1
_PREFIX: Final = "axc"
_ID_BYTES: Final = 4
_SECRET_BYTES: Final = 32
_LOOK_AGAIN_SECONDS: Final = 1.0
_LONGEST_NAME_CHARACTERS: Final = 100

Role = Literal["tenant", "operator"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks, and what they may have. None is no bound."""

    name: str
    role: Role = "tenant"
    """An operator sees the figures of all, and has no answers of its own."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens that are computed for them; what comes from a cache is free."""
    cache_bytes: int | None = None
    """What is held for them: stored answers, and keys and values in memory."""


NOBODY: Final = Tenant("")
"""Everybody, where there are no keys."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key."""

    id: str
    tenant: str
    salt: str
    digest: str


class KeyRing:
    """The keys that are known, as of one reading of the file."""

    def __init__(self, tenants: dict[str, Tenant], keys: dict[str, Key]) -> None:
        self.tenants = tenants
        self.keys = keys

    def owner(self, key: str) -> Tenant | None:
        """Return whose key it is; None for one that is not known. Takes as long for any secret."""
        prefix, _, rest = key.partition("-")
        id, _, secret = rest.partition("-")
        entry = self.keys.get(id) if prefix == _PREFIX else None
        known = entry or _DUMMY
        matches = hmac.compare_digest(_digest(secret, known.salt), known.digest)
        return self.tenants.get(known.tenant) if matches and entry is not None else None

    def cache_bytes(self, tenant: str) -> int | None:
        """Return the most bytes that may be held for a tenant; None is no bound."""
        known = self.tenants.get(tenant)
        return None if known is None else known.cache_bytes

    def add(self, tenant: Tenant) -> str:
        """Make a key for a tenant, whose terms are renewed; return it. It is nowhere else."""
        if not tenant.name or len(tenant.name) > _LONGEST_NAME_CHARACTERS or not tenant.name.isprintable():
            raise ConfigError(
                [Problem("keys", "NAME", f"{tenant.name[:50]!r} is no name: 1 to 100 printable characters")]
            )
        id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        while id in self.keys:
            id = secrets.token_hex(_ID_BYTES)
        salt = secrets.token_hex(16)
        self.tenants[tenant.name] = tenant
        self.keys[id] = Key(id, tenant.name, salt, _digest(secret, salt))
        return f"{_PREFIX}-{id}-{secret}"

    def remove(self, name: str) -> int:
        """Forget a key by its id, or a tenant with all its keys; return how many keys that was."""
        gone = [key.id for key in self.keys.values() if name in (key.id, key.tenant)]
        for id in gone:
            del self.keys[id]
        owners = {key.tenant for key in self.keys.values()}
        self.tenants = {name: tenant for name, tenant in self.tenants.items() if name in owners}
        return len(gone)


def _digest(secret: str, salt: str) -> str:
    data = secret.encode("utf-8", "surrogatepass")
    return blake2b(data, salt=bytes.fromhex(salt), digest_size=32, person=b"axc-api-key").hexdigest()


_DUMMY: Final = Key("", "", "00" * 16, "00" * 32)


def read_keys(path: Path) -> KeyRing:
    """Return the keys in a file; none, if it is not there.

    Raises:
        ConfigError: it is no such file, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return KeyRing({}, {})
    except OSError as error:
        raise _wrong(path, f"can't be read: {error}") from error
    if mode & 0o077:
        raise _wrong(path, f"others may read it: chmod 600 {path}")
    try:
        kept = json.loads(text)
        if kept["format"] != _FORMAT:
            raise _wrong(path, f"is of format {kept['format']!r}, and this release reads {_FORMAT}")
        tenants = {each["name"]: Tenant(**each) for each in kept["tenants"]}
        keys = {each["id"]: Key(**each) for each in kept["keys"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _wrong(path, f"is no key file: {error}") from error
    return KeyRing(tenants, keys)


def write_keys(path: Path, ring: KeyRing) -> None:
    """Write the file anew, in one step and for this user only."""
    kept: dict[str, Any] = {
        "format": _FORMAT,
        "tenants": [asdict(tenant) for tenant in ring.tenants.values()],
        "keys": [asdict(key) for key in ring.keys.values()],
    }
    make_private(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem("keys", str(path), message)])


class KeyFile:
    """The keys in a file that may change while the server runs: it is looked at again, once a second at most.

    Args:
        path: of the file.
        clock: monotonic seconds.

    Raises:
        ConfigError: as `read_keys`.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._mark = self._stat()
        self.ring = read_keys(path)
        self._look_at = clock() + _LOOK_AGAIN_SECONDS

    def owner(self, key: str) -> Tenant | None:
        """Return whose key it is, as of now."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN_SECONDS
            self._renew()
        return self.ring.owner(key)

    def cache_bytes(self, tenant: str) -> int | None:
        """Return the most bytes that may be held for a tenant, as of the last key that was looked up."""
        return self.ring.cache_bytes(tenant)

    def _renew(self) -> None:
        mark = self._stat()
        if mark == self._mark:
            return
        try:
            self.ring, self._mark = read_keys(self._path), mark
        except ConfigError as error:  # the keys of before stay good: a slip must not lock everybody out
            LOGGER.warning("the keys were not read again: %s", error)

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
