"""A server on Ray, from the command line: deployed, and kept until the user stops it."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import ray
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.ray_serve.app import application
from axolotl_cache.ray_serve.spec import Scaling, Spec
from ray import serve

APP_NAME: Final = "axolotl-cache"
_OBJECT_STORE_BYTES: Final = 200 * 2**20
"""Requests and answers pass by it: Ray's own default would take a third of the memory."""


def run(
    spec: Spec, scaling: Scaling, *, address: str | None, host: str, port: int, report: Callable[[str], None]
) -> None:
    """Deploy a server. On a cluster of its own stay until the user stops it, and take it down; else leave.

    Deployed again on a running cluster, the new replicas take over one by one.

    Args:
        spec: what is served.
        scaling: on how many replicas.
        address: of a running cluster, or "auto"; None starts one on this machine.
        host: where its proxies listen; of a running Serve, they stay where they are.
        port: likewise.
        report: gets one line for each thing worth knowing.

    Raises:
        ConfigError: there is no cluster at that address.
    """
    own: dict[str, Any] = {}
    if address is None:
        # What Ray counts is a right to start, and no core of its own: a small machine runs several replicas.
        wanted = math.ceil(scaling.max_replicas * scaling.cpus + scaling.doors)
        own = {
            "num_cpus": max(os.cpu_count() or 1, wanted),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(address=address or "local", log_to_driver=address is None, **own)
    except ConnectionError as error:
        raise ConfigError([Problem("command line", "--ray-address", f"{address}: {error}")]) from error
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(application(spec, scaling), name=APP_NAME, route_prefix="/")
        report(f"serving {spec.rules.model} on Ray at http://{host}:{port}/v1")
        if address is not None:
            report(f"deployed; to stop it: serve.delete({APP_NAME!r}) from Python, or the cluster itself")
            return
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.default_int_handler)
        threading.Event().wait()
    except KeyboardInterrupt:
        report("stopping")
    finally:
        if address is None:
            serve.shutdown()
        ray.shutdown()
