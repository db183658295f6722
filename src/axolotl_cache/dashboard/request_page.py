"""The page of a request: where its answer came from, what was reused, where the cache stopped agreeing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from axolotl_cache.dashboard.mask import mask_of_one
from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.observe import Record
from axolotl_cache.request import Request

if TYPE_CHECKING:
    from axolotl_cache.pipeline import Pipeline

MOST_BLOCKS: Final = 512
MOST_BLOCK_TEXT: Final = 600


def in_list(record: Record) -> dict[str, Any]:
    """Return a request's row in the list."""
    miss = record.prefix_miss or record.response_miss
    return {
        "id": record.name,
        "at": record.at,
        "tenant": record.tenant,
        "session": record.session,
        "route": record.route,
        "model": record.model,
        "status": record.status,
        "served": record.served,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "ttft_seconds": record.ttft_seconds,
        "total_seconds": record.total_seconds,
        "saved_seconds": record.saved_seconds,
        "why": record.detail or (miss.reason if miss else ""),
    }


def request_page(
    record: Record,
    request: Request | None,
    *,
    pipeline: Pipeline | None,
    block_size: int,
    line: tuple[float, float] | None,
) -> dict[str, Any]:
    """Return all that is known of a request.

    Args:
        record: of it.
        request: what was asked, if it was kept.
        pipeline: cuts it into blocks; None can't.
        block_size: tokens in a block; 0 if it is not known.
        line: seconds to the first token, a + b * prompt tokens, if all had been computed.
    """
    shows_text = request is not None
    computed_here = record.status == "ok" and not record.is_stored_answer
    return {
        "request": in_list(record)
        | {
            "node": record.node,
            "is_stream": record.is_stream,
            "detail": record.detail,
            "age_seconds": record.age_seconds,
            "queue_seconds": record.queue_seconds,
            "tpot_seconds": record.tpot_seconds,
            "saved_tokens": record.saved_tokens,
            "saved_money": record.saved_money,
            "currency": record.currency,
            "finish_reason": record.finish_reason,
            "key": record.key,
            "not_stored": record.not_stored,
            "response_miss": None if record.response_miss is None else record.response_miss.reason,
            "prefix_miss": _miss(record, shows_text),
            "ttft_seconds_without": None if line is None else line[0] + line[1] * record.prompt_tokens,
            "total_seconds_without": record.total_seconds + record.saved_seconds,
        },
        "sampling": None if request is None else asdict(request.sampling),
        "block_size": block_size,
        "mask": mask_of_one(record.prompt_tokens, record.cached_tokens, block_size)
        if computed_here
        else None,
        "blocks": _blocks(record, request, pipeline, block_size) if request and pipeline else None,
    }


def _miss(record: Record, shows_text: bool) -> dict[str, Any] | None:
    miss = record.prefix_miss
    if miss is None:
        return None
    return {
        "reason": miss.reason,
        "first_difference_tokens": miss.first_difference_tokens,
        "expected_text": miss.expected_text if shows_text else None,
        "found_text": miss.found_text if shows_text else None,
    }


def _blocks(
    record: Record, request: Request, pipeline: Pipeline, block_size: int
) -> list[dict[str, Any]] | None:
    """Return the prompt's blocks, each with its text and what became of it; None if it can't be cut."""
    try:
        tokens = pipeline.tokens(request)
    except AxolotlCacheError:
        return None
    if not block_size or len(tokens) != record.prompt_tokens:
        return None  # the model was changed since
    miss = record.prefix_miss
    differs = None if miss is None or miss.expected_text is None else miss.first_difference_tokens
    found = []
    for start in range(0, min(len(tokens), MOST_BLOCKS * block_size), block_size):
        end = min(start + block_size, len(tokens))
        one: dict[str, Any] = {
            "start": start,
            "tokens": end - start,
            "state": "reused" if end <= record.cached_tokens else "computed",
        }
        if differs is not None and start <= differs < end:
            one["same"] = pipeline.renderer.show(tokens[start:differs])[:MOST_BLOCK_TEXT]
            one["text"] = pipeline.renderer.show(tokens[differs:end])[:MOST_BLOCK_TEXT]
        else:
            one["text"] = pipeline.renderer.show(tokens[start:end])[:MOST_BLOCK_TEXT]
        found.append(one)
    return found
