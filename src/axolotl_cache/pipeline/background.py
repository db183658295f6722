"""Work that nobody waits for: one thread, a short queue, and what does not fit is left out."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

_WAITING = 64


class Background:
    """Runs what it is given, one after another, in a thread that is made when there is something.

    What fails is a warning: nobody is there to catch it. What comes when the queue is full is left out, and
    counted in `left_out`; whether it is does not depend on what it would have found.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.left_out = 0
        self._name = name
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], object]) -> bool:
        """Have `work` done later, and return whether it will be."""
        with self._lock:
            if self._closed:
                return False
            try:
                self._waiting.put_nowait(work)
            except queue.Full:
                self.left_out += 1
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            return True

    def wait(self) -> None:
        """Return when all that was submitted before has been done."""
        self._waiting.join()

    def close(self) -> None:
        """Leave out what is waiting, and wait for what runs."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None or not thread.is_alive():
            return
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
                self.left_out += 1
                self._waiting.task_done()
        self._waiting.put(None)
        thread.join()

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                work()
            except Exception as error:
                warnings.warn(f"{self._name}: {error!r}", RuntimeWarning, stacklevel=1)
            finally:
                self._waiting.task_done()
        self._waiting.task_done()
