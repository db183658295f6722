"""What is counted of finished requests: histograms, time series, counters, the last requests."""

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_cache.clock import ManualClock
from axolotl_cache.observe import Call, Failure, Observer, Record
from axolotl_cache.observe.baseline import LEAST_COMPUTED, Baseline
from axolotl_cache.observe.counters import MISS_CODES, MOST_TENANTS, OTHERS, Counters, miss_code
from axolotl_cache.observe.histogram import BOUNDS_SECONDS, Histogram
from axolotl_cache.observe.recent import Recent
from axolotl_cache.observe.series import Series
from axolotl_cache.request import Answer, Message, Miss, Request, Saved, Served, Usage

START = 1_700_000_000.0


def answered(served=Served.MISS, *, prompt=100, cached=0, ttft=0.2, total=1.0, **more) -> Answer:
    usage = Usage(prompt, prompt if served is Served.HIT_EXACT else cached, 11)
    return Answer("some text", "stop", served, usage, ttft, total, **more)


def asked(text="Hello?", **more) -> Request:
    return Request(messages=(Message("user", text),), **more)


def record(served="miss", n=0, *, status="ok", tenant="", total=1.0) -> Record:
    return Record(
        id=str(n), at=START, tenant=tenant, session="", route="", model="", node="", is_stream=False,
        status=status, detail="", served=served if status == "ok" else "", prompt_tokens=100, cached_tokens=0,
        completion_tokens=11, age_seconds=0.0, queue_seconds=0.0, ttft_seconds=0.1, total_seconds=total,
        saved_tokens=0, saved_seconds=0.0, saved_money=None, currency="", finish_reason="stop", key="",
        not_stored=None, response_miss=None, prefix_miss=None,
    )  # fmt: skip


def observer(clock=None, **options) -> Observer:
    return Observer(clock=clock or ManualClock(START), **options)


# Histograms


def test_bounds_grow_by_about_a_quarter():
    ratios = [b / a for a, b in pairwise(BOUNDS_SECONDS)]
    assert min(ratios) > 1.2
    assert max(ratios) < 1.3
    assert BOUNDS_SECONDS[0] == 1e-5
    assert BOUNDS_SECONDS[-1] == 400.0


@given(st.lists(st.floats(2e-5, 300), min_size=1, max_size=60), st.sampled_from([0.1, 0.5, 0.95, 0.99]))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values, share):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
    assert true / 1.27 <= histogram.quantile(share) <= true * 1.27
    assert histogram.count == len(values)
    assert math.isclose(histogram.sum_seconds, sum(values))


def test_merged_histograms_are_one():
    both, one, other = Histogram(), Histogram(), Histogram()
    for n in range(40):
        both.add(0.01 * n)
        (one if n % 3 else other).add(0.01 * n)
    one.merge(other)
    assert one.counts == both.counts
    assert one.quantile(0.5) == both.quantile(0.5)


def test_no_observation_no_quantile():
    assert Histogram().quantile(0.5) is None


# Time series

EVENTS = st.lists(
    st.tuples(st.floats(0, 900, allow_nan=False), st.sampled_from(["miss", "hit-exact", "failed"])),
    max_size=80,
)


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.sampled_from([100.0, 600.0, 3600.0, 40_000.0]), st.integers(1, 40))
def test_a_window_holds_what_a_list_of_all_events_would(gaps, span, points):
    """Rings of 10 s x 12, 60 s x 10 and 600 s x 20: what is younger than a ring's span is never lost."""
    series = Series(((10.0, 12), (60.0, 10), (600.0, 20)))
    now, events = START, []
    for gap, kind in gaps:
        now += gap
        series.add(record(kind, status="ok" if kind != "failed" else "error"), now)
        events.append((now, kind))
    slots = series.window(span, now, points)
    assert len(slots) <= max(points, 1)
    first, wide = slots[0].start, (slots[1].start - slots[0].start) if len(slots) > 1 else span
    covered = {100.0: 120.0, 600.0: 600.0}.get(span, 12_000.0)
    due = Counter(kind for at, kind in events if at >= max(first, now - covered + wide))
    found = Counter()
    for slot in slots:
        found.update({name: tally.requests for name, tally in slot.served.items()})
        found["failed"] += slot.failures
    everything = Counter(kind for at, kind in events if at >= first)
    for kind in ("miss", "hit-exact", "failed"):
        assert due[kind] <= found[kind] <= everything[kind]
    totals = {name: tally.requests for name, tally in series.totals().items()}
    assert totals == {k: n for k, n in Counter(kind for _, kind in events).items() if k != "failed"}


def test_each_slot_has_what_came_in_its_time():
    series = Series()
    for second in range(0, 600, 5):
        series.add(record(), START + second)
    slots = series.window(900, START + 599, 90)
    assert [slot.start for slot in slots] == [slots[0].start + 10 * n for n in range(90)]
    for slot in slots:
        expected = sum(slot.start <= START + second < slot.start + 10 for second in range(0, 600, 5))
        assert (slot.served["miss"].requests if slot.served else 0) == expected


