"""Equal requests wait for the first; where its answer is not stored, they do not wait for one another."""

import threading

import pytest

from axolotl_cache.pipeline.equal_requests import Computing, EqualRequests
from axolotl_cache.request import Answer, Served, Usage


def answer(not_stored):
    return Answer("text", "stop", Served.MISS, Usage(1, 0, 1), 0.1, 0.1, not_stored=not_stored)


@pytest.mark.parametrize(("not_stored", "computes"), [("cut off", True), (None, False)])
def test_who_waits_computes_at_once_if_the_answer_is_not_stored_and_else_looks_again(not_stored, computes):
    equal, first = EqualRequests(), Computing()
    assert equal.begin("k", first)
    begun, waiting, wait = [], threading.Semaphore(0), first.wait
    first.wait = lambda: (waiting.release(), wait())[1]

    def waits():
        # Without an `end`: whoever would wait for another of these would not come back.
        begun.append(equal.begin("k", Computing()))

    threads = [threading.Thread(target=waits, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=20)
    list(first.handed_out(part for part in [answer(not_stored)]))
    equal.end("k", first)
    for thread in threads:
        thread.join(20)
    assert begun == [computes] * 3


def test_after_a_failure_one_takes_over():
    equal, first, second = EqualRequests(), Computing(), Computing()
    second.thread = -1
    assert equal.begin("k", first)
    threading.Timer(0.05, equal.end, ["k", first]).start()
    assert equal.begin("k", second) is False, "it looks again"
    assert equal.begin("k", second) is True, "and is the one who computes"
