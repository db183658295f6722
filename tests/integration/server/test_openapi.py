"""The OpenAPI document: served, whole, documented, and true."""

import http.client
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from axolotl_cache.stores.redis.stats import LinkReport

REPOSITORY = Path(__file__).resolve().parents[3]


def send(url, body, path="/v1/chat/completions", kind="application/json"):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def get(url, path):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_every_route_field_and_header_is_documented(served):
    page = (REPOSITORY / "docs" / "http.md").read_text(encoding="utf-8")
    _, document = get(served.url, "/openapi.json")
    wanted = set(document["paths"])
    for item in document["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict):
                wanted |= {each["name"] for each in operation.get("parameters", []) if each["in"] == "header"}
                for status, response in operation["responses"].items():
                    wanted |= {status, *response.get("headers", {})}
    for model in ("ChatRequest", "CompletionRequest"):
        wanted |= set(document["components"]["schemas"][model]["properties"])
    assert {name for name in wanted if f"`{name}`" not in page} == set()


def test_health_and_readiness_say_when_it_stops(served):
    assert get(served.url, "/healthz") == (200, {"status": "ok"})
    assert get(served.url, "/readyz") == (200, {"status": "ok"})
    served.service.drain()
    try:
        assert get(served.url, "/readyz") == (503, {"status": "draining"})
    finally:
        served.service.is_draining = False


def test_readiness_tells_of_shared_servers_and_not_where_they_are(served, monkeypatch):
    told = LinkReport(False, "single", "valkey", ("10.0.0.1:6379",), 2, 1, "10.0.0.1:6379 fails", 1, 0)
    shared = SimpleNamespace(report=lambda: told)
    monkeypatch.setattr(type(served.service.backend), "shared", property(lambda backend: shared))
    assert get(served.url, "/readyz") == (
        200,  # it serves without them
        {"status": "ok", "shared": {"is_up": False, "copies": 1, "copies_wanted": 2}},
    )


def test_what_is_not_there_is_an_error_in_the_same_shape(served):
    status, answer = get(served.url, "/v1/nothing")
    assert status == 404
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert get(served.url, "/v1/chat/completions")[0] == 405
    assert send(served.url, b"{}", kind="text/plain")[0] == 415
    assert send(served.url, b"x" * (9 * 2**20))[0] == 413


def malformed(rng):
    """A body that is broken in one of many ways."""
    good = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    text = json.dumps(good)
    values = [None, 0, -1, 1e308, "", "x", [], {}, [[]], True, "\ud800", 2**70, {"a": {"b": [None] * 3}}]
    ways = [
        lambda: text[: rng.randrange(len(text))].encode(),
        lambda: bytes(rng.randrange(256) for _ in range(rng.randrange(60))),
        lambda: text.replace(rng.choice('{}[]":,'), rng.choice('{}[]":,x'), 1).encode(),
        lambda: json.dumps(good | {rng.choice(list(good)): rng.choice(values)}).encode(),
        lambda: json.dumps(
            good | {rng.choice(["n", "seed", "stop", "top_p", "tools"]): rng.choice(values)}
        ).encode(),
        lambda: json.dumps(
            good | {"messages": [{"role": rng.choice(values), "content": rng.choice(values)}]}
        ).encode(),
        lambda: b"[" * rng.randrange(1, 5000) + b"]" * rng.randrange(5000),
        lambda: b'{"messages": ' * rng.randrange(1, 3000),
        lambda: (
            json.dumps(good)
            .replace("2}", rng.choice(["NaN}", "Infinity}", "1e999}", "-0.0}", "2.5}"]))
            .encode()
        ),
        lambda: json.dumps(good | {"messages": [good] * rng.randrange(1, 50)}).encode("utf-16"),
        lambda: json.dumps(rng.choice(values)).encode(),
    ]
    return rng.choice(ways)()


def check_malformed(served, count):
    rng = random.Random(7)
    statuses = {}
    for _ in range(count):
        path = rng.choice(["/v1/chat/completions", "/v1/completions"])
        status, answer = send(served.url, malformed(rng), path)
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, answer
        if status >= 400:
            assert json.loads(answer)["error"]["message"]
    assert get(served.url, "/healthz")[0] == 200
    return statuses


def test_malformed_bodies_are_answered_with_what_is_wrong(served):
    assert check_malformed(served, 100)[400] > 60


@pytest.mark.slow
def test_a_thousand_malformed_bodies_leave_memory_as_it_was(served):
    import psutil

    check_malformed(served, 200)
    before = psutil.Process().memory_info().rss
    statuses = check_malformed(served, 1000)
    assert statuses[400] > 600
    assert psutil.Process().memory_info().rss - before < 20 * 2**20


@pytest.mark.slow
def test_what_schemathesis_makes_up_is_no_server_error(serve_model):
    import subprocess
    import sys

    served = serve_model(most_new_tokens=8)

    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{served.url}/openapi.json",
            "--checks=not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance",
            "--max-examples=30",
            "--seed=1",
            "--request-timeout=60",
        ],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