def test_memory_is_bounded_whatever_comes():
    series = Series(((10.0, 6), (60.0, 5)))
    for n in range(5000):
        series.add(record(), START + n * 7)
    assert [len(ring) for ring in series._rings] == [6, 5]


# Counters


def test_every_counter_adds_up():
    watcher = observer()
    answers = [
        answered(Served.MISS, key="k", response_miss=Miss("never seen"), prefix_miss=Miss("new", 0)),
        answered(
            Served.HIT_PREFIX, cached=64, key="k", prefix_miss=Miss("differs", 90), saved=Saved(64, 0.5)
        ),
        answered(Served.HIT_EXACT, key="k", saved=Saved(111, 1.5)),
    ]
    for n, answer in enumerate(answers * 4):
        watcher.finished(asked(), answer, Call(str(n), START))
    watcher.failed(Failure.CANCELLED, Call("x", START - 2), tenant="t", detail="the client went away")
    served = watcher.series.totals()
    assert {name: tally.requests for name, tally in served.items()} == {
        "miss": 4, "hit-prefix": 4, "hit-exact": 4,
    }  # fmt: skip
    counters = watcher.counters
    assert counters.failures == {"cancelled": 1}
    assert counters.response_queried_tokens == 12 * 100
    assert counters.prefix_queried_tokens == 8 * 100
    assert counters.unaligned_tokens == 4 * 26
    assert counters.response_misses == {"never_seen": 4}
    assert served["hit-exact"].saved_tokens + served["hit-prefix"].saved_tokens == 4 * 175
    assert served["hit-exact"].tpot.count == 0, "a stored answer is not written token by token"
    assert served["miss"].tpot.count == 4


def test_the_queue_is_part_of_the_time_to_first_token():
    watcher = observer()
    watcher.finished(asked(), answered(ttft=0.2, total=1.0), Call("a", START, queue_seconds=3.0))
    kept = watcher.recent.get("a")[0]
    assert (kept.ttft_seconds, kept.total_seconds) == (3.2, 4.0)
    assert kept.tpot_seconds == pytest.approx(0.08)


def test_tenants_beyond_the_bound_share_one_label():
    counters = Counters()
    for n in range(MOST_TENANTS + 50):
        counters.add(record(tenant=f"t{n}"))
    assert len(counters.tenants) == MOST_TENANTS + 1
    assert counters.tenants[OTHERS].requests["miss"] == 50


def test_reasons_of_the_response_cache_have_codes():
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.pipeline.exact import NO_CACHE, SAMPLED, TOO_OLD, WRONG

    clock = ManualClock()
    cache = SmartInferenceCache(capacity=1, timeout=10, clock=clock)
    never = cache.why_missing("a")
    cache.set("a", 1)
    cache.set("b", 1)
    evicted = cache.why_missing("a")
    clock.advance(11)
    expired = cache.why_missing("b")
    cache.set("c", 1)
    cache.invalidate("c")
    gone = cache.why_missing("c")
    reasons = [never, evicted, expired, gone, SAMPLED, NO_CACHE, TOO_OLD, WRONG]
    codes = [miss_code(reason) for reason in reasons]
    assert codes == [
        "never_seen", "evicted", "expired", "invalidated", "sampled", "bypassed", "too_old", "reported_wrong",
    ]  # fmt: skip
    assert set(codes) | {"other"} == set(MISS_CODES)
    assert miss_code("something else") == "other"


# The last requests


def test_the_last_requests_are_bounded_and_the_newest_first():
    recent = Recent(keeps_text=False, most_records=3)
    for n in range(5):
        recent.add(record(n=n), asked())
    assert [kept.id for kept in recent.newest()] == ["4", "3", "2"]
    assert recent.get("1") is None
    assert recent.get("4")[1] is None, "texts are not kept unless they are asked for"


def test_texts_are_kept_only_where_they_may_be_and_within_their_bound():
    recent = Recent(keeps_text=True, most_records=100, most_text_bytes=5000)
    for n in range(20):
        recent.add(record(n=n), asked("x" * 600))
    kept = [n for n in range(20) if recent.get(str(n))[1] is not None]
    assert kept == list(range(15, 20))
    recent.add(record(n=19), None)
    assert recent.get("19")[1] is None
    recent.add(record(n=30), asked("y" * 9000))
    assert recent.get("30")[1] is None


# Without the cache


def test_the_line_is_the_one_that_the_times_lie_on():
    baseline = Baseline()
    for tokens in (20, 400, 800, 30, 50, 600, 500):
        baseline.learn(tokens, 0.05 + tokens * 0.002)
    assert baseline.seconds(1000) == pytest.approx(2.05)


def test_nothing_is_claimed_from_too_little_and_never_less_than_nothing():
    baseline = Baseline()
    for n in range(LEAST_COMPUTED - 1):
        baseline.learn(100 + n, 0.3)
    assert baseline.line() is None
    baseline.learn(200, 0.1)  # slower for shorter ones: a mean is all that can be said
    start, slope = baseline.line()
    assert slope == 0.0
    assert 0.1 < start < 0.3
    steep = Baseline()
    for tokens in (100, 200, 300, 400, 500):
        steep.learn(tokens, tokens * 0.01 - 0.5)
    assert steep.line()[0] == 0.0
