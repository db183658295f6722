"""What the last prompts of a run lose by their layout, for people."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from axolotl_cache.layout import HeadSample
from axolotl_cache.request import Request

_PROMPTS_KEPT: Final = 16
_FEWEST: Final = 3
_LEAST_LOST_TOKENS: Final = 32
"""What is lost each time counts from here on: less is chance, or no whole block."""


class LayoutReport:
    """Keeps the last requests that were computed, and says what they lose. From any thread.

    Cost: nothing is looked at before it is asked for.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[Request, int]] = deque(maxlen=_PROMPTS_KEPT)
        self._lock = threading.Lock()

    def note(self, request: Request, tokens: int) -> None:
        """Keep a request, whose prompt has so many tokens."""
        with self._lock:
            self._last.append((request, tokens))

    def lines(self) -> Iterator[str]:
        """Yield a sentence for each part that should be moved. Cost: milliseconds."""
        with self._lock:
            last = list(self._last)
        sample = HeadSample(fewest=_FEWEST)
        for request, _ in last:
            sample.see(
                [(message.role, message.content) for message in request.messages],
                prompt=request.prompt,
                tools=tuple(
                    json.dumps(dict(tool), ensure_ascii=False, default=str) for tool in request.tools
                ),
                principal=request.principal,
            )
        tokens = sum(count for _, count in last)
        again = f"tokens of the last {len(last)} prompts were computed again, as"
        for part in sample.changing():
            lost = round(part.lost_share * tokens)
            if lost >= _LEAST_LOST_TOKENS * part.requests:
                examples = ", ".join(repr(each) for each in part.examples)
                yield (
                    f"layout: about {lost:,} {again} what stands at character {part.at_characters:,} changes "
                    f"({examples}): move it behind what stays the same, or into the user's message"
                )
        for shuffled in sample.shuffled():
            lost = round(shuffled.lost_share * tokens)
            if lost >= _LEAST_LOST_TOKENS * shuffled.requests:
                yield f"layout: about {lost:,} {again} the {shuffled.what} come in different orders: keep one"
