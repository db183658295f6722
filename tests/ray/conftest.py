"""A real Ray on this machine: one for all tests, stopped at their end."""

import json
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray", reason="scripts/test --ray: it makes an environment with Ray")
from ray import serve  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Ray with Serve's HTTP on a free port; gives the port."""
    import os
    import socket

    os.environ["AXOLOTL_CACHE_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=True)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(port, messages, *, headers=(), stream=False, timeout=60, **fields):
    """Ask over HTTP; gives status, headers and the body."""
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, "stream": stream} | fields
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", **dict(headers)},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        raw = answer.read()
    found = {name.lower(): value for name, value in answer.headers.items()}
    return SimpleNamespace(status=answer.status, headers=found, raw=raw)
