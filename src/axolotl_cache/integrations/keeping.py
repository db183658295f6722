"""What becomes of a server's answers: which are kept, with what account, and why others are not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

from axolotl_cache.integrations.answers import split_events, why_body_not_stored, why_events_not_stored
from axolotl_cache.integrations.collector import is_collecting
from axolotl_cache.integrations.exchange import Plan
from axolotl_cache.integrations.messages import is_event_stream, is_plain, text_of_body
from axolotl_cache.integrations.tally import Tally
from axolotl_cache.integrations.usage import usage_in
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.response.accounts import measured
from axolotl_cache.response.storable import FAILED

LARGEST_BODY_BYTES: Final = 16 * 2**20
"""A longer answer passes through, and is not kept."""

NOT_TEXT: Final = "it is compressed, no text, or too long"

Value = dict[str, Any]
"""An answer as it is stored: its type, its body in chunks, and what it says of tokens and model."""


class Keeping:
    """Keeps one transport's answers.

    Args:
        cache: where.
        most_bytes: of a body.
    """

    def __init__(self, cache: SmartInferenceCache, most_bytes: Callable[[], int]) -> None:
        self._cache = cache
        self._most_bytes = most_bytes
        self._late: deque[Callable[[], None]] = deque()
        self.not_stored = Tally()

    def value_of(self, plan: Plan, response: Any, chunks: list[bytes]) -> Value | None:
        """Return what to store of a whole answer; None, and it is counted, if it must not be stored."""
        is_text = is_plain(response) and not is_event_stream(response)
        text = text_of_body(chunks, self._most_bytes()) if is_text else None
        if response.status_code != 200:
            reason: str | None = FAILED
        elif text is None:
            reason = NOT_TEXT
        else:
            reason = why_body_not_stored(plan.shape, text, plan.wish.control)
        if reason is not None or text is None:
            self.not_stored.add(reason or NOT_TEXT)
            return None
        return _value(response.headers.get("content-type", "application/json"), [text])

    def keep(self, plan: Plan, value: Value, seconds: float) -> None:
        """Store what `value_of` returned; computing it took so long."""
        control = plan.wish.control
        cost = measured(value, seconds)
        self._cache.set(
            plan.key, value, ttl=control.ttl_seconds, tags=plan.wish.tags, kind=plan.kind, cost=cost
        )

    def keep_events(self, plan: Plan, chunks: list[bytes], content_type: str, started: float) -> None:
        """Store a stream that was read to its end, or count why not.

        Where the collector of cycles ended the stream, that is put off to `catch_up`: the thread that it runs
        in may be in the midst of a change to the cache.

        Args:
            plan: what was asked.
            chunks: as they came.
            content_type: of the answer.
            started: when it was asked for, on the clock of `time.perf_counter`.
        """
        if not plan.may_store:
            return
        seconds = perf_counter() - started
        if is_collecting():
            self._late.append(lambda: self._keep_events(plan, chunks, content_type, seconds))
        else:
            self._keep_events(plan, chunks, content_type, seconds)

    def catch_up(self) -> None:
        """Store what was put off. Cost: nothing, if there is nothing."""
        while self._late:
            try:
                store = self._late.popleft()
            except IndexError:  # another thread has it
                return
            store()

    def _keep_events(self, plan: Plan, chunks: list[bytes], content_type: str, seconds: float) -> None:
        text = text_of_body(chunks, self._most_bytes())
        events = [] if text is None else split_events(text)
        reason = why_events_not_stored(plan.shape, events, plan.wish.control) if events else NOT_TEXT
        if reason is None:
            self.keep(plan, _value(content_type, events), seconds)
        else:
            self.not_stored.add(reason)


def _value(content_type: str, chunks: Sequence[str]) -> Value:
    value: Value = {"type": content_type, "chunks": list(chunks)}
    usage, model = usage_in(chunks)
    return value | {"usage": usage, "model": model} if usage else value
