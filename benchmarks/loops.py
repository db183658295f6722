"""Two ways to send a day's requests: as fast as they are answered, and at given times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from axolotl_cache.request import Answer, Request

IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Replied:
    """An answer, and when."""

    answer: Answer
    sent_seconds: float
    """Counted from the start of the run."""
    seconds: float
    """From being sent to the whole answer, stored where it was to be."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a day's requests, in their order."""

    replies: list[Replied]
    seconds: float

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return len(self.replies) / self.seconds


def closed(pipeline: Any, requests: Sequence[Request]) -> Run:
    """Send the requests in their order, `IN_FLIGHT` being on their way until there are no more."""
    return _run(pipeline, requests, IN_FLIGHT, lambda number, started: None)


def opened(pipeline: Any, requests: Sequence[Request], at_seconds: Sequence[float]) -> Run:
    """Send each request at its time, whatever has become of those before it."""

    def wait(number: int, started: float) -> None:
        time.sleep(max(0.0, started + at_seconds[number] - time.perf_counter()))

    return _run(pipeline, requests, len(requests), wait)


def _run(pipeline: Any, requests: Sequence[Request], threads: int, wait: Callable[[int, float], None]) -> Run:
    replies: list[Future[Replied]] = []
    room = threading.Semaphore(threads)
    with pipeline.engine.in_background(), ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()

        def answer(request: Request) -> Replied:
            sent = time.perf_counter()
            try:
                answer = pipeline.answer(request)
            finally:
                room.release()
            return Replied(answer, sent - started, time.perf_counter() - sent)

        for number, request in enumerate(requests):
            room.acquire()
            wait(number, started)
            replies.append(pool.submit(answer, request))
        done = [reply.result() for reply in replies]
        return Run(done, time.perf_counter() - started)
