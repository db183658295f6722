"""A real Ray on this machine: one for all tests, stopped at their end."""

import os
import socket

import pytest


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Ray with Serve's HTTP on a free port; gives the port."""
    import ray
    from ray import serve

    os.environ["AXOLOTL_CACHE_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()
