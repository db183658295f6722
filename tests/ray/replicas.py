"""Configurations of replicas, and which of them there are."""

import json
import threading
from contextlib import contextmanager

from asking import ask
from ray.util import list_named_actors

from axolotl_cache.ray_serve import Scaling, build_app
from ray import serve

SYSTEM = "You are desk {}. " + "Be kind to all who ask, and keep every answer short. " * 24
"""Of more than 256 tokens."""


def written(folder, model, **more):
    """Write a configuration; give its path. Blocks and answers are on disk, unless `more` says otherwise."""
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


def deploy(config, scaling=None):
    """Deploy, or update what is deployed."""
    scaling = scaling or Scaling(2, 2, cpus=0.5)
    serve.run(build_app(config, scaling=scaling, cache_truncated=True), route_prefix="/")


def chat(desk, question):
    """Messages behind a desk's long prompt."""
    return [
        {"role": "system", "content": SYSTEM.format(desk)},
        {"role": "user", "content": question},
    ]


def engines():
    """The names of the replicas that are there."""
    return {actor["name"] for actor in list_named_actors(all_namespaces=True) if "#engine#" in actor["name"]}


def content(answer):
    """The text of an answer that went well."""
    assert answer.status == 200, answer.raw
    return json.loads(answer.raw)["choices"][0]["message"]["content"]


@contextmanager
def asked_all_the_time(port, workers, **fields):
    """Ask new questions from so many threads meanwhile; gives the list of answers that failed."""
    failed, stop = [], threading.Event()

    def keep_asking(worker):
        n = 0
        while not stop.is_set():
            try:
                answer = ask(port, chat(30 + worker, f"Worker {worker}, question {n}?"), **fields)
            except OSError as error:
                failed.append(repr(error))
                return
            n += 1
            if answer.status != 200:
                failed.append(answer.raw)

    threads = [threading.Thread(target=keep_asking, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        stop.set()
        for thread in threads:
            thread.join()
