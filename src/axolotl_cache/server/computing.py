"""The pipeline's generators, which block, behind an event loop, which must not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from axolotl_cache.request import Answer, Delta
from axolotl_cache.streams.stop import Stop

Parts = Generator[Delta | Answer, None, None]


class Computing:
    """Threads that read generators.

    Each request has a thread while it is computed: it only waits, as the engine has a thread of its own.

    Args:
        most: how many are read at once.
    """

    def __init__(self, most: int) -> None:
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="request")

    async def read(self, parts: Parts, stop: Stop, *, pieces: bool) -> AsyncGenerator[Delta | Answer, None]:
        """Yield what a generator yields; leaving early has it closed.

        Args:
            parts: read in a thread of its own.
            stop: ends it, wherever it waits.
            pieces: False leaves out all but the answer.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[Delta | Answer | BaseException | None] = asyncio.Queue()
        left = threading.Event()

        def run() -> None:
            end: BaseException | None = None
            try:
                with closing(parts):
                    if left.is_set():
                        return
                    for part in parts:
                        if left.is_set():
                            return
                        if pieces or isinstance(part, Answer):
                            loop.call_soon_threadsafe(came.put_nowait, part)
            except BaseException as error:  # whatever it is, it is raised to who waits for it
                end = error
            finally:
                loop.call_soon_threadsafe(came.put_nowait, end)

        reading = loop.run_in_executor(self._threads, run)
        try:
            while (part := await came.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            left.set()
            stop.set()
            await asyncio.shield(reading)

    def close(self) -> None:
        """Wait for all that run."""
        self._threads.shutdown()
