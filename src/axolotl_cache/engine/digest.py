"""Digests of what is loaded: the bytes of files, and tensors in memory.

A file's digest is remembered under its size, times and inode, so that a model of many gigabytes is read
for its digest once, and not at every start.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.errors import ModelLoadError
from axolotl_cache.paths import cache_home, make_private

CHUNK_BYTES = 4 * 2**20
"""Read and digested at once by one thread."""

SETTLED_SECONDS = 2.0
"""A file changed more recently may change again without a new time stamp: the coarsest clocks of file
systems in use tick every two seconds."""

ATTEMPTS = 3
"""How often something that changes while it is read is read again."""

MEMO_FORMAT = 1


def combine(label: str, parts: Any) -> str:
    """Return 32 hexadecimal digits for `parts`, any JSON value, equal in every process.

    Args:
        label: what is digested; equal parts under two labels give two digests.
        parts: dictionaries, lists, strings, numbers, sets; anything else by its `str`.
    """
    canonical = json.dumps([label, parts], sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"axc-digest").hexdigest()


def _as_json(value: Any) -> Any:
    # A set's own order differs from process to process.
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What the file system says about a file. Equal stamps: the file was not written in between.

    The change time (ctime) can't be set by programs, so that a file rewritten in place and given its old
    modification time back still shows.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of `path` now, links followed.

        Raises:
            FileNotFoundError: there is no such file.
        """
        stat = path.stat()
        return cls(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def is_settled(self, now_seconds: float) -> bool:
        """Whether a later write is sure to give another stamp."""
        return now_seconds - self.ctime_ns / 1e9 >= SETTLED_SECONDS


class DigestMemo:
    """Digests of files by stamp, in the user's cache folder: one small file an entry.

    Safe for any number of processes, because each entry is replaced as a whole. What can't be read,
    parsed or written counts as not remembered: the memo saves time and is never needed.
    """

    def __init__(self, folder: Path | None = None, *, clock: Clock = wall_clock) -> None:
        self.folder = folder if folder is not None else cache_home() / "digests"
        self._clock = clock

    def get(self, stamp: FileStamp) -> str | None:
        """Return the digest of the file that had this stamp, or None."""
        try:
            entry = json.loads(self._entry(stamp).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(entry, dict):
            return None
        digest = entry.pop("digest", None)
        known = entry == {"format": MEMO_FORMAT, **asdict(stamp)}
        return digest if known and _is_digest(digest) else None

    def set(self, stamp: FileStamp, digest: str) -> None:
        """Remember `digest`, unless the file changed so recently that its stamp can't be trusted yet."""
        if not stamp.is_settled(self._clock()):
            return
        entry = {"format": MEMO_FORMAT, **asdict(stamp), "digest": digest}
        with suppress(OSError):
            self._write(self._entry(stamp), json.dumps(entry))

    def _entry(self, stamp: FileStamp) -> Path:
        name = hashlib.blake2b(stamp.path.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self.folder / f"{name}.json"

    def _write(self, entry: Path, text: str) -> None:
        make_private(self.folder)
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, suffix=".tmp")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(entry)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The digest of one file's bytes, and the stamp that the file had while they were read."""

    stamp: FileStamp
    digest: str
    from_memo: bool


def digest_file(path: Path, *, memo: DigestMemo | None = None) -> FileDigest:
    """Return the digest of the bytes of `path`.

    Cost: one read of the file by several threads, or one look-up when the memo knows it.

    Raises:
        ModelLoadError: the file changes all the time, or can't be read.
    """
    try:
        for _ in range(ATTEMPTS):
            stamp = FileStamp.of(path)
            known = memo.get(stamp) if memo is not None else None
            if known is not None:
                return FileDigest(stamp, known, from_memo=True)
            digest = _digest_bytes(path, stamp.size_bytes)
            if FileStamp.of(path) == stamp:
                if memo is not None:
                    memo.set(stamp, digest)
                return FileDigest(stamp, digest, from_memo=False)
    except OSError as error:
        raise ModelLoadError(f"{path} can't be read: {error}") from error
    raise ModelLoadError(
        f"{path} was written to while it was read, {ATTEMPTS} times. Load it when it is complete."
    )


def digest_tensors(tensors: Iterable[tuple[str, Any]]) -> str:
    """Return the digest of tensors in memory: names, dtypes, shapes and every byte.

    Tensors that share their memory (tied weights) are read once. Those on a GPU are copied one at a time.

    Args:
        tensors: (name, tensor) pairs; their order does not matter.

    Raises:
        ModelLoadError: a tensor has no bytes here (it lies on the `meta` device).
    """
    seen: dict[tuple[Any, ...], str] = {}
    with ThreadPoolExecutor(_workers()) as pool:
        parts = sorted([name, *_tensor_parts(name, tensor, seen, pool)] for name, tensor in tensors)
    return combine("tensors", parts)


def _tensor_parts(
    name: str, tensor: torch.Tensor, seen: dict[tuple[Any, ...], str], pool: ThreadPoolExecutor
) -> list[Any]:
    if tensor.device.type == "meta":
        raise ModelLoadError(
            f"The tensor {name} is not in memory (device `meta`), so that it can't be told from another. "
            "Load the model without offloading."
        )
    place = (str(tensor.device), tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    # An empty tensor has no place of its own.
    if place not in seen or tensor.numel() == 0:
        seen[place] = _digest_tensor(tensor, pool)
    return [str(tensor.dtype), list(tensor.shape), seen[place]]


def _digest_tensor(tensor: torch.Tensor, pool: ThreadPoolExecutor) -> str:
    # As bytes, because numpy has no bfloat16.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    pieces = (flat[start : start + CHUNK_BYTES] for start in range(0, flat.size, CHUNK_BYTES))
    return _join(flat.size, pool.map(_leaf, pieces))


def _digest_bytes(path: Path, size_bytes: int) -> str:
    with _open(path) as file, ThreadPoolExecutor(_workers()) as pool:
        descriptor = file.fileno()
        starts = range(0, size_bytes, CHUNK_BYTES)
        return _join(size_bytes, pool.map(lambda start: _leaf(_read(descriptor, start)), starts))


def _open(path: Path) -> Any:
    return path.open("rb", buffering=0)


def _read(descriptor: int, start: int) -> bytes:
    """Return the chunk at `start`; less than asked for only at the end of the file."""
    piece = os.pread(descriptor, CHUNK_BYTES, start)
    while 0 < len(piece) < CHUNK_BYTES:
        more = os.pread(descriptor, CHUNK_BYTES - len(piece), start + len(piece))
        if not more:
            break
        piece += more
    return piece


def _leaf(piece: Any) -> bytes:
    return hashlib.blake2b(piece, digest_size=32, person=b"axc-chunk").digest()


def _join(size_bytes: int, leaves: Iterable[bytes]) -> str:
    """Return the digest of the chunks' digests; the length keeps trees of different shape apart."""
    root = hashlib.blake2b(size_bytes.to_bytes(8, "big"), digest_size=16, person=b"axc-bytes")
    for leaf in leaves:
        root.update(leaf)
    return root.hexdigest()


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


def stamps_of(paths: Iterable[Path]) -> dict[Path, FileStamp | None]:
    """Return the stamp of each path now; None for one that does not exist."""
    stamps: dict[Path, FileStamp | None] = {}
    for path in paths:
        try:
            stamps[path] = FileStamp.of(path)
        except OSError:
            stamps[path] = None
    return stamps


def differing(before: Mapping[Path, FileStamp | None]) -> tuple[Path, ...]:
    """Return the paths that were written, replaced, made or removed since `before`."""
    now = stamps_of(before)
    return tuple(path for path, stamp in before.items() if now[path] != stamp)
