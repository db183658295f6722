"""A cache's files on disk, as they are or encrypted, and never both in one folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from axolotl_cache.encryption_key import EncryptionKey, read_key
from axolotl_cache.errors import StoreError, StoreFormatError
from axolotl_cache.paths import make_private
from axolotl_cache.stores.base import SharedStore, new_version
from axolotl_cache.stores.file_locks import OPENING, FileLocks
from axolotl_cache.stores.policies import Policy

if TYPE_CHECKING:
    from axolotl_cache.stores.sealing import Sealer

SEALED_FOLDER: Final = "encrypted"
"""Everything encrypted is in a folder of its own, so that no process without the key ever writes there."""
KEY_CHECK: Final = "key-check"
_FORM: Final = "seal1"


class Disk(NamedTuple):
    """A store that was opened, and what else is to be known to keep files beside it; or nothing."""

    store: SharedStore | None = None
    folder: Path | None = None
    """For the files of this cache."""
    secret: bytes = b""
    """Keys the digests in those files; empty: they are not encrypted."""


def open_disk(
    folder: Path | None,
    capacity: int,
    *,
    scope: bytes,
    policy: Policy,
    max_bytes: int | None,
    encryption_key: EncryptionKey | None,
) -> Disk:
    """Open the store in `folder`, made if need be: `SqliteStore`, behind a `SealedStore` if there is a key.

    Without a folder there is no disk, and a key has nothing to encrypt.

    Raises:
        ModuleNotFoundError: there is a key, and the package `cryptography` is missing.
        TypeError: the key is of another type than a key is.
        ValueError: the key has not 32 bytes.
        StoreFormatError: the folder holds another program's database, or a later version's.
        StoreError: the key is another one than the folder's, one of the two has a key and the other has
            none, or the folder can't be used at all. It is left as it was.
    """
    if folder is None:
        return Disk()
    # Loaded when it is needed: a cache without persistence imports neither sqlite3 nor cryptography.
    sqlite = import_module("axolotl_cache.stores.sqlite")
    if encryption_key is None:
        _must_not_be_sealed(folder)
        plain = sqlite.SqliteStore(folder, capacity, scope=scope, policy=policy, max_bytes=max_bytes)
        return Disk(plain, folder, b"")
    sealing = import_module("axolotl_cache.stores.sealing")
    sealer: Sealer = sealing.Sealer(read_key(encryption_key))
    _must_not_be_plain(folder)
    inside, check = folder / SEALED_FOLDER, f"{_FORM} {sealer.check.hex()}\n"
    try:
        make_private(inside)
        _compare(inside, check)
    except OSError as error:
        raise StoreError(
            f"{inside}: can't be made, read or written: {error}. Choose another persistence_path, or None to "
            "keep everything in memory."
        ) from error
    scope = sealer.scope(scope)
    store = sqlite.SqliteStore(inside, capacity, scope=scope, policy=policy, max_bytes=max_bytes)
    sealed = import_module("axolotl_cache.stores.sealed").SealedStore
    return Disk(
        sealed(store, sealer, scope=scope, after_put=_restorer(inside, check)), inside, sealer.wrong_secret
    )


def _must_not_be_sealed(folder: Path) -> None:
    if any((folder / SEALED_FOLDER / name).exists() for name in (KEY_CHECK, "cache.sqlite3")):
        raise StoreError(
            f"{folder}: this cache is encrypted. Give its encryption_key, or choose another "
            f"persistence_path; without the key, {folder / SEALED_FOLDER} can only be deleted."
        )


def _must_not_be_plain(folder: Path) -> None:
    plain = [
        path for pattern in ("cache.sqlite3*", "blobs/*", "reported_wrong") for path in folder.glob(pattern)
    ]
    if plain:
        raise StoreError(
            f"{folder}: this cache is not encrypted ({plain[0].name}), and a key does not change what is "
            "there. Choose another persistence_path for the encrypted one; or open this one without "
            "encryption_key; or delete cache.sqlite3*, blobs and reported_wrong, which loses what was cached."
        )


def _compare(inside: Path, check: str) -> None:
    """See to it that the folder is this key's; one that is nobody's yet becomes so."""
    path = inside / KEY_CHECK
    locks = FileLocks(inside / "opening.lock")
    try:
        with locks.held(OPENING):
            if path.exists():
                _must_be(path, check)
            elif (inside / "cache.sqlite3").exists():
                raise StoreError(
                    f"{path}: is missing, so that it can't be told whether the key is the right one. Put it "
                    f"back from a backup, or delete {inside}, which loses what was cached."
                )
            else:
                _write(path, check)
    finally:
        locks.close()


def _must_be(path: Path, check: str) -> None:
    found = path.read_bytes()
    if compare_digest(found, check.encode()):
        return
    form = found.split(b" ")[0]
    if form.startswith(b"seal") and form[4:].isdigit() and form != _FORM.encode():
        raise StoreFormatError(
            f"{path}: sealed as {form.decode()}, and this version of axolotl-cache reads {_FORM}. It was "
            "left untouched: upgrade, or choose another persistence_path."
        )
    raise StoreError(
        f"{path.parent}: encryption_key is not the key that this cache was made with, or the file "
        f"{path.name} was changed. Nothing was touched: give the right key, or choose another "
        "persistence_path."
    )


def _restorer(inside: Path, check: str) -> Callable[[], None]:
    """Return what writes the key's mark again, should the folder be deleted under a running process."""
    path = inside / KEY_CHECK

    def restore() -> None:
        with suppress(OSError):  # what was stored is stored; the next write tries again
            if not path.exists():
                _write(path, check)

    return restore


def _write(path: Path, check: str) -> None:
    draft = path.with_name(f"{path.name}.new-{new_version():x}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(check)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
