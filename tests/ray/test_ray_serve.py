"""Two replicas of the small model on a real Ray: exact, routed by prefix, replaced, and updated warm."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="scripts/test --ray: it makes an environment with Ray")
from ray.util import list_named_actors  # noqa: E402

from ray import serve  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from asking import ask, get  # noqa: E402

from axolotl_cache.ray_serve import Scaling, build_app  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SYSTEM = "You are desk {}. " + "Be kind to all who ask, and keep every answer short. " * 24
"""Of more than 256 tokens."""


def written(folder, model, **more):
    """Write a configuration with everything on disk; give its path."""
    path = folder / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "base_model": str(model),
                "chat_template": "tokenizer_default",
                "model_config": {"enable_prefix_cache": True, "cache_backend": "disk"},
                "inference_settings": {"persistence_path": str(folder / "answers")},
            }
            | more
        )
    )
    return path


@pytest.fixture(scope="module")
def config(small_model_folder, tmp_path_factory):
    return written(tmp_path_factory.mktemp("config"), small_model_folder)


@pytest.fixture(scope="module")
def port(cluster, config):
    deploy(config)
    return cluster


def deploy(config):
    serve.run(build_app(config, scaling=Scaling(2, 2, cpus=0.5), cache_truncated=True), route_prefix="/")


def chat(desk, question):
    return [
        {"role": "system", "content": SYSTEM.format(desk)},
        {"role": "user", "content": question},
    ]


def engines():
    """The names of the replicas that are there."""
    return {actor["name"] for actor in list_named_actors(all_namespaces=True) if "#engine#" in actor["name"]}


def content(answer):
    assert answer.status == 200, answer.raw
    return json.loads(answer.raw)["choices"][0]["message"]["content"]


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
    failed, stop = [], threading.Event()

    def keep_asking(worker):
        n = 0
        while not stop.is_set():
            answer = ask(port, chat(30 + worker, f"Worker {worker}, question {n}?"))
            n += 1
            if answer.status != 200:
                failed.append(answer.raw)

    workers = [threading.Thread(target=keep_asking, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    time.sleep(1)
    ray.kill(ray.get_actor(sorted(before)[0], namespace="serve"), no_restart=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = engines()
        if len(now) == 2 and now != before:
            break
        time.sleep(0.5)
    stop.set()
    for worker in workers:
        worker.join()
    assert len(now) == 2
    assert now != before
    assert failed == []


@pytest.mark.model
def test_an_update_keeps_what_was_cached(cluster, smollm2_folder, tmp_path):
    # The real model: the small one computes faster than a disk gives, and rightly does so.
    config = written(tmp_path, smollm2_folder, bf16=True)
    deploy(config)
    before = {desk: ask(cluster, chat(desk, "Before?"), max_tokens=4) for desk in (40, 41)}
    old = {answer.headers["x-replica"] for answer in before.values()}
    time.sleep(3)  # for what is written in the background
    deploy(config)
    for desk, answer in before.items():
        again = ask(cluster, chat(desk, "Before?"), max_tokens=4)
        assert again.headers["x-replica"] not in old
        assert again.headers["x-cache"] == "hit-exact"
        assert content(again) == content(answer)
        other = ask(cluster, chat(desk, "After?"), max_tokens=4)
        assert other.headers["x-cache"] == "hit-prefix"
        assert json.loads(other.raw)["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256
    never = [{"role": "user", "content": "Quite another text, never seen. " * 60}]
    assert ask(cluster, never, max_tokens=4).headers["x-cache"] == "miss"
