"""Who may come in: by key, or, where there are no keys, whoever is on this machine."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Final, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request

from axolotl_cache.server.keys import NOBODY, Tenant
from axolotl_cache.server.refusal import Refusal

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_ASK_FOR_KEY: Final = {"www-authenticate": "Bearer"}


class Keys(Protocol):
    """Knows whose a key is."""

    def owner(self, key: str) -> Tenant | None:
        """Return whose key it is."""

    def cache_bytes(self, tenant: str) -> int | None:
        """Return the most bytes that may be held for a tenant; None is no bound."""


class Doors:
    """Lets requests in.

    Args:
        keys: None lets everybody in who names this machine as their server: a page of another site, whose
            name was made to point here, does not.
    """

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    @property
    def has_keys(self) -> bool:
        """Whether a key is needed."""
        return self._keys is not None

    def cache_bytes(self, tenant: str) -> int | None:
        """Return the most bytes that may be held for a tenant; None is no bound."""
        return None if self._keys is None else self._keys.cache_bytes(tenant)

    def tenant(self, headers: Mapping[str, str]) -> Tenant:
        """Return who sent a request to the API.

        Raises:
            Refusal: 401, 403, or 421 for a foreign name.
        """
        if self._keys is None:
            host = headers.get("host", "").lower()
            name = host if host in _LOCAL_NAMES else host.rpartition(":")[0] or host
            if name not in _LOCAL_NAMES:
                raise Refusal(
                    421, "without keys, only localhost is served; make a key: axolotl-cache keys add NAME"
                )
            return NOBODY
        found = self._owner(headers)
        if found.role == "operator":
            raise Refusal(403, "an operator's key opens the figures, and not the API; use a tenant's")
        return found

    def operator(self, request: Request) -> None:
        """Raise an HTTPException unless an operator sent the request."""
        try:
            owner = self.tenant(request.headers) if self._keys is None else self._owner(request.headers)
        except Refusal as refusal:
            raise HTTPException(refusal.status, refusal.message, dict(refusal.headers)) from None
        if self._keys is not None and owner.role != "operator":
            raise HTTPException(403, "the figures of all are for an operator's key (keys add --operator)")

    def _owner(self, headers: Mapping[str, str]) -> Tenant:
        key = _key_in(headers)
        if not key:
            raise Refusal(401, "send a key: `Authorization: Bearer KEY`", headers=_ASK_FOR_KEY)
        found = None if self._keys is None else self._keys.owner(key)
        if found is None:
            raise Refusal(401, "this key is not known", code="invalid_api_key", headers=_ASK_FOR_KEY)
        return found


def _key_in(headers: Mapping[str, str]) -> str:
    kind, _, rest = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":  # what scrapers and browsers know: any name, and the key as the password
        try:
            return b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
