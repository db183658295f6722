"""Which replica a request goes to, what a router knows, and what a replica says: all of it without Ray."""

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="pip install 'axolotl-cache[server]'")

from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.errors import ConfigError
from axolotl_cache.ray_serve.calls import carried
from axolotl_cache.ray_serve.choice import LOAD_FACTOR, Candidate, rank
from axolotl_cache.ray_serve.failure import reason_in
from axolotl_cache.ray_serve.holdings import Holdings, read_told
from axolotl_cache.ray_serve.knowledge import Knowledge
from axolotl_cache.ray_serve.spec import Scaling, plain, scaling_of
from axolotl_cache.ray_serve.ticket import Ticket, ticket_of
from axolotl_cache.ray_serve.transfer import messages


def order(chunks, *candidates, each=1.0):
    return rank(range(chunks), candidates, chunks_a_request=each)


def test_who_holds_more_of_the_prompt_is_first():
    assert order(4, Candidate("a", 0, 0), Candidate("b", 3, 0), Candidate("c", 2, 0)) == [1, 2, 0]


def test_what_is_under_way_counts_as_what_is_lacking():
    busy, free = Candidate("busy", 3, 1), Candidate("free", 0, 0)
    assert order(4, busy, free, each=2.0) == [0, 1]  # 2 + 1 against 4
    assert order(4, busy, free, each=4.0) == [1, 0]  # 4 + 1 against 4


def test_who_is_busy_is_not_sent_what_it_holds():
    others = (Candidate("b", 0, 1), Candidate("c", 0, 2))
    assert order(9, Candidate("a", 9, 6), *others)[-1] == 0
    assert order(9, Candidate("a", 9, 2), *others)[0] == 0


def test_a_conversation_stays_where_it_is():
    assert order(6, Candidate("a", 5, 0), Candidate("b", 1, 0, knows_conversation=True)) == [1, 0]


def test_routers_that_know_nothing_agree_and_spread():
    idle = [Candidate(name, 0, 0) for name in "abcd"]
    chosen = [rank([chunk, 1], idle, chunks_a_request=1)[0] for chunk in range(400)]
    assert chosen == [rank([chunk, 2], idle, chunks_a_request=1)[0] for chunk in range(400)]
    assert min(chosen.count(place) for place in range(4)) > 60


def test_prompts_behind_a_beginning_that_all_have_spread():
    same = [Candidate(name, 1, 0) for name in "abcd"]
    chosen = [rank([7, chunk], same, chunks_a_request=1)[0] for chunk in range(400)]
    assert min(chosen.count(place) for place in range(4)) > 60


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 200), st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(0, 2**64 - 1), max_size=50),
    st.floats(0, 100),
)
def test_every_replica_is_ranked_once_and_the_first_is_within_the_bound(replicas, chunks, each):
    candidates = [Candidate(str(i), *replica) for i, replica in enumerate(replicas)]
    found = rank(chunks, candidates, chunks_a_request=each)
    assert sorted(found) == list(range(len(replicas)))
    even = (sum(candidate.load for candidate in candidates) + 1) / len(candidates)
    assert candidates[found[0]].load < LOAD_FACTOR * even + 1


def test_what_was_sent_counts_until_the_replica_would_have_told_of_it():
    knowledge = Knowledge(trust_seconds=10)
    knowledge.told("a", [])
    knowledge.sent("a", [1, 2, 3], now=100)
    assert matched(knowledge, [1, 2, 3, 4], 105) == 3
    assert matched(knowledge, [1, 2, 3, 4], 111) == 0  # it was evicted: the replica does not name it
    knowledge.told("a", [1, 2])
    assert matched(knowledge, [1, 2, 3, 4], 111) == 2
    knowledge.keep_only(["b"])
    assert matched(knowledge, [1, 2], 111) == 0


def test_what_a_router_remembers_is_bounded_and_keeps_beginnings():
    knowledge = Knowledge(most_sent=4)
    knowledge.sent("a", [1, 2, 3], now=0)
    knowledge.sent("a", [7, 8, 9], now=0)
    assert matched(knowledge, [1, 2, 3], 1) == 1
    assert matched(knowledge, [7, 8, 9], 1) == 3


def matched(knowledge, chunks, now):
    (candidate,) = knowledge.candidates(chunks, None, {"a": 0}, now)
    return candidate.matched


def body(*texts, **fields):
    return json.dumps({"messages": [{"role": "user", "content": t} for t in texts]} | fields).encode()


