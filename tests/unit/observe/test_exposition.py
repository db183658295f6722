"""/metrics: well formed, documented, and nobody's figures in another's hands."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from axolotl_cache.clock import ManualClock
from axolotl_cache.observe import Call, Failure, Observer, State, TierState
from axolotl_cache.observe.exposition import PREFIX, exposition, tenant_exposition
from axolotl_cache.observe.state import EngineState, NodeState
from axolotl_cache.request import Answer, Message, Miss, Request, Saved, Served, Usage

REPOSITORY = Path(__file__).resolve().parents[3]
START = 1_700_000_000.0


class Watched:
    """Gauges of everything that there is."""

    def state(self) -> State:
        tiers = (
            TierState(
                "prefix_memory",
                "prefixes",
                300,
                1000,
                3,
                pinned_bytes=100,
                leased_bytes=50,
                evicted=7,
                refused=1,
            ),
            TierState("response_memory", "answers", 50, None, 2, 2000, expired=4),
        )
        nodes = (NodeState("a", memory_bytes=10**6),)
        return State(
            tiers, 2, 5, EngineState(9, 100, 50, 0.5, 2.5, 8, 6, 32), nodes, "invariant", 32, {"prefix": True}
        )

    def prefixes(self, limit):
        return []


def watched() -> Observer:
    observer = Observer(model="a model", clock=ManualClock(START))
    observer.watch(Watched())
    for n, tenant in enumerate(["crimson", "crimson", "azure"]):
        request = Request(messages=(Message("user", "secret words"),), tenant=tenant)
        miss = Answer("an answer", "stop", Served.MISS, Usage(100, 0, 10), 0.12, 1.0, key="k",
                      response_miss=Miss("never seen"), prefix_miss=Miss("new", 0))  # fmt: skip
        observer.finished(request, miss, Call(f"{n}", START, queue_seconds=0.01))
    hit = Answer("an answer", "stop", Served.HIT_EXACT, Usage(100, 100, 10), 1e-4, 1e-4, key="k",
                 saved=Saved(110, 0.9))  # fmt: skip
    observer.finished(Request(messages=(Message("user", "x"),), tenant="crimson"), hit, Call("9", START))
    observer.failed(Failure.QUOTA, Call("10", START), tenant="azure")
    return observer


def samples(text: bytes) -> dict[tuple[str, tuple], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def names() -> set[str]:
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(exposition(watched()).decode())
    }


def test_the_figures_are_those_that_were_counted():
    found = samples(exposition(watched()))

    def value(name: str, **labels: str) -> float:
        return found[PREFIX + name, tuple(sorted(labels.items()))]

    assert value("requests_total", served="miss") == 3
    assert value("requests_total", served="hit-exact") == 1
    assert value("request_failures_total", reason="quota") == 1
    assert value("queried_tokens_total", tier="exact") == 400
    assert value("hit_tokens_total", tier="exact") == 100
    assert value("queried_tokens_total", tier="prefix") == 300
    assert value("saved_tokens_total", served="hit-exact") == 110
    assert value("time_to_first_token_seconds_count", served="miss") == 3
    assert value("time_to_first_token_seconds_bucket", served="miss", le="0.1") == 0
    assert value("time_to_first_token_seconds_bucket", served="miss", le="0.25") == 3
    assert value("time_to_first_token_seconds_bucket", served="miss", le="+Inf") == 3
    assert value("tier_bytes", tier="prefix_memory") == 300
    assert value("tier_max_bytes", tier="prefix_memory") == 1000
    assert value("tier_leased_bytes", tier="prefix_memory") == 50
    assert value("evictions_total", tier="prefix_memory") == 7
    assert value("num_requests_waiting") == 5
    assert value("engine_computed_tokens_total", phase="decode") == 50
    assert value("tenant_requests_total", tenant="crimson", served="miss") == 2


def test_buckets_only_grow_and_end_at_the_count():
    buckets: dict[tuple, list[float]] = {}
    found = samples(exposition(watched()))
    for (name, labels), value in found.items():
        if name.endswith("_bucket"):
            buckets.setdefault((name, tuple(x for x in labels if x[0] != "le")), []).append(value)
    assert buckets
    for (name, labels), values in buckets.items():
        assert values == sorted(values)
        assert values[-1] == found[name.replace("_bucket", "_count"), labels]


def test_a_tenant_sees_its_own_figures_and_nobody_elses():
    observer = watched()
    theirs = tenant_exposition(observer, "azure")
    assert b"crimson" not in theirs
    assert {name for name, _ in samples(theirs)} <= {
        PREFIX + "tenant_requests_total",
        PREFIX + "tenant_request_failures_total",
        PREFIX + "tenant_tokens_total",
    }
    assert samples(theirs)[PREFIX + "tenant_tokens_total", (("kind", "prompt"), ("tenant", "azure"))] == 100
    assert b"crimson" in exposition(observer), "the operator sees all: else the check above would say nothing"
    assert samples(tenant_exposition(observer, "stranger")) == {}


def test_no_text_is_ever_a_label():
    assert b"secret words" not in exposition(watched())


def test_without_a_source_there_are_counters_alone():
    assert b"axolotl_cache_requests_total" in exposition(Observer(clock=ManualClock(START)))


def test_every_metric_is_documented_and_every_documented_one_is_there():
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    documented = set(re.findall(rf"^\| `({PREFIX}\w+)`", page, re.MULTILINE))
    assert names() == documented


def test_every_metric_of_the_grafana_board_is_there():
    board = json.loads((REPOSITORY / "examples" / "grafana" / "axolotl-cache.json").read_text())
    used = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(rf"\b{PREFIX}\w+", target["expr"])
    }
    assert len(used) > 15
    assert used <= names()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
