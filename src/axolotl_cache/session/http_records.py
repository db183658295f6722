"""Records from a service over HTTP."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http.client import HTTPMessage
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from axolotl_cache.directives import delta_seconds, directives
from axolotl_cache.entities import Entity
from axolotl_cache.session.provider import EntityRecord, ProviderError, Who

_LARGEST_BODY_BYTES: Final = 1_000_000
_YES: Final = frozenset({200, 204})
_NO: Final = frozenset({401, 403, 404})


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would take the headers, and their secrets, to whoever it names."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class HttpRecords:
    """An `EntityProvider` over a service that answers in JSON.

    In both addresses `{kind}`, `{value}`, `{tenant}` and `{principal}` stand for what is asked for,
    percent-encoded. A `Cache-Control: max-age` (or no-store) of the record is its TTL.

    Args:
        kinds: the kinds of entities that the service knows.
        access_url: asked for every request: 200 or 204 is a yes; 401, 403 and 404 are a no; anything else is
            a failure, and no record is shown.
        record_url: 200 with a JSON object or text is the record; 404 is none. It can't have `{principal}`.
        headers: sent with both, as an API key.
        timeout_seconds: of each call.
        ttl_seconds: how long a record is kept that does not say so.

    Raises:
        ValueError: an address is no http or https one, or names what it can't.
    """

    def __init__(
        self,
        kinds: Collection[str],
        *,
        access_url: str,
        record_url: str,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 5.0,
        ttl_seconds: float = 300.0,
    ) -> None:
        for url in (access_url, record_url):
            if urlsplit(url).scheme not in {"http", "https"}:
                raise ValueError(f"{url!r} is no http or https address")
        if "{principal}" in record_url:
            raise ValueError("a record is shared by all who may see it: record_url can't have {principal}")
        if "{principal}" not in access_url:
            raise ValueError("access_url has no {principal}: it could not say who may see what")
        self.kinds = tuple(kinds)
        self.ttl_seconds = ttl_seconds
        self._access_url = access_url
        self._record_url = record_url
        self._headers = dict(headers or {})
        self._timeout_seconds = timeout_seconds
        self._opener = build_opener(_NoRedirects)

    def may_see(self, entity: Entity, who: Who) -> bool:
        """Ask the service whether this principal may see the record.

        Raises:
            ProviderError: it could not say.
        """
        status, _, _ = self._get(self._access_url, entity, who)
        if status in _YES:
            return True
        if status in _NO:
            return False
        raise ProviderError(f"the service answered {status} where access was asked for")

    def fetch(self, entity: Entity, tenant: str) -> EntityRecord | None:
        """Get the record.

        Raises:
            ProviderError: it could not be had, or is no JSON object or text.
        """
        status, body, headers = self._get(self._record_url, entity, Who(tenant, ""))
        if status == 404:
            return None
        if status != 200:
            raise ProviderError(f"the service answered {status} where a record was asked for")
        try:
            content = json.loads(body)
        except ValueError as error:
            raise ProviderError(f"the record is not JSON: {error}") from error
        if not isinstance(content, dict | str):
            raise ProviderError("the record is neither a JSON object nor a text")
        return EntityRecord(content, _ttl_seconds(headers))

    def _get(self, template: str, entity: Entity, who: Who) -> tuple[int, bytes, Mapping[str, str]]:
        url = template
        for name, value in (
            ("kind", entity.kind),
            ("tenant", who.tenant),
            ("principal", who.principal),
            ("value", entity.value),
        ):
            url = url.replace(f"{{{name}}}", _encoded(value))
        request = Request(url, headers=self._headers)  # noqa: S310 - http and https only, checked above
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                body = answer.read(_LARGEST_BODY_BYTES + 1)
                if len(body) > _LARGEST_BODY_BYTES:
                    raise ProviderError(f"the answer has more than {_LARGEST_BODY_BYTES:,} bytes")
                return answer.status, body, answer.headers
        except HTTPError as error:
            with error:
                return error.code, b"", {}
        except (URLError, OSError) as error:
            # Not the address: it may say who asked for what, and this may be logged.
            raise ProviderError(f"the service can't be reached: {getattr(error, 'reason', error)}") from None


def _encoded(value: str) -> str:
    # Braces are encoded, too, so that no value can bring a placeholder of its own; dots, so that none climbs.
    return quote(value, safe="").replace(".", "%2E")


def _ttl_seconds(headers: Mapping[str, Any]) -> float | None:
    found = directives(headers.get("Cache-Control") or "")
    if "no-store" in found or "no-cache" in found:
        return 0.0
    ages = [delta_seconds(argument) for argument in found.get("max-age", [])]
    known = [age for age in ages if age is not None]
    return min(known, default=None)
