"""A rolling update: no request fails, and what was cached below memory is found again."""

import json
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("ray", reason="scripts/test --ray: it makes an environment with Ray")

sys.path.insert(0, str(Path(__file__).parent))
from asking import ask
from replicas import asked_all_the_time, chat, content, deploy, written

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DESKS = (40, 41)


def on_servers(url, **settings):
    """What keeps blocks and answers on Valkey, and nothing on disk."""
    return {
        "model_config": {"enable_prefix_cache": True, "cache_backend": "redis"},
        "inference_settings": {"enable_persistence": False} | settings,
        "cluster_cache": {"connection_string": url, "replication_count": 1},
    }


def in_memory():
    """What keeps nothing below memory."""
    return {
        "model_config": {"enable_prefix_cache": True},
        "inference_settings": {"enable_persistence": False, "environment_tag": uuid4().hex},
    }


def of_desks(port, question):
    """Ask at each desk."""
    return {desk: ask(port, chat(desk, question), max_tokens=4) for desk in DESKS}


def asked_before_an_update(port):
    """Ask at each desk, and wait until what is written in the background is."""
    answers = of_desks(port, "Before?")
    time.sleep(3)
    return answers


def replicas_of(answers):
    return {answer.headers["x-replica"] for answer in answers.values()}


def sources(answers):
    return [answer.headers["x-cache"] for answer in answers.values()]


def cached_tokens(answers):
    return [
        json.loads(answer.raw)["usage"]["prompt_tokens_details"]["cached_tokens"]
        for answer in answers.values()
    ]


@pytest.mark.model
@pytest.mark.parametrize("place", ["disk", "valkey"])
def test_an_update_keeps_what_was_cached(cluster, smollm2_folder, valkey, tmp_path, place):
    # The real model: the small one computes faster than anything gives, and rightly does so.
    tag = uuid4().hex
    below = on_servers(valkey.url, environment_tag=tag) if place == "valkey" else {}
    config = written(tmp_path, smollm2_folder, bf16=True, **below)
    deploy(config)
    before = asked_before_an_update(cluster)
    deploy(config)
    again = of_desks(cluster, "Before?")
    assert not replicas_of(again) & replicas_of(before)
    assert sources(again) == ["hit-exact"] * len(DESKS)
    assert [content(each) for each in again.values()] == [content(each) for each in before.values()]
    behind = of_desks(cluster, "After?")
    assert sources(behind) == ["hit-prefix"] * len(DESKS)
    assert min(cached_tokens(behind)) >= 256
    never = [{"role": "user", "content": "Quite another text, never seen. " * 60}]
    assert ask(cluster, never, max_tokens=4).headers["x-cache"] == "miss"


@pytest.mark.model
def test_the_control_without_a_tier_below_memory_an_update_begins_cold(cluster, smollm2_folder, tmp_path):
    config = written(tmp_path, smollm2_folder, bf16=True, **in_memory())
    deploy(config)
    asked_before_an_update(cluster)
    deploy(config)
    assert sources(of_desks(cluster, "Before?")) == ["miss"] * len(DESKS)


def test_another_namespace_finds_nothing_of_the_old_one(cluster, small_model_folder, valkey, tmp_path):
    tag = uuid4().hex
    for version in ("1", "2"):
        settings = on_servers(valkey.url, environment_tag=tag, cache_version=version)
        deploy(written(tmp_path, small_model_folder, **settings))
        assert sources(asked_before_an_update(cluster)) == ["miss"] * len(DESKS)


def test_no_request_fails_while_replicas_are_exchanged(cluster, small_model_folder, tmp_path):
    config = written(tmp_path, small_model_folder)
    deploy(config)
    before = replicas_of(of_desks(cluster, "Before?"))
    with asked_all_the_time(cluster, 3) as failed:
        deploy(config)
    assert not replicas_of(of_desks(cluster, "Who is there?")) & before
    assert failed == []
