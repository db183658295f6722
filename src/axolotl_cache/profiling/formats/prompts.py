"""Lines of a prompts file, as `inference --prompts-file` and `bench --workload` answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from axolotl_cache.errors import RequestError
from axolotl_cache.profiling.formats import values
from axolotl_cache.profiling.record import Record
from axolotl_cache.prompts_file import from_value
from axolotl_cache.request import Request

_SILENT: Final = Request()


def reads(line: Mapping[str, Any]) -> bool:
    """Tell whether this is a line with a user's text; whole conversations are read as OpenAI's."""
    return isinstance(line.get("user"), str)


def read(line: Mapping[str, Any]) -> Record:
    """Return the request of a line, with its own system message: that of a YAML is not known here.

    Raises:
        ValueError: what it says about caching, or whose it is, means nothing.
    """
    try:
        request = from_value(line, "", _SILENT, None).request
    except RequestError as error:
        raise ValueError(str(error)) from error
    return Record(
        messages=tuple((message.role, message.content) for message in request.messages),
        tools=values.tools(line.get("tools")),
        model=request.adapter,
        tenant=request.tenant,
        principal=request.principal,
        session=request.session,
        entities=request.entities,
        ttl_seconds=request.cache_control.ttl_seconds,
    )
