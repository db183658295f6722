"""Connections to one server: how long they wait, how they pack, and what their errors mean."""

from __future__ import annotations

from typing import Any, Final

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, PythonRespSerializer, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from axolotl_cache.stores.redis.address import Address, Credentials, Host

PASSING: Final = (
    exceptions.ConnectionError,  # BusyLoadingError and MaxConnectionsError are of it
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,  # MasterDownError is of it
    exceptions.TryAgainError,
    exceptions.AskError,  # MovedError is of it
    OSError,
)
"""Errors that pass: the same again, later or elsewhere, may go well."""


class _SlicingPacker:
    """Packs with redis-py's Python packer, which hands large values over instead of copying them.

    hiredis' packer takes 3 to 5 times as long for a value of 5 MB; its parser is the faster one by as much,
    and stays.
    """

    def _construct_command_packer(self, packer: Any) -> Any:
        del packer
        connection: Any = self
        return PythonRespSerializer(connection._buffer_cutoff, connection.encoder.encode)


class TcpConnection(_SlicingPacker, Connection):
    """A plain connection."""


class TlsConnection(_SlicingPacker, SSLConnection):
    """An encrypted one."""


class SocketConnection(_SlicingPacker, UnixDomainSocketConnection):
    """One to a socket in the file system."""


def make_client(
    address: Address,
    host: Host,
    *,
    timeout_seconds: float,
    connect_seconds: float,
    login: Credentials | None = None,
    database: int | None = None,
) -> redis.Redis:
    """Return a client of one server, which connects when it is first used and never retries by itself.

    Args:
        address: TLS and credentials.
        host: which server.
        timeout_seconds: most that one read waits.
        connect_seconds: most that connecting waits.
        login: instead of the address's own.
        database: instead of the address's own.
    """
    login = address.login if login is None else login
    options: dict[str, Any] = {
        "username": login.username,
        "password": login.password,
        "db": address.database if database is None else database,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": connect_seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "axolotl-cache",
    }
    if host.path:
        options |= {"connection_class": SocketConnection, "path": host.path}
    else:
        options |= {"host": host.name, "port": host.port, "socket_keepalive": True}
        options["connection_class"] = TlsConnection if address.tls else TcpConnection
        options |= address.tls_options
    return redis.Redis(connection_pool=redis.ConnectionPool(**options))
