"""The dashboard's data over a real pipeline, and its routes: who gets what, and with which headers."""

import json
import re
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.dashboard import Dashboard
from axolotl_cache.dashboard.mask import mask_of_one
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.errors import StoreError
from axolotl_cache.observe import Call, Failure, Observer, RequestLog, pipeline_source
from axolotl_cache.observe.exposition import exposition
from axolotl_cache.observe.request_log import Cutter
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import CacheControl, Message, Request, Sampling
from axolotl_cache.response.prices import PriceTable
from axolotl_cache.server.observability import observability_routes

SYSTEM = "You help the customers of a bank. " * 12
KEY = "operator-key"
DATA = ("metrics", "dashboard/api/overview", "dashboard/api/requests", "dashboard/api/requests/r0",
        "dashboard/api/prefixes", "dashboard/api/nodes")  # fmt: skip


def ask(text: str, **more) -> Request:
    messages = (Message("system", SYSTEM), Message("user", text))
    return Request(
        messages=messages,
        sampling=Sampling(max_new_tokens=4),
        cache_control=CacheControl(truncated=True),
        **more,
    )


@pytest.fixture(scope="module")
def pipeline(small_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    loaded = load_model(axolotl, config_path=folder / "c.yaml")
    engine = Engine(
        loaded.model, device=loaded.device, context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens, memo=folder, max_cache_bytes=10**8, max_running_bytes=10**9,
    )  # fmt: skip
    prices = PriceTable.from_mapping({"*": {"input_per_million": "1", "output_per_million": "2"}})
    response = SmartInferenceCache(capacity=100, timeout=600)
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    yield (made := Pipeline(engine, renderer, loaded.namespace, response, prices=prices))
    made.close()


def seen(pipeline, *, keeps_text=True, log=None) -> Observer:
    """Three requests: computed, behind a prefix, stored; and one that failed."""
    clock = ManualClock()
    observer = Observer(model="small", keeps_text=keeps_text, log=log, clock=clock)
    observer.watch(pipeline_source(pipeline, node="here"))
    for n, text in enumerate(["Hello? " * 20, "Where is my card? " * 20, "Hello? " * 20]):
        request = ask(text, tenant="bank")
        observer.finished(request, pipeline.answer(request), Call(f"r{n}", clock(), model="small"))
        clock.advance(5)
    observer.failed(Failure.OVERLOADED, Call("r3", clock()), tenant="shop", detail="the queue is full")
    return observer


@pytest.fixture
def observer(pipeline):
    pipeline.response.cache_clear()
    pipeline.engine.clear()
    return seen(pipeline)


def authorize(request):
    given = request.headers.get("authorization", "")
    if given != f"Bearer {KEY}":
        known = given == "Bearer tenant-key"
        raise HTTPException(403 if known else 401, "no", headers={"WWW-Authenticate": "Bearer"})


@pytest.fixture
def client(observer, pipeline):
    return TestClient(Starlette(routes=observability_routes(Dashboard(observer, pipeline), authorize)))


def read(client, path, **options):
    answer = client.get(f"/{path}", headers={"Authorization": f"Bearer {KEY}"}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Who gets what


@pytest.mark.parametrize("path", DATA)
def test_strangers_and_tenants_get_nothing(client, path):
    for headers, status in (({}, 401), ({"Authorization": "Bearer tenant-key"}, 403)):
        answer = client.get(f"/{path}", headers=headers)
        assert answer.status_code == status
        assert "bank" not in answer.text
    allowed = client.get(f"/{path}", headers={"Authorization": f"Bearer {KEY}"})
    assert allowed.status_code == 200
    if "nodes" not in path:
        assert "bank" in allowed.text


def test_every_route_with_data_asks_who_it_is(observer, pipeline):
    asked = []
    routes = observability_routes(
        Dashboard(observer, pipeline), lambda request: asked.append(request.url.path)
    )
    client = TestClient(Starlette(routes=routes))
    paths = {route.path for route in routes}
    assert {
        path.strip("/").replace("{id}", "r0") for path in paths if "api" in path or path == "/metrics"
    } == set(DATA)
    for path in DATA:
        client.get(f"/{path}")
    assert asked == [f"/{path}" for path in DATA]
    assert all(not route.include_in_schema for route in routes)


def test_the_pages_themselves_hold_no_data_and_load_nothing_from_elsewhere(client):
    page = client.get("/dashboard", follow_redirects=True)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for name in re.findall(r'(?:src|href)="([\w.]+)"', page.text):
        found = client.get(f"/dashboard/{name}")
        assert found.status_code == 200, name
        assert found.headers["content-security-policy"] == policy
    assert client.get("/dashboard/..%2fdashboard.py").status_code == 404
    assert client.get("/dashboard/__init__.py").status_code == 404


def test_the_files_are_safe_by_themselves():
    """No inline script or style, no address of elsewhere, no way from text to markup."""
    for entry in (files("axolotl_cache.dashboard") / "static").iterdir():
        text = entry.read_text()
        addresses = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, entry.name
        if entry.name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
            )
        if entry.name.endswith(".html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)


# What it says


def test_the_overview_adds_up(client):
    found = read(client, "dashboard/api/overview?span=900")
    summary = found["summary"]
    assert summary["served"] == {"miss": 1, "hit-prefix": 1, "hit-exact": 1}
    assert (summary["requests"], summary["hits"], summary["failures"]) == (3, 2, 1)
    assert sum(sum(t["requests"] for t in p["served"].values()) for p in found["series"]) == 3
    assert sum(point["failures"] for point in found["series"]) == 1
    assert summary["total_mean_seconds_without"] > summary["total_mean_seconds"]
    assert summary["saved_money"] > 0
    assert summary["ttft_mean_seconds_without"] is None, "too little was computed to say"
    tiers = {tier["name"]: tier for tier in found["tiers"]}
    assert 0 < tiers["prefix_memory"]["held_bytes"] <= tiers["prefix_memory"]["max_bytes"] == 10**8
    assert tiers["response_memory"]["entries"] == 2
    assert sum(found["misses"].values()) == 2
    assert {row["tenant"] for row in found["tenants"]} == {"bank", "shop"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_span_that_there_is_not_is_refused(client):
    for span in ("7", "x"):
        answer = client.get(
            f"/dashboard/api/overview?span={span}", headers={"Authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code == 400


def test_requests_are_listed_newest_first_and_by_tier(client):
    found = read(client, "dashboard/api/requests")
    assert [row["id"] for row in found["requests"]] == ["r3", "r2", "r1", "r0"]
    assert [row["id"] for row in read(client, "dashboard/api/requests?served=hit-prefix")["requests"]] == [
        "r1"
    ]
    assert [row["id"] for row in read(client, "dashboard/api/requests?served=failed")["requests"]] == ["r3"]
    assert [row["id"] for row in read(client, "dashboard/api/requests?tenant=shop")["requests"]] == ["r3"]
    assert (
        client.get("/dashboard/api/requests/r9", headers={"Authorization": f"Bearer {KEY}"}).status_code
        == 404
    )


def test_a_request_says_what_was_reused_and_where_it_differs(client):
    page = read(client, "dashboard/api/requests/r1")
    row, blocks, size = page["request"], page["blocks"], page["block_size"]
    reused = [block for block in blocks if block["state"] == "reused"]
    assert len(reused) * size == row["cached_tokens"] > 0
    assert sum(block["tokens"] for block in blocks) == row["prompt_tokens"]
    (place,) = [block for block in blocks if "same" in block]
    miss = row["prefix_miss"]
    assert place["start"] <= miss["first_difference_tokens"] < place["start"] + size
    assert place["text"].startswith(miss["found_text"][:5])
    assert "Hello" in miss["expected_text"]
    whole = "".join(block.get("same", "") + block["text"] for block in blocks)
    assert "Where is my card?" in whole
    mask = page["mask"]
    assert (mask["columns"], mask["rows"]) == (
        row["prompt_tokens"],
        row["prompt_tokens"] - row["cached_tokens"],
    )
    stored = read(client, "dashboard/api/requests/r2")
    assert stored["mask"] is None, "the model computed nothing"
    assert stored["request"]["total_seconds_without"] > stored["request"]["total_seconds"]


def test_the_mask_is_that_of_the_command_line():
    mask = mask_of_one(100, 64, 32)
    assert mask["rests"] == [{"rows": [0, 36], "columns": [64, 100], "reused": [[0, 64]]}]
    assert [block["is_reused"] for block in mask["blocks"]] == [True, True, False, False]
    assert mask["cells"] == 36 * 64 + 36 * 37 // 2
    assert mask_of_one(100, 0, 0) is None


def test_the_prefix_tree_is_shown_with_whose_it_is(client, pipeline):
    found = read(client, "dashboard/api/prefixes")
    first = found["prefixes"][0]
    assert first["tenant"] == "bank"
    assert first["hits"] == 1
    assert "bank" in first["text"]
    assert sum(p["blocks"] for p in found["prefixes"]) == pipeline.engine.prefix_stats.held_blocks


def test_a_tier_that_cant_be_asked_takes_no_other_figure_with_it(observer, pipeline, client, monkeypatch):
    class Away:
        kind, max_bytes, held_blocks = "redis", 10**9, 0

        @property
        def held_bytes(self):
            raise StoreError("the servers can't be reached")

    monkeypatch.setattr(type(pipeline.engine), "lower_tiers", (Away(),))
    text = exposition(observer).decode()
    assert 'axolotl_cache_tier_up{tier="prefix_redis"} 0.0' in text
    assert 'axolotl_cache_tier_bytes{tier="prefix_redis"}' not in text
    assert 'axolotl_cache_tier_bytes{tier="prefix_memory"}' in text
    tiers = {tier["name"]: tier["is_up"] for tier in read(client, "dashboard/api/overview")["tiers"]}
    assert tiers["prefix_redis"] is False
    assert tiers["prefix_memory"] is True


def test_a_node_says_what_it_uses(client):
    (node,) = read(client, "dashboard/api/nodes")["nodes"]
    assert (node["name"], node["device"], node["requests"] > 0) == ("here", "cpu", True)
    assert 0 < node["memory_bytes"] < node["total_memory_bytes"]
    held = {tier["title"]: tier["held_bytes"] for tier in node["tiers"]}
    assert {"prefixes in memory", "answers in memory"} <= set(held)
    assert 0 < held["prefixes in memory"] <= node["held_bytes"]
    assert node["hit_rates"]["hit-exact"] > 0


def test_a_nodes_memory_counts_what_is_in_memory_only(observer, pipeline, client, monkeypatch):
    class Full:
        kind, max_bytes, held_blocks, held_bytes = "redis", 10**15, 1, 10**12

    monkeypatch.setattr(type(pipeline.engine), "lower_tiers", (Full(),))
    (node,) = Dashboard(observer, pipeline).own_nodes()
    assert {"title": "prefixes on redis", "held_bytes": 10**12} in node["tiers"]
    assert node["held_bytes"] < 10**12


def test_without_leave_no_text_is_kept_or_shown(pipeline):
    pipeline.response.cache_clear()
    pipeline.engine.clear()
    dashboard = Dashboard(seen(pipeline, keeps_text=False), pipeline)
    page = dashboard.request("r1")
    assert page["blocks"] is None
    assert page["sampling"] is None
    assert page["mask"]["rows"] > 0, "numbers are there all the same"
    everything = json.dumps([page, dashboard.requests(), dashboard.prefixes(), dashboard.overview()])
    for words in ("customers", "Hello", "card"):
        assert words not in everything


def test_in_front_of_an_upstream_there_are_counters_and_no_gauges():
    observer = Observer(model="elsewhere", clock=ManualClock())
    dashboard = Dashboard(observer)
    assert dashboard.overview()["tiers"] == []
    assert dashboard.prefixes()["prefixes"] == []
    assert dashboard.nodes()["nodes"] == []


def test_the_log_has_the_pipelines_own_blocks_and_namespace(pipeline, tmp_path):
    pipeline.response.cache_clear()
    pipeline.engine.clear()
    cutter = Cutter(pipeline.tokens, pipeline.namespace_of, pipeline.engine.block_size)
    observer = seen(pipeline, log=RequestLog(tmp_path / "log", cutter=cutter, secret=b"k"))
    observer.close()
    _, first, second, third, failed = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert first["blocks"] == third["blocks"]
    assert first["key"] == third["key"] != second["key"]
    shared = sum(a == b for a, b in zip(first["blocks"], second["blocks"], strict=False))
    assert shared * pipeline.engine.block_size == second["cached_tokens"]
    assert first["namespace"] == pipeline.namespace_of(ask("x", tenant="bank")).digest
    assert failed["status"] == "overloaded"
