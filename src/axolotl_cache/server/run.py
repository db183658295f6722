"""Listening, and stopping: uvicorn's event loop around the application."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from axolotl_cache.errors import ConfigError, Problem

_BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is any free one.

    Raises:
        ConfigError: it can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        problem = Problem("command line", "--host, --port", f"{host}:{port} can't be listened on: {error}")
        raise ConfigError([problem]) from error
    listening.setblocking(False)
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the URL that a socket answers at."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Finishes what runs when it is asked to stop, and ends at once when it is asked again.

    Its caller goes on after `run`, whatever the signal was: uvicorn's own would end the process there, before
    the caches and the log are closed.

    Attributes:
        forced_by: the signal that ended it at once; None if it stopped in its time.
    """

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self.forced_by: int | None = None
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take a signal. Runs in the main thread, between any two of its instructions."""
        if self.should_exit:
            self.force_exit = True
            self.forced_by = sig
        self.should_exit = True
        self._stopping()


def make_server(app: Any, *, grace_seconds: float, stopping: Callable[[], None]) -> Server:
    """Return a server for `app`; `run(sockets=[...])` serves until SIGINT or SIGTERM.

    Args:
        app: an ASGI application.
        grace_seconds: how long what runs may go on after that.
        stopping: called when it is asked to stop.
    """
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
    )
    return Server(config, stopping)
