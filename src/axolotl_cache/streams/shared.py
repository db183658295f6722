"""Equal requests that are under way at the same time: computed once, and every reader has it as it comes.

There is no thread of its own. The parts that came are kept, and whichever reader wants one that is not there
yet has it computed, for all: a slow reader, or one that leaves, holds up nobody. When the last has left, the
computation is closed. If it fails, the error goes to the reader that began it, and one of the others begins
anew: what that yields must begin with what they have had already, or they end with an error of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Generic, TypeVar

from axolotl_cache.errors import RequestCancelled, StreamDiverged
from axolotl_cache.streams.stop import Stop
from axolotl_cache.streams.window import Window

T = TypeVar("T")


class SourceFailed(Exception):
    """Another reader's computation failed."""


class SharedStream(Generic[T]):
    """What one computation yields, for all who read it.

    Args:
        source: the computation; run by one reader's thread at a time, closed when nobody reads on.
        ended: called once, when nothing more will come or nobody is left.
        nobody: set when all readers were told to leave, while one of them waits in the computation.
        window: keeps the parts.
    """

    def __init__(
        self,
        source: Generator[T, None, None],
        ended: Callable[[SharedStream[T]], None],
        nobody: Stop,
        window: Window[T],
    ) -> None:
        self._source = source
        self._ended = ended
        self._changed = threading.Condition()
        self._window = window
        self._is_pulled = False
        self._is_over = False
        self._error: BaseException | None = None
        self._readers = 0
        self._leaving = 0
        self._nobody = nobody

    def join(self) -> bool:
        """Count the caller among the readers: it must then `read`. False if it comes too late."""
        with self._changed:
            may_join = self._window.is_whole and not (self._is_over or self._nobody.is_set)
            if may_join:
                self._readers += 1
            return may_join

    def read(self, stop: Stop) -> Generator[T, None, None]:
        """Yield all parts from the first on, those to come included; for each that has joined, once.

        Args:
            stop: set when this reader is to leave, though it may be waiting.

        Raises:
            SourceFailed: the computation failed, with its error as the cause.
            RequestCancelled: it was told to leave.
            ReaderTooSlow: what comes next is not kept any more.
        """
        seen, was_told = 0, False

        def be_told() -> None:
            nonlocal was_told
            was_told = True
            self._let_leave()

        stop.tell(be_told)
        try:
            while self._is_there(seen, stop):
                with self._changed:
                    part = self._window.take(seen)
                yield part
                seen += 1
        finally:
            self._leave(was_told)

    def _let_leave(self) -> None:
        """Let go a reader that waits; and the computation, if that was the last."""
        with self._changed:
            self._leaving += 1
            is_last = self._leaving >= self._readers and not self._is_over
            self._changed.notify_all()
        if is_last:
            self._nobody.set()

    def _is_there(self, index: int, stop: Stop) -> bool:
        """Return whether there is such a part; wait for it, or have it computed, while that is open."""
        while True:
            with self._changed:
                while index >= self._window.end and self._is_pulled and not stop.is_set:
                    self._changed.wait()
                if stop.is_set:
                    raise RequestCancelled("its reader has left")
                if index < self._window.end:
                    return True
                if self._error is not None:
                    raise SourceFailed from self._error
                if self._is_over:
                    return False
                self._is_pulled = True
            self._pull()

    def _pull(self) -> None:
        """Have the next part computed."""
        parts: list[T] = []
        error: BaseException | None = None
        try:
            parts = [next(self._source)]
        except StopIteration:
            pass
        except BaseException as failure:
            error = failure
            if not isinstance(failure, Exception):
                raise  # it is this thread that is interrupted; to the others it is a failure like any
        finally:
            with self._changed:
                for part in parts:
                    self._window.add(part)
                self._is_pulled, self._is_over, self._error = False, not parts, error
                self._changed.notify_all()
            if not parts:
                self._ended(self)

    def _leave(self, was_told: bool) -> None:
        with self._changed:
            self._readers -= 1
            self._leaving -= was_told
            if self._readers or self._is_over:
                return
            self._is_over = True
        self._ended(self)
        self._source.close()


class SharedStreams(Generic[T]):
    """The computations that are under way, by key."""

    def __init__(self) -> None:
        # Entered again where the collector of cycles ends an abandoned reader in the midst of `join`.
        self._lock = threading.RLock()
        self._streams: dict[str, SharedStream[T]] = {}

    def join(
        self,
        key: str,
        begin: Callable[[Stop], Generator[T, None, None] | None],
        window: Callable[[], Window[T]] = Window,
    ) -> tuple[SharedStream[T], bool] | None:
        """Return what is under way for `key`, begun if need be, and whether this began it; then `read` it.

        Args:
            key: equal for what may be shared.
            begin: as for `read`; None of it gives None.
            window: makes what keeps its parts.
        """
        with self._lock:
            stream = self._streams.get(key)
            if stream is not None and stream.join():
                return stream, False
            nobody = Stop()
            source = begin(nobody)
            if source is None:
                return None
            stream = self._streams[key] = SharedStream(
                source, lambda over: self._forget(key, over), nobody, window()
            )
            stream.join()
            return stream, True

    def read(
        self, key: str, begin: Callable[[Stop], Generator[T, None, None] | None], stop: Stop
    ) -> Generator[tuple[T, bool], None, None]:
        """Yield each part of what is computed for `key`, and whether this very reader began the computation.

        Ends without a part, or too early, where there is nothing to compute any more.

        Args:
            key: equal for what may be shared.
            begin: returns the computation, not yet begun; None if there is none to begin, as what it
                would yield has come by another way. Called under a lock: it must not take long. It is given
                what is set when nobody reads on.
            stop: set when this reader is to leave.

        Raises:
            StreamDiverged: another's computation failed half way, and computed again it began otherwise.
            Exception: what the computation raised, if this reader began it.
        """
        had: list[T] = []
        while (joined := self.join(key, begin)) is not None:
            stream, is_mine = joined
            try:
                with closing(stream.read(stop)) as parts:
                    for part in behind(had, parts):
                        yield part, is_mine
                return
            except SourceFailed as failed:
                if isinstance(failed.__cause__, Exception) and (is_mine or stop.is_set):
                    raise failed.__cause__ from None

    def _forget(self, key: str, stream: SharedStream[T]) -> None:
        with self._lock:
            if self._streams.get(key) is stream:
                del self._streams[key]


def behind(had: list[T], parts: Iterable[T]) -> Iterator[T]:
    """Yield the parts behind those that a reader `had`, and count them among these.

    Raises:
        StreamDiverged: they begin otherwise.
    """
    for at, part in enumerate(parts):
        if at == len(had):
            had.append(part)
            yield part
        elif had[at] != part:
            raise StreamDiverged(
                "an answer failed half way, and computed again it began otherwise; send the request again"
            )
