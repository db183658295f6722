"""How much memory there is to share out, and how much of it caches may take while others want it, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch

from axolotl_cache.adjustments import Adjustments, Change

_ROOT: Final = Path("/")
_LOOK_SECONDS: Final = 1.0


def total_memory_bytes(device: torch.device, *, root: Path = _ROOT) -> int:
    """Return the memory of the device in bytes: of the GPU, or for a CPU what this process may have.

    Args:
        device: where the model runs.
        root: of the file system in which to look for a container's limit.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = int(psutil.virtual_memory().total)
    return min([total, *(group.limit_bytes for group in _limits(root))])


def available_memory_bytes(device: torch.device, *, root: Path = _ROOT) -> int:
    """Return the bytes that could be allocated now without swapping, or running into a container's limit.

    What the file cache holds counts as available, as it is given up when somebody asks for memory; on a GPU
    what torch has reserved and does not use.

    Args:
        device: where the model runs.
        root: of the file system in which to look for a container's limit.

    Source: Linux, admin-guide/cgroup-v2; usage less inactive_file is what the kubelet calls the working set.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + max(0, int(unused))
    available = int(psutil.virtual_memory().available)
    rooms = (group.limit_bytes - group.used_bytes for group in _limits(root))
    return max(0, min([available, *rooms]))


class PressureGovernor:
    """Says how many bytes caches may hold while the memory is not theirs alone.

    Below the floor (a share of all memory) they shrink by what is missing, each time somebody looks. Between
    the floor and twice the floor they stay as they are; above it they may grow again, step by step, so that
    they don't swing with a neighbour who takes what they give. While nothing presses, they may grow as far as
    the floor, and up to their own bound.

    Args:
        total_bytes: all of the memory, the caches' included.
        floor_share: share of it that is to stay available.
        step_share: share of it by which caches may grow back, each second.
        available: returns the bytes available now; asked at most once a second.
        clock: seconds that never go back (`time.monotonic`).
        adjustments: where it is noted how the bound changes.
    """

    def __init__(
        self,
        total_bytes: int,
        floor_share: float = 0.05,
        *,
        step_share: float = 0.01,
        available: Callable[[], int],
        clock: Callable[[], float],
        adjustments: Adjustments | None = None,
    ) -> None:
        if total_bytes < 1 or not 0 <= floor_share < 1 or not 0 < step_share <= 1:
            raise ValueError(
                f"total {total_bytes}, floor {floor_share}, step {step_share}: no shares of memory"
            )
        self._floor_bytes = int(total_bytes * floor_share)
        self._step_bytes = max(1, int(total_bytes * step_share))
        self._available = available
        self._clock = clock
        self.adjustments = adjustments or Adjustments()
        self._looked_at: float | None = None
        self._seen_bytes = self._limit_bytes = total_bytes
        self.shrinking = False
        """Whether memory ran short, and the caches have not grown back to their bound since."""

    def allowed_bytes(self, held_bytes: int, bound_bytes: int) -> int:
        """Return how many bytes the caches may hold now, from 0 to their bound.

        Args:
            held_bytes: what they hold.
            bound_bytes: their own bound.
        """
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            before, was_short = min(bound_bytes, self._limit_bytes), self.shrinking
            self._look(held_bytes, bound_bytes)
            self._note(before, min(bound_bytes, self._limit_bytes), was_short)
        return max(0, min(bound_bytes, self._limit_bytes))

    def _note(self, before: int, after: int, was_short: bool) -> None:
        if after < before and self.shrinking:
            why = (
                f"{max(0, self._seen_bytes):,} bytes of memory were free, less than the "
                f"{self._floor_bytes:,} that are to stay so"
            )
            self.adjustments.note(Change.SHRINK, "prefix cache", before, after, why)
        elif after > before and was_short:
            why = f"{self._seen_bytes:,} bytes of memory were free again"
            self.adjustments.note(Change.GROW, "prefix cache", before, after, why)

    def _look(self, held_bytes: int, bound_bytes: int) -> None:
        self._seen_bytes = self._available()
        spare = self._seen_bytes - self._floor_bytes
        room = held_bytes + spare
        if spare < 0:
            self.shrinking = True
            self._limit_bytes = max(0, min(self._limit_bytes, room))
        elif not self.shrinking:
            self._limit_bytes = room
        elif spare >= self._floor_bytes:
            self._limit_bytes = min(self._limit_bytes + self._step_bytes, room)
            self.shrinking = self._limit_bytes < bound_bytes
        else:
            self._limit_bytes = min(self._limit_bytes, room)


@dataclass(frozen=True, slots=True)
class _Limit:
    limit_bytes: int
    used_bytes: int
    """Without the file cache that would be given up first."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a version of control groups keeps its figures."""

    folder: str
    limits: tuple[str, ...]
    usage: str
    file_cache: str


_V2: Final = _Kind("sys/fs/cgroup", ("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1: Final = _Kind(
    "sys/fs/cgroup/memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"
)


def _limits(root: Path) -> Iterator[_Limit]:
    """Yield the limits of the control groups that this process is in, and of those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield from _limits_of(_V2, root, path)
        elif "memory" in controllers.split(","):
            yield from _limits_of(_V1, root, path)


def _limits_of(kind: _Kind, root: Path, path: str) -> Iterator[_Limit]:
    top = root / kind.folder
    group = top / path.strip("/")
    # Inside a container the path may be the host's, and not there: then the mounted top is the group itself.
    if ".." in group.parts or not group.is_dir():
        group = top
    while True:
        limits = [_number(group / name) for name in kind.limits]
        used = _number(group / kind.usage)
        known = [limit for limit in limits if limit is not None]
        if known and used is not None:
            yield _Limit(min(known), max(0, used - _file_cache(group / "memory.stat", kind.file_cache)))
        if group == top:
            return
        group = group.parent


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or it says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _file_cache(path: Path, name: str) -> int:
    try:
        rows = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(rows.get(name, 0))
    except (OSError, ValueError):
        return 0
