"""What the prompts of a run lose by their layout, for people."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from axolotl_cache.layout import LayoutAdvice, advise

_PROMPTS_KEPT: Final = 16
_TOKENS_KEPT: Final = 2_048
_SHOWN_CHARACTERS: Final = 60


class LayoutReport:
    """Keeps the beginnings of the last prompts that were computed, and says what they lose.

    Cost: a copy of at most 2,048 tokens a prompt; comparing is done when it is asked for.
    """

    def __init__(self) -> None:
        self._prompts: deque[list[int]] = deque(maxlen=_PROMPTS_KEPT)
        self._lock = threading.Lock()

    def note(self, tokens: Sequence[int]) -> None:
        """Keep a prompt's beginning."""
        with self._lock:
            self._prompts.append(list(tokens[:_TOKENS_KEPT]))

    def advice(self) -> LayoutAdvice:
        """Return what the prompts that are kept lose. Cost: milliseconds."""
        with self._lock:
            prompts = list(self._prompts)
        return advise(prompts)

    def lines(self, show: Callable[[Sequence[int]], str]) -> Iterator[str]:
        """Yield a sentence for each part that should be moved.

        Args:
            show: writes tokens out.
        """
        for part in self.advice().parts:
            examples = ", ".join(repr(show(tokens).strip()[:_SHOWN_CHARACTERS]) for tokens in part.examples)
            yield (
                f"layout: {part.lost_tokens:,} tokens of the last {part.prompts + 1} prompts were computed "
                f"again, as what stands at token {part.position_tokens:,} changes ({examples}): move it "
                f"behind what stays the same, which ends at token {part.move_behind_tokens:,}, or into the "
                "user's message"
            )
