"""A request on its way from the door to a replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from axolotl_cache.ray_serve.ticket import Ticket

_CARRIED: Final = (
    "type",
    "http_version",
    "method",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "scheme",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, read whole."""

    scope: Mapping[str, Any]
    body: bytes
    ticket: Ticket
    tenant: str = ""
    """Who asks, as the door found."""


def carried(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an ASGI scope that goes to another process."""
    kept = {name: scope[name] for name in _CARRIED if name in scope}
    kept["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    kept["client"] = scope.get("client")
    kept["server"] = scope.get("server")
    return kept