def test_tickets_of_a_conversation_begin_alike():
    system = "You answer for a bank. " * 60
    first = ticket_of(body(system, "Where is my card?"), {}, "t")
    second = ticket_of(body(system, "Where is my card?", "On its way.", "Since when?"), {}, "t")
    assert first.chunks[:5] == second.chunks[:5]
    assert first.chunks[-1] != second.chunks[-1]
    assert ticket_of(body(system, "Where is my card?"), {}, "t") == first


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"model": "m"}, {"tools": [{"name": "f"}]}])
def test_other_tenants_models_and_tools_share_no_number(other):
    text = "You answer for a bank. " * 60
    tenant = other.pop("tenant", "t")
    assert not set(ticket_of(body(text), {}, "t").chunks) & set(
        ticket_of(body(text, **other), {}, tenant).chunks
    )


def test_sessions_have_a_number_of_their_own():
    one, two = ({"x-session-id": name} for name in ("a", "b"))
    assert ticket_of(body("x"), one, "t").conversation == ticket_of(body("y"), one, "t").conversation
    assert ticket_of(body("x"), one, "t").conversation != ticket_of(body("x"), two, "t").conversation
    assert ticket_of(body("x"), one, "t").conversation != ticket_of(body("x"), one, "u").conversation


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[1]", b"\xff", b"12"])
def test_what_is_no_request_gets_an_empty_ticket(nonsense):
    assert ticket_of(nonsense, {}, "t") == Ticket()


def test_a_replica_tells_what_the_tree_still_has():
    holdings = Holdings()
    shares = {"old": 0.5, "new": 1.0}
    holdings.note(Ticket((1, 2, 3, 4)), lambda: lambda: shares["old"])
    holdings.note(Ticket((5, 6), conversation=7), lambda: lambda: shares["new"])
    assert list(read_told(holdings.told())) == [7, 5, 6, 1, 2]
    shares["old"] = 0.0
    assert list(read_told(holdings.told())) == [7, 5, 6]


def test_reports_are_bounded():
    holdings = Holdings(most_told=10, most_prompts=3)
    for prompt in range(5):
        holdings.note(Ticket(tuple(range(100 * prompt, 100 * prompt + 6))), lambda: lambda: 1.0)
    assert list(read_told(holdings.told())) == [*range(400, 406), *range(300, 304)]


def test_a_prompt_is_cut_once():
    holdings, cut = Holdings(), []
    for _ in range(3):
        holdings.note(Ticket((1, 2)), lambda: cut.append(1) or (lambda: 1.0))
        holdings.told()
    assert cut == [1]


def test_an_application_is_called_from_elsewhere():
    async def application(scope, receive, send):
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode() + message["body"]})

    async def read():
        return [m async for m in messages(application, carried({"path": "/x", "headers": []}), b"!")]

    assert asyncio.run(read())[1]["body"] == b"/x!"


def test_its_failure_is_ours():
    async def application(scope, receive, send):
        raise ValueError("broken")

    async def read():
        return [m async for m in messages(application, {}, b"")]

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read())


def test_whoever_reads_no_more_has_left():
    seen = []

    async def application(scope, receive, send):
        await receive()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            seen.append((await receive())["type"])
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def read():
        answer = messages(application, {}, b"")
        await anext(answer)
        await answer.aclose()

    asyncio.run(read())
    assert seen == ["cancelled"]


def test_replicas_as_flags_say():
    assert scaling_of("2", cpus=1, gpus=0) == Scaling(2, 2)
    assert plain(scaling_of("1:4", cpus=1, gpus=0))["autoscaling_config"]["max_replicas"] == 4
    assert plain(Scaling(3, 3)) == {"num_replicas": 3}


@pytest.mark.parametrize("wrong", ["", "x", "0", "4:1", "1:2:3"])
def test_replicas_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="replicas"):
        scaling_of(wrong, cpus=1, gpus=0)


def test_of_a_deployment_that_failed_the_last_error_is_told():
    told = (
        "The deployment failed to start 3 times in a row. Error:\n\x1b[36mray::ServeReplica()\x1b[39m\n"
        "Traceback (most recent call last):\n  File ..., in load\nOSError: no such folder\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File ..., in __init__\n"
    )
    assert reason_in(told) == "OSError: no such folder"
    assert reason_in(told + "axolotl_cache.errors.ConfigError: 1 mistake:\n  c.yaml:3: wrong\n") == (
        "1 mistake:\n  c.yaml:3: wrong"
    )
    assert reason_in("no replica fits on any node") == "no replica fits on any node"
