"""What sessions and records take beside keys and values is counted as it is, and bounded."""

import gc
import tracemalloc

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.entities import Entity
from axolotl_cache.request import Message
from axolotl_cache.session import Records, SessionName, Sessions, Who


def talk(sessions, number, turns):
    session = sessions.use(SessionName("", f"user-{number}", f"session-{number}"))
    said = []
    for turn in range(turns):
        said += [Message("user", f"Where is order #{number}{turn:04d}?"), Message("assistant", "On its way.")]
        session.conversation.read(said[:-1])
    sessions.save(session)
    return session


@pytest.mark.parametrize("turns", [1, 12])
def test_what_is_counted_is_what_python_takes(turns):
    sessions = Sessions(1000, ManualClock())
    talk(sessions, 0, turns)  # tables that are made once
    before = sessions.held_bytes
    gc.collect()
    tracemalloc.start()
    for number in range(1, 41):
        talk(sessions, number, turns)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 < (sessions.held_bytes - before) / taken < 1.7


def test_the_sessions_idle_longest_go_where_their_records_take_too_much():
    clock = ManualClock()
    sessions = Sessions(1000, clock)
    one = talk(sessions, 0, 3).held_bytes
    bounded = Sessions(1000, clock, max_bytes=10 * one)
    for number in range(30):
        bounded.take_idle()
        talk(bounded, number, 3)
        clock.advance(1)
    bounded.take_idle()
    assert [session.name.id for session in bounded] == [f"session-{n}" for n in range(20, 30)]
    assert bounded.held_bytes <= 10 * one
    free = Sessions(1000, clock)
    for number in range(30):
        free.take_idle()
        talk(free, number, 3)
    assert len(free) == 30, "control: without a bound they all stay"


def test_the_count_follows_whatever_takes_a_session_out():
    clock = ManualClock()
    sessions = Sessions(100, clock)
    for number in range(6):
        talk(sessions, number, number + 1)
    sessions.end("session-0")
    sessions.erase(tag="user:user-1")
    talk(sessions, 2, 9)
    assert sessions.held_bytes == sum(session.held_bytes for session in sessions)
    clock.advance(101)
    assert len(sessions.take_idle()) == 4
    assert sessions.held_bytes == 0


class Provider:
    kinds = ("order",)

    def may_see(self, entity, who):
        return True

    def fetch(self, entity, tenant):
        return "x" * 5_000


def test_records_are_bounded_in_bytes_and_the_ones_used_longest_ago_go():
    records = Records(Provider(), ManualClock(), max_bytes=10 * 6_000)
    for number in range(30):
        records.see(Entity("order", str(number)), Who("", ""))
    assert len(records) == 10
    assert records.held_bytes <= 60_000
    assert records.see(Entity("order", "29"), Who("", "")).was_cached
    assert not records.see(Entity("order", "3"), Who("", "")).was_cached
    free = Records(Provider(), ManualClock())
    for number in range(30):
        free.see(Entity("order", str(number)), Who("", ""))
    assert len(free) == 30, "control: without a bound they all stay"
    for number in range(30):
        free.drop(Entity("order", str(number)))
    assert free.held_bytes == 0
