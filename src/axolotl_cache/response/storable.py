"""Which answers are never stored: errors, cut-off ones, refusals, empty ones, streams left before their end.

Storing one would turn a passing failure into a lasting one. A false alarm costs a hit, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FAILED: Final = "computing it ended in an error"
ABORTED: Final = "its stream ended before the answer did"
FILTERED: Final = "a content filter stopped it (finish_reason content_filter)"
REFUSED: Final = "the model refused"
READS_AS_REFUSAL: Final = (
    "it reads like a refusal (to store it all the same, ask for refusals to be cached: refusals)"
)
TRUNCATED: Final = (
    "cut off at max_new_tokens (raise that, or ask for cut-off answers to be cached: truncated)"
)
EMPTY: Final = "the answer is empty"

_LONGEST_REFUSAL_CHARACTERS: Final = 600
"""A longer text has an answer in it, however it begins."""
_BEGINNING_CHARACTERS: Final = 160

_CANNOT: Final = (
    r"(?:can['’]?t|cannot|can not|won['’]?t|will not|am (?:unable|not able|not allowed)"
    r"|['’]m (?:unable|not able|not allowed))"
)
# An apology alone is none: "I'm sorry to hear that your card was stolen. To block it, ..."
_THEN_I_CANNOT: Final = rf"\b[^.!?]{{0,60}}?\b(?:i|we)\s*(?:\w+\s+)?{_CANNOT}\b"
_HELP: Final = (
    r"(?:help|assist|provide|comply|fulfil|do that|answer|engage|generate|create|discuss|support|share)"
)
_ENGLISH: Final = (
    rf"(?:i['’]?m|i am|we['’]?re|we are)\s+(?:\w+\s+)?(?:sorry|afraid){_THEN_I_CANNOT}",
    rf"(?:sorry|unfortunately|regrettably|(?:my )?apologies|i apologi[sz]e){_THEN_I_CANNOT}",
    r"(?:i['’]?m|i am)\s+(?:unable|not able|not allowed|not permitted|not programmed)\s+to\b",
    rf"i\s+(?:\w+\s+)?{_CANNOT}\s+(?:\w+\s+)?{_HELP}",
    r"i (?:must|have to) (?:decline|refuse)\b",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
)
_CANNOT_ZH: Final = r"(?:无法|無法|不能|不可以|没办法|沒辦法|不便(?:提供|回答|透露))"
_HELP_ZH: Final = r"(?:提供|回答|协助|協助|帮助|幫助|满足|滿足|完成|讨论|討論)"
_CHINESE: Final = (
    rf"(?:很|非常|十分|真的)?(?:抱歉|遗憾|遺憾)[^。！？!?]{{0,16}}?{_CANNOT_ZH}",
    rf"(?:对不起|對不起|不好意思)[^。！？!?]{{0,16}}?我[^。！？!?]{{0,8}}?{_CANNOT_ZH}",
    rf"我{_CANNOT_ZH}{_HELP_ZH}",
    r"(?:作为|作為|身为|身為)(?:一个|一個|一名)?\s*(?:AI|人工智能|人工智慧|(?:大型)?(?:语言模型|語言模型))",
)
_REFUSALS: Final = re.compile("|".join((*_ENGLISH, *_CHINESE)), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for a request, from any engine or API."""

    text: str
    """The whole text of the answer."""
    finish_reason: str | None
    """As OpenAI names them: stop, length, content_filter, tool_calls; None if it was not said."""
    refusal: str | None = None
    """OpenAI's `message.refusal`."""
    calls_tools: bool = False
    """Whether the answer calls tools: then it may have no text."""
    status: int | None = None
    """HTTP status, if there was one."""
    failed: bool = False
    """An error came in the answer's place, or in its midst."""
    ended: bool = True
    """Whether its stream came to its proper end, and was read to it."""


def why_not_stored(outcome: Outcome, *, truncated: bool = False, refusals: bool = False) -> str | None:
    """Return why an answer must not be stored, as a sentence for people, or None if it may be.

    Args:
        outcome: what came back.
        truncated: whether cut-off answers may be stored.
        refusals: whether answers that read like refusals may be stored.
    """
    reads = not (refusals or outcome.calls_tools) and reads_as_refusal(outcome.text)
    reasons = (
        (outcome.failed or (outcome.status is not None and outcome.status >= 400), FAILED),
        (not outcome.ended, ABORTED),
        (outcome.finish_reason == "content_filter", FILTERED),
        (bool(outcome.refusal), REFUSED),
        (outcome.finish_reason == "length" and not truncated, TRUNCATED),
        (not outcome.text.strip() and not outcome.calls_tools, EMPTY),
        (reads, READS_AS_REFUSAL),
    )
    return next((reason for holds, reason in reasons if holds), None)


def reads_as_refusal(text: str) -> bool:
    """Whether a text is most likely a model's refusal, in English or Chinese: judged by its beginning."""
    text = text.strip().lstrip("\"'“‘*_ ")
    return (
        len(text) < _LONGEST_REFUSAL_CHARACTERS and _REFUSALS.match(text[:_BEGINNING_CHARACTERS]) is not None
    )
