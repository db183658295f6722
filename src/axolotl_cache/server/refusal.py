"""What the server refuses, in the shape of OpenAI's errors.

{"error": {"message": "...", "type": "...", "param": null, "code": null}}
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic_core import to_json

from axolotl_cache.errors import (
    AxolotlCacheError,
    CapacityError,
    NotCached,
    RequestCancelled,
    RequestError,
    StreamDiverged,
)

CLIENT_LEFT: Final = 499
"""What nginx logs for a client that went away; never sent."""

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "upstream_error",
    503: "service_unavailable",
    504: "timeout",
}
_DO_NOT_RETRY: Final = MappingProxyType({"x-should-retry": "false"})
"""OpenAI's clients send again what got a 5xx; this tells them not to."""


class Refusal(Exception):
    """An answer that is an error, and how it is written.

    Args:
        status: of HTTP.
        message: what is wrong, and what to do.
        code: a word for programs; OpenAI's own where it has one.
        param: the field of the body that is wrong.
        headers: further ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return to_json({"error": error}, inf_nan_mode="null")


def refusal_of(error: Exception) -> Refusal:
    """Return how an error of this library is told to a client; all others are nobody's business: 500."""
    message = printable(str(error))
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NotCached):  # RFC 9111, section 5.2.1.7
        return Refusal(504, message, code="not_cached", headers=_DO_NOT_RETRY)
    if isinstance(error, RequestCancelled | StreamDiverged):
        return Refusal(503, message, code="cancelled", headers={"retry-after": "1"})
    if isinstance(error, RequestError):
        return Refusal(400, message)
    if isinstance(error, CapacityError):
        return Refusal(503, message, code="capacity", headers={"retry-after": "1"})
    kind = "the server failed" if isinstance(error, AxolotlCacheError) else "an unexpected error"
    return Refusal(500, f"{kind}; the server's log has it under this answer's X-Request-Id")


def deadline_passed(seconds: float) -> Refusal:
    """Return what is said to a request that took too long."""
    return Refusal(
        504,
        f"not done within {seconds:g} seconds, and given up; ask for fewer tokens, or later",
        code="deadline_exceeded",
        headers=_DO_NOT_RETRY,
    )


def printable(text: str) -> str:
    """Return a text that can be sent: half characters, which JSON can spell, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
