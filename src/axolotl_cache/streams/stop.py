"""How a reader that waits for a part is told to wait no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Stop:
    """Set once, from any thread, when a reader leaves; what is computed for it alone ends at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._calls: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether the reader has left."""
        return self._is_set

    def set(self) -> None:
        """Tell everything that asked to be told."""
        with self._lock:
            if self._is_set:
                return
            self._is_set = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def tell(self, call: Callable[[], None]) -> None:
        """Have something called when it is set; at once, if it is set already."""
        with self._lock:
            if not self._is_set:
                self._calls.append(call)
                return
        call()
