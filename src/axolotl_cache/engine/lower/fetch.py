"""A load under way, as its reader and the thread that does it see it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import torch

from axolotl_cache.engine.lower.block import BlockName

Tensors = tuple[torch.Tensor, ...]


class Fetch:
    """Blocks on their way from the tier below. Ask `done` and `blocks` at any time; neither waits.

    It ends by itself when it has lost more than `patience_seconds` against computing: when it has taken that
    much longer than computing what it has brought would have.

    Args:
        names: the blocks, in order.
        patience_seconds: what may be lost by waiting.
        block_seconds: what computing a block takes.
    """

    def __init__(
        self,
        names: Sequence[BlockName],
        *,
        patience_seconds: float = math.inf,
        block_seconds: float = 0.0,
    ) -> None:
        self.names = tuple(names)
        self._patience_seconds = patience_seconds
        self._block_seconds = block_seconds
        self.asked_at_seconds = time.perf_counter()
        self._blocks: list[Tensors] = []
        self._lock = threading.Lock()
        self._done = threading.Event()

    def done(self) -> bool:
        """Whether nothing more will come."""
        if not self._done.is_set() and self._left_seconds() <= 0:
            self.cancel()
        return self._done.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is done, or may be out of patience; return whether it is done."""
        left = min(self._left_seconds(), threading.TIMEOUT_MAX)
        self._done.wait(left if timeout_seconds is None else min(left, timeout_seconds))
        return self.done()

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
            if self._done.is_set():
                return False
            self._blocks.append(tensors)
            return True

    def _left_seconds(self) -> float:
        allowed = self._patience_seconds + len(self._blocks) * self._block_seconds
        return allowed - (time.perf_counter() - self.asked_at_seconds)
