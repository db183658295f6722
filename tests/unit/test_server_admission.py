"""Who may begin, who waits, and what is said to the others."""

import asyncio

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.server.admission import Admission
from axolotl_cache.server.keys import Tenant
from axolotl_cache.server.quotas import Quotas
from axolotl_cache.server.refusal import Refusal


class Crowd:
    """Requests that hold their places until they are told to end."""

    def __init__(self, admission):
        self.admission = admission
        self.began, self.ends = [], {}

    def come(self, name, tenant="", places=1):
        self.ends[name] = asyncio.Event()

        async def hold():
            async with self.admission.place(tenant, places):
                self.began.append(name)
                await self.ends[name].wait()

        return asyncio.ensure_future(hold())

    async def end(self, *names):
        for name in names:
            self.ends[name].set()
        await settle()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_so_many_begin_and_the_others_wait_in_their_order():
    async def run():
        crowd = Crowd(Admission(2, 10))
        for name in "abcd":
            crowd.come(name)
        await settle()
        assert crowd.began == ["a", "b"]
        assert (crowd.admission.running, crowd.admission.waiting) == (2, 2)
        await crowd.end("b")
        assert crowd.began == ["a", "b", "c"]
        await crowd.end("a", "c", "d")
        assert (crowd.admission.running, crowd.admission.waiting) == (0, 0)

    asyncio.run(run())


def test_tenants_that_wait_take_turns():
    async def run():
        crowd = Crowd(Admission(1, 10))
        for name, tenant in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b")]:
            crowd.come(name, tenant)
        await settle()
        for name in ["a1", "a2", "b1", "a3", "b2", "a4"]:
            assert crowd.began[-1] == name
            await crowd.end(name)

    asyncio.run(run())


def test_one_too_many_is_refused_with_an_estimate():
    async def run():
        crowd = Crowd(Admission(1, 1))
        crowd.come("a"), crowd.come("b")
        await settle()
        with pytest.raises(Refusal) as refused:
            await crowd.come("c")
        assert refused.value.status == 429
        assert int(refused.value.headers["retry-after"]) >= 1
        crowd.admission._mean_seconds = 20.0
        assert crowd.admission.retry_after_seconds() == 40  # the one that runs, and the one that waits
        await crowd.end("a", "b")

    asyncio.run(run())


def test_who_leaves_while_waiting_leaves_no_trace():
    async def run():
        crowd = Crowd(Admission(2, 10))
        crowd.come("a")
        large, small = crowd.come("large", places=2), crowd.come("small")
        await settle()
        assert crowd.began == ["a"]  # the large one came first
        large.cancel()
        await settle()
        assert crowd.began == ["a", "small"]
        small.cancel()
        await settle()
        await crowd.end("a")
        assert (crowd.admission.running, crowd.admission.waiting) == (0, 0)

    asyncio.run(run())


def test_who_leaves_in_the_moment_of_being_let_in_gives_the_place_back():
    async def run():
        crowd = Crowd(Admission(1, 10))
        crowd.come("a")
        waiting = crowd.come("b")
        await settle()
        crowd.ends["a"].set()
        while crowd.admission.waiting != 0:
            await asyncio.sleep(0)
        waiting.cancel()
        await settle()
        assert crowd.admission.running == 0

    asyncio.run(run())


def test_more_places_than_there_are_is_all_of_them():
    async def run():
        crowd = Crowd(Admission(2, 10))
        crowd.come("many", places=16)
        await settle()
        assert crowd.began == ["many"]
        await crowd.end("many")
        assert crowd.admission.running == 0

    asyncio.run(run())


def test_requests_by_the_minute():
    clock = ManualClock()
    quotas, tenant = Quotas(clock), Tenant("a", requests_per_minute=2)
    quotas.take(tenant)
    quotas.take(tenant)
    with pytest.raises(Refusal, match="2 requests a minute") as refused:
        quotas.take(tenant)
    assert refused.value.headers["retry-after"] == "30"
    quotas.take(Tenant("b", requests_per_minute=2))
    clock.advance(30)
    quotas.take(tenant)
    with pytest.raises(Refusal):
        quotas.take(tenant)


def test_tokens_by_the_minute_are_owed():
    clock = ManualClock()
    quotas, tenant = Quotas(clock), Tenant("a", tokens_per_minute=600)
    quotas.take(tenant)
    quotas.charge(tenant, 900)
    with pytest.raises(Refusal, match="600 tokens a minute") as refused:
        quotas.take(tenant)
    assert refused.value.headers["retry-after"] == "31"
    clock.advance(31)
    quotas.take(tenant)
