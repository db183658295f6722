"""A server on Ray, from the command line: deployed, and kept until the user stops it."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import ray
from axolotl_cache.errors import AxolotlCacheError, ConfigError, Problem
from axolotl_cache.ray_serve.app import application
from axolotl_cache.ray_serve.failure import reason_in
from axolotl_cache.ray_serve.spec import Scaling, Spec
from axolotl_cache.server.run import listen
from ray import serve

APP_NAME: Final = "axolotl-cache"
_OBJECT_STORE_BYTES: Final = 200 * 2**20
"""Requests and answers pass by it: Ray's own default would take a third of the memory."""
_REACH_SECONDS: Final = 5.0
_BY_SIGNAL: Final = 128


def run(
    spec: Spec, scaling: Scaling, *, address: str | None, host: str, port: int, report: Callable[[str], None]
) -> None:
    """Deploy a server. On a cluster of its own stay until the user stops it, and take it down; else leave.

    Deployed again on a running cluster, the new replicas take over one by one. The first SIGINT or SIGTERM
    lets what runs end, for as long as `Limits.grace_seconds`; the second ends it at once.

    Args:
        spec: what is served.
        scaling: on how many replicas.
        address: of a running cluster, or "auto"; None starts one on this machine.
        host: where its proxies listen; of a running Serve, they stay where they are.
        port: likewise; 0 is any free one.
        report: gets one line for each thing worth knowing.

    Raises:
        ConfigError: there is no cluster at that address, or the port is taken.
        AxolotlCacheError: the replicas did not come up.
        SystemExit: it was told twice to stop.
    """
    if address is None:
        with closing(listen(host, port)) as free:  # Ray would say it in forty lines
            port = free.getsockname()[1]
        with _own_cluster(scaling, host, port):
            _stay(spec, scaling, f"http://{host}:{port}/v1", report)
        return
    _join(address)
    try:
        serve.start(http_options={"host": host, "port": port})
        _deploy(spec, scaling)
        report(f"serving {spec.rules.model} on Ray, behind the proxies of its nodes")
        report(f"deployed; to stop it: serve.delete({APP_NAME!r}) from Python, or the cluster itself")
    finally:
        ray.shutdown()


@contextmanager
def _own_cluster(scaling: Scaling, host: str, port: int) -> Iterator[None]:
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    # What Ray counts is a right to start, and no core of its own: a small machine runs several replicas.
    wanted = math.ceil(scaling.max_replicas * scaling.cpus + scaling.doors)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, wanted),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def _stay(spec: Spec, scaling: Scaling, url: str, report: Callable[[str], None]) -> None:
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    try:
        _deploy(spec, scaling)
        report(f"serving {spec.rules.model} on Ray at {url}")
        threading.Event().wait()
    except KeyboardInterrupt:
        report("stopping: what runs may end; once more stops at once")
    try:
        with suppress(TimeoutError):  # what has not ended by then is ended with the cluster
            serve.delete(APP_NAME)
    except KeyboardInterrupt as again:
        raise SystemExit(_BY_SIGNAL + int(again.args[0])) from None


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt(number)


def _deploy(spec: Spec, scaling: Scaling) -> None:
    try:
        serve.run(application(spec, scaling), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        found = serve.status().applications.get(APP_NAME)
        told = [] if found is None else [each.message for each in found.deployments.values() if each.message]
        raise AxolotlCacheError(
            "the replicas did not come up: " + "; ".join(map(reason_in, told or [str(error)]))
        ) from error


def _join(address: str) -> None:
    """Connect to a cluster that runs."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for some minutes
            socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
        ray.init(address=address, log_to_driver=False)
    except OSError as error:  # ConnectionError is one
        message = f"there is no Ray at {address}: {error}"
        raise ConfigError([Problem("command line", "--ray-address", message)]) from error
