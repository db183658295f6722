"""Two replicas of the small model on a real Ray: exact, routed by prefix, and replaced."""

import json
import sys
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="scripts/test --ray: it makes an environment with Ray")
sys.path.insert(0, str(Path(__file__).parent))
from asking import ask, get  # noqa: E402
from replicas import asked_all_the_time, chat, content, deploy, engines, written  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(small_model_folder, tmp_path_factory):
    return written(tmp_path_factory.mktemp("config"), small_model_folder)


@pytest.fixture(scope="module")
def port(cluster, config):
    deploy(config)
    return cluster


def test_answers_are_those_of_the_engine_alone(port, config):
    from contextlib import ExitStack

    from axolotl_cache.model_settings import load_for_model
    from axolotl_cache.request import Message, Request, Sampling
    from axolotl_cache.server import opening
    from axolotl_cache.server.asked import Rules
    from axolotl_cache.server.limits import Limits

    questions = [(desk, f"Question {n} at desk {desk}?") for n in range(3) for desk in range(2)]
    served = [content(ask(port, chat(*each))) for each in questions]
    with ExitStack() as stack:
        settings = load_for_model(config, {})
        backend = opening.open_engine(
            settings, stack, Rules("small"), Limits(), lambda line: None, lambda done, total: None, {}
        )
        backend.pipeline.prefix_enabled = backend.pipeline.response_enabled = False
        alone = []
        for each in questions:
            messages = tuple(Message(m["role"], m["content"]) for m in chat(*each))
            request = Request(messages=messages, sampling=Sampling(max_new_tokens=8))
            alone.append(backend.pipeline.answer(request).text)
    assert served == alone
    assert len(set(alone)) > 1  # else equal answers would say nothing


def test_the_same_beginning_goes_to_the_same_replica(port):
    places = {}
    for n in range(4):
        for desk in range(10, 16):
            answer = ask(port, chat(desk, f"Question {n}?"))
            places.setdefault(desk, []).append(answer.headers["x-replica"])
            if n:
                assert answer.headers["x-cache"] == "hit-prefix"
    assert all(len(set(each)) == 1 for each in places.values())
    assert len({each[0] for each in places.values()}) == 2


def test_a_conversation_stays_where_it_began(port):
    headers = {"x-session-id": "conversation-1"}
    turns = [{"role": "user", "content": "Hello there."}]
    places = []
    for n in range(4):
        answer = ask(port, turns, headers=headers)
        places.append(answer.headers["x-replica"])
        turns += [{"role": "assistant", "content": content(answer)}, {"role": "user", "content": f"And {n}?"}]
    assert len(set(places)) == 1


def test_streams_come_through(port):
    answer = ask(port, chat(20, "Stream?"), stream=True)
    assert answer.raw.startswith(b"data: {")
    assert answer.raw.rstrip().endswith(b"data: [DONE]")


def test_mistakes_are_told_as_by_the_server(port):
    answer = ask(port, chat(20, "x"), temperature=9)
    assert answer.status == 400
    assert "temperature" in json.loads(answer.raw)["error"]["message"]


def test_the_dashboard_shows_every_node(port):
    ask(port, chat(10, "Another?"))
    deadline = time.monotonic() + 30
    while True:
        nodes = json.loads(get(port, "/dashboard/api/nodes"))["nodes"]
        if (all(node["hit_rates"] for node in nodes[:2]) and len(nodes) >= 2) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert len({node["name"] for node in nodes}) >= 2
    assert any(node["hit_rates"] for node in nodes)
    assert all(node["memory_bytes"] > 0 and node["held_bytes"] >= 0 for node in nodes)


def test_a_killed_replica_is_replaced_and_requests_go_on(port):
    before = engines()
    assert len(before) == 2
    with asked_all_the_time(port, 3) as failed:
        time.sleep(1)
        ray.kill(ray.get_actor(sorted(before)[0], namespace="serve"), no_restart=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            now = engines()
            if len(now) == 2 and now != before:
                break
            time.sleep(0.5)
    assert len(now) == 2
    assert now != before
    assert failed == []
