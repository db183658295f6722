"""Where the servers are: one connection string for a single server, Sentinel or Cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote

from axolotl_cache.errors import ConfigError, Problem

Kind = Literal["auto", "sentinel", "cluster"]

USERNAME: Final = "AXOLOTL_CACHE_REDIS_USERNAME"
PASSWORD: Final = "AXOLOTL_CACHE_REDIS_PASSWORD"  # noqa: S105 - the name of the variable
SENTINEL_USERNAME: Final = "AXOLOTL_CACHE_SENTINEL_USERNAME"
SENTINEL_PASSWORD: Final = "AXOLOTL_CACHE_SENTINEL_PASSWORD"  # noqa: S105
_PORTS: Final = {"auto": 6379, "cluster": 6379, "sentinel": 26379}
_FORM: Final = re.compile(
    r"(?P<scheme>(?:redis|valkey)(?P<tls>s?)(?:\+(?P<kind>sentinel|cluster))?)://"
    r"(?:(?P<user>[^@?]*)@)?(?P<hosts>[^/?]+)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?"
)
_SOCKET: Final = re.compile(r"unix://(?:(?P<user>[^@?]*)@)?(?P<path>/[^?]+)(?:\?(?P<query>.*))?")
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


@dataclass(frozen=True, slots=True)
class Host:
    """One server's address; with a path it is a socket in the file system, and the rest is empty."""

    name: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a server. Never shown."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """A connection string, taken apart. Its text, as far as it may be shown, is `str(address)`."""

    kind: Kind
    """`auto`: whatever the server says that it is."""
    hosts: tuple[Host, ...]
    name: str = ""
    """Sentinel's name for the primary; empty: the only one that it watches."""
    database: int = 0
    tls: bool = False
    tls_options: Mapping[str, str | bool] = field(default_factory=dict)
    login: Credentials = Credentials()
    sentinel_login: Credentials = Credentials()

    def __str__(self) -> str:
        return ",".join(map(str, self.hosts)) + (f"/{self.name}" if self.name else "")


def parse_address(text: str, environ: Mapping[str, str] | None = None) -> Address:
    """Return what a connection string says; user and password also come from the environment.

    Args:
        text: `redis://`, `rediss://` (TLS), `valkey://`, `valkeys://`, each with `+sentinel` or `+cluster` if
            need be: `[user:password@]host[:port][,host...][/database]`, for Sentinel `/name[/database]`; or
            `unix:///path[?db=0]`. Options: `db`, `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
            `ssl_check_hostname`.
        environ: instead of the process's environment.

    Raises:
        ConfigError: it is none; its text is not repeated, as it may hold a password.
    """
    environ = os.environ if environ is None else environ
    socket = _SOCKET.fullmatch(text)
    match = socket or _FORM.fullmatch(text)
    if match is None:
        raise _wrong("write redis://HOST:PORT/0, redis+sentinel://H1,H2,H3/NAME or redis+cluster://H1,H2,H3")
    options = dict(parse_qsl(match["query"] or ""))
    login = _login(match["user"], environ, USERNAME, PASSWORD)
    if socket is not None:
        database = _number(options.pop("db", "0"), "a database is a number, as ?db=0")
        _refuse_others(options)
        return Address("auto", (Host(path=unquote(socket["path"])),), database=database, login=login)
    kind: Kind = cast(Kind, match["kind"] or "auto")
    parts = [unquote(part) for part in (match["path"] or "").split("/")[1:] if part]
    name = parts.pop(0) if kind == "sentinel" and parts else ""
    database = _number(options.pop("db", parts.pop(0) if parts else "0"), "a database is a number, as /0")
    tls = {key: options.pop(key) for key in _TLS_OPTIONS if key in options}
    _refuse_others(options)
    if parts:
        raise _wrong("there is more behind the database than belongs there")
    if tls and not match["tls"]:
        raise _wrong(f"{next(iter(tls))} is of use with rediss:// only")
    if kind == "cluster" and database:
        raise _wrong("a Cluster has database 0 only")
    checks = tls.get("ssl_check_hostname", "true").lower()
    if checks not in ("true", "false"):
        raise _wrong("ssl_check_hostname is true or false")
    return Address(
        kind,
        tuple(_host(each, _PORTS[kind]) for each in match["hosts"].split(",")),
        name,
        database,
        bool(match["tls"]),
        {**tls, "ssl_check_hostname": checks == "true"} if match["tls"] else {},
        login,
        _login(None, environ, SENTINEL_USERNAME, SENTINEL_PASSWORD) if kind != "cluster" else Credentials(),
    )


def _login(user_info: str | None, environ: Mapping[str, str], username: str, password: str) -> Credentials:
    given_user, _, given_password = (user_info or "").partition(":")
    return Credentials(
        unquote(given_user) or environ.get(username) or None,
        unquote(given_password) or environ.get(password) or None,
    )


def _host(text: str, port: int) -> Host:
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::(?P<port>\d+))?", text)
    if match is None:
        raise _wrong("a host is a name or an address, as 10.0.0.1:6379 or [fe80::1]:6379")
    number = int(match["port"] or port)
    if not 0 < number < 65536:
        raise _wrong(f"port {number} is not from 1 to 65535")
    return Host(match["six"] or match["name"], number)


def _number(text: str, message: str) -> int:
    if not text.isdigit():
        raise _wrong(message)
    return int(text)


def _refuse_others(options: Mapping[str, str]) -> None:
    if options:
        raise _wrong(f"unknown option {next(iter(options))}; there are db, {', '.join(_TLS_OPTIONS)}")


def _wrong(message: str) -> ConfigError:
    return ConfigError([Problem("cluster_cache", "connection_string", message)])
