"""A load under way, as its reader and the thread that does it see it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch

from axolotl_cache.engine.lower.block import BlockName

Tensors = tuple[torch.Tensor, ...]


class Fetch:
    """Blocks on their way from the tier below. Ask `done` and `blocks` at any time; neither waits."""

    def __init__(self, names: Sequence[BlockName]) -> None:
        self.names = tuple(names)
        self.asked_at_seconds = time.perf_counter()
        self._blocks: list[Tensors] = []
        self._lock = threading.Lock()
        self._done = threading.Event()

    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is done; return whether it is."""
        return self._done.wait(timeout_seconds)

    def blocks(self) -> list[Tensors]:
        """Return the leading blocks loaded so far, on the CPU; they are not to be written to.

        Fewer than were asked for, once done, where one is missing or damaged: what follows is to be computed.
        """
        with self._lock:
            return list(self._blocks)

    def cancel(self) -> None:
        """Stop here. What has come stays; nothing is added any more."""
        with self._lock:
            self._done.set()

    @property
    def remaining(self) -> int:
        """Blocks still to be loaded."""
        return 0 if self.done() else len(self.names) - len(self._blocks)

    def add(self, tensors: Tensors) -> bool:
        """Take the next block from the loading thread; False when nobody wants it any more."""
        with self._lock:
            if self.done():
                return False
            self._blocks.append(tensors)
            return True
