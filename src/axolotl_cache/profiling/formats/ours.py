"""Our own request log (docs/request-log.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from axolotl_cache.profiling.formats import values
from axolotl_cache.profiling.record import Record

VERSION: Final = 1


def reads(line: Mapping[str, Any]) -> bool:
    """Tell whether this is a line of our request log."""
    return "v" in line and ("served" in line or "event" in line)


def read(line: Mapping[str, Any]) -> Record | None:
    """Return the request of a line; None for a line that is none: an event, or one that was not answered.

    Raises:
        ValueError: a newer version, or a field of another type.
    """
    version = line["v"]
    if type(version) is not int or version > VERSION:
        raise ValueError(f"version {version} of the request log; this release reads {VERSION}")
    if "event" in line or line.get("status", "ok") != "ok":
        return None
    record = Record(
        arrived_seconds=values.number(line.get("time")),
        tools=values.tools(line.get("tools")),
        prompt_tokens=values.count(line.get("prompt_tokens")),
        cached_tokens=values.count(line.get("cached_tokens")),
        completion_tokens=values.count(line.get("completion_tokens")),
        model=values.word(line.get("adapter")) or values.word(line.get("model")),
        sampling=_sampling(line.get("sampling")),
        namespace={"namespace": values.word(line["namespace"])} if line.get("namespace") else {},
        namespace_parts=_texts(line.get("namespace_parts")),
        tenant=values.word(line.get("tenant")),
        principal=values.word(line.get("principal")),
        session=values.word(line.get("session")),
        entities=values.texts(line.get("entities")),
        served=values.word(line.get("served")),
        miss_reason=values.word(line.get("response_miss")),
        not_stored=values.word(line.get("not_stored")),
        ttl_seconds=values.number(line.get("ttl_seconds")),
        ttft_seconds=values.number(line.get("ttft_seconds")),
        total_seconds=values.number(line.get("total_seconds")),
    )
    if "messages" in line:
        record.messages = values.messages(line["messages"])
    elif isinstance(line.get("prompt"), str):
        record.prompt = line["prompt"]
    blocks = values.texts(line.get("blocks"))
    tail = values.word(line.get("tail"))
    # The tail stands for what is left behind the last whole block: with it, equal ids are an equal prompt.
    record.block_ids = [int(each, 16) for each in (*blocks, tail) if each]
    record.block_tokens = values.count(line.get("block_size")) or (_UPSTREAM_BLOCK_TOKENS if blocks else 0)
    return record


_UPSTREAM_BLOCK_TOKENS: Final = 32
"""Behind an upstream, blocks are of 128 bytes of text."""


def _sampling(value: Any) -> dict[str, Any]:
    found = (
        {key: each for key, each in value.items() if each is not None} if isinstance(value, Mapping) else {}
    )
    if "max_new_tokens" in found:
        found["max_tokens"] = found.pop("max_new_tokens")
    return found


def _texts(value: Any) -> dict[str, str]:
    return {str(key): values.word(each) for key, each in value.items()} if isinstance(value, Mapping) else {}


def settings_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings in force that the first line of a log names; nothing for any other line."""
    found = line.get("settings") if line.get("event") == "start" else None
    return found if isinstance(found, Mapping) else {}
