"""vLLM's own log lines: `Received request ...: prompt: '...', params: SamplingParams(...)`.

Source: the lines shown in vLLM's issues 9023 (0.6) and 34503 (0.16, which logs no prompt below DEBUG).
"""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from typing import Any, Final

from axolotl_cache.profiling.record import Record

_RECEIVED: Final = re.compile(
    r"(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)[^\]]*\] "
    r"Received request (?P<id>\S+?): (?P<rest>.*)"
)
_PROMPT: Final = re.compile(r"prompt: (?P<prompt>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
_PARAMETER: Final = re.compile(
    r"\b(temperature|top_p|top_k|min_p|seed|max_tokens|repetition_penalty)=([^,)]+)"
)
_TOKENS: Final = re.compile(r"prompt_token_ids: \[([\d, ]*)\]")
_YEAR: Final = 2000
"""vLLM writes no year; a leap year takes every date."""


def reads(line: str) -> bool:
    """Tell whether this is a line of vLLM's log."""
    return "Received request " in line or ("vllm" in line.lower() and " INFO " in f" {line}")


def read(line: str) -> Record | None:
    """Return the request of a line; None for any other line of the log.

    Raises:
        ValueError: the line is a request without its prompt.
    """
    match = _RECEIVED.search(line)
    if match is None:
        return None
    rest = match["rest"]
    prompt = _PROMPT.search(rest)
    if prompt is None:
        raise ValueError("vLLM did not log the prompt: VLLM_LOGGING_LEVEL=DEBUG and --enable-log-requests")
    tokens = _TOKENS.search(rest)
    return Record(
        arrived_seconds=_time(match),
        prompt=ast.literal_eval(prompt["prompt"]),
        prompt_tokens=len(tokens[1].split(",")) if tokens and tokens[1] else None,
        sampling=_sampling(rest[prompt.end() :]),
    )


def _time(match: re.Match[str]) -> float:
    text = f"{_YEAR}-{match['month']}-{match['day']}T{match['clock']}"
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _sampling(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _PARAMETER.findall(text):
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            continue
        if parsed is not None:
            found[name] = parsed
    return found
