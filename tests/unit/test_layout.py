"""What changes early in the last prompts of a run, and what it costs: told of few requests as of many."""

import random

import pytest

from axolotl_cache.layout import HeadSample
from axolotl_cache.pipeline.layout_report import LayoutReport
from axolotl_cache.request import Message, Request

RULES = [f"Rule {n}: an answer says what the customer can do next, and by when.\n" for n in range(40)]
ABOUT = "".join(RULES)


def asked(system, number=0, **more):
    return Request(messages=(Message("system", system), Message("user", f"Question {number}?")), **more)


def lines(requests, tokens=1_000):
    report = LayoutReport()
    for request in requests:
        report.note(request, tokens)
    return list(report.lines())


@pytest.mark.parametrize("count", [4, 16, 40])
def test_an_early_date_is_told_with_its_place_its_cost_and_two_of_them(count):
    (line,) = lines(asked(f"You help.\nToday is 2026-03-{n % 28 + 1:02d}.\n{ABOUT}", n) for n in range(count))
    kept = min(count, 16)
    assert f"of the last {kept} prompts" in line
    assert "at character 10 changes" in line
    assert "'2026-03-" in line
    lost = int(line.split()[2].replace(",", ""))
    assert 0.9 * (kept - 1) * 1_000 < lost < (kept - 1) * 1_000, "the first has to be computed in any case"


def test_tools_in_another_order_each_time_are_told():
    tools = [{"name": f"tool_{n}", "description": "does something useful " * 20} for n in range(5)]
    rng = random.Random(1)
    (line,) = lines(asked("You help.", n, tools=tuple(rng.sample(tools, 5))) for n in range(12))
    assert "the tools come in different orders" in line


def test_control_what_stands_behind_or_stays_costs_nothing():
    assert lines(asked(f"{ABOUT}Today is 2026-03-{n + 1:02d}.", n) for n in range(16)) == []
    assert lines(asked(f"Today is 2026-03-01.\n{ABOUT}", n) for n in range(16)) == []
    short = (asked(f"Today is 2026-03-{n + 1:02d}.\nBe brief.", n) for n in range(16))
    assert lines(short, tokens=20) == []


def test_nothing_to_say_about_few_or_unlike_prompts():
    rng = random.Random(1)
    assert lines([]) == []
    assert lines([asked(ABOUT)]) == []
    words = ["".join(rng.choices("abcdefgh ", k=900)) for _ in range(16)]
    assert lines(Request(prompt=text) for text in words) == []


def test_the_growing_turns_of_a_conversation_lose_nothing():
    turns = [Message("user", f"Tell me more about part {n}. " * 9) for n in range(16)]
    assert lines(Request(messages=(Message("system", ABOUT), *turns[:n])) for n in range(1, 16)) == []


def test_prompts_of_two_kinds_are_told_apart():
    other = "".join(f"Step {n} of the other program is done before step {n + 1}.\n" for n in range(40))
    both = [asked(f"Today is 2026-03-{n + 1:02d}.\n{ABOUT}" if n % 2 else other, n) for n in range(16)]
    (line,) = lines(both)
    lost = int(line.split()[2].replace(",", ""))
    assert 0.8 * 7 * 1_000 < lost < 8 * 1_000


def test_a_sample_stays_small_and_still_sees_it():
    sample = HeadSample(100)
    for n in range(5_000):
        sample.see([("system", f"Request {n:08x}-0000-4000-8000-{n:012x}\n{ABOUT}"), ("user", "?")])
    (part,) = sample.changing()
    assert part.kind == "id"
    assert part.sampled <= 100
    assert part.lost_share > 0.9
