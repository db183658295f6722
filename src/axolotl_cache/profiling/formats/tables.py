"""Logs as CSV: Azure's traces of lengths, and tables with a column of texts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Final

from axolotl_cache.profiling.formats import values
from axolotl_cache.profiling.formats.traces import question_of
from axolotl_cache.profiling.record import Record

_TIMES: Final = ("timestamp", "time", "arrival_time", "arrived_at")
_PROMPTS: Final = ("contexttokens", "num_prefill_tokens", "request tokens", "prompt_tokens", "input_length")
_ANSWERS: Final = ("generatedtokens", "num_decode_tokens", "response tokens", "completion_tokens")


def columns_of(line: str) -> tuple[str, ...]:
    """Return the names in a header that we know how to read, in lower case; nothing for any other line."""
    try:
        names = tuple(name.strip().lower() for name in next(csv.reader([line])))
    except (csv.Error, StopIteration):
        return ()
    known = any(name in names for name in _PROMPTS) or question_of(dict.fromkeys(names, "")) is not None
    return names if len(names) > 1 and known else ()


def read(columns: Sequence[str], cells: Sequence[str]) -> Record:
    """Return the request of a row.

    Raises:
        ValueError: another number of cells, or a length that is no number.
    """
    if len(cells) != len(columns):
        raise ValueError(f"{len(cells)} cells under {len(columns)} columns")
    row = dict(zip(columns, cells, strict=True))
    text = question_of(row)
    record = Record(
        arrived_seconds=_first(row, _TIMES),
        prompt_tokens=_length(row, _PROMPTS),
        completion_tokens=_length(row, _ANSWERS),
    )
    if text is not None:
        record.messages = (("user", text),)
    elif record.prompt_tokens is None:
        raise ValueError("the prompt's length is no number")
    return record


def _first(row: Mapping[str, str], names: Sequence[str]) -> float | None:
    return next((values.seconds(row[name]) for name in names if name in row), None)


def _length(row: Mapping[str, str], names: Sequence[str]) -> int | None:
    return next((values.count(row[name]) for name in names if name in row), None)
