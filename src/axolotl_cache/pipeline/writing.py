"""From a generation's tokens to the pieces of an answer, as they come."""

from __future__ import annotations

import time
from collections.abc import Generator

from axolotl_cache.engine.generation import Generation
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.engine.sampling import Choice
from axolotl_cache.engine.text import TextStream
from axolotl_cache.request import Delta, Sampling, Served, TokenLogprob


class Writing:
    """An answer as it is written; its whole is there once `deltas` has come to its end.

    Args:
        renderer: writes tokens out.
        generation: the tokens, on their way.
        sampling: the stop strings, and whether log probabilities are wanted.
    """

    def __init__(self, renderer: PromptRenderer, generation: Generation, sampling: Sampling) -> None:
        self._renderer = renderer
        self._generation = generation
        self._out = TextStream(renderer.decode, sampling.stop)
        self._logprobs = Logprobs(renderer, generation, sampling.logprobs is not None)
        self._pieces: list[str] = []
        self.first_at: float | None = None
        """When the first token came, on the clock of `time.perf_counter`; None if none did."""
        self.completion_tokens = 0
        """Tokens that were read: the engine does not know stop strings, and may be ahead."""

    def deltas(self) -> Generator[Delta, None, None]:
        """Yield the pieces of text, and end the generation with the last, or when closed."""
        out, logprobs = self._out, self._logprobs
        try:
            for token in self._generation:
                piece = out.push(token)
                self.completion_tokens += 1
                self.first_at = self.first_at or time.perf_counter()
                logprobs.push()
                if piece:
                    yield self._delta(piece, logprobs.take())
                if out.stopped:
                    break
        finally:
            self._generation.close()
        rest, last = out.finish(), logprobs.take()
        if rest or last:
            yield self._delta(rest, last)

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(self._pieces)

    @property
    def served(self) -> Served:
        """Whether the prefix cache had a part in it."""
        return Served.HIT_PREFIX if self._generation.cached_tokens else Served.MISS

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""
        return "stop" if self._out.stopped else self._generation.finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of all tokens that were read, if they are wanted."""
        return tuple(self._logprobs.all)

    def _delta(self, piece: str, logprobs: tuple[TokenLogprob, ...]) -> Delta:
        self._pieces.append(piece)
        return Delta(piece, logprobs, self.served)


class Logprobs:
    """The log probabilities of an answer's tokens, as they come.

    Args:
        renderer: writes tokens out.
        generation: has a choice for every token.
        wanted: False gives none, at no cost.
    """

    def __init__(self, renderer: PromptRenderer, generation: Generation, wanted: bool) -> None:
        self.all: list[TokenLogprob] = []
        self._renderer = renderer
        self._generation = generation
        self._wanted = wanted
        self._taken = 0

    def push(self) -> None:
        """Take the next token's."""
        if not self._wanted:
            return
        choice: Choice = self._generation.choices[len(self.all)]
        top = tuple(TokenLogprob(token, self._text(token), logprob) for token, logprob in choice.top)
        if choice.logprob is None:
            raise RuntimeError("the engine chose a token without the log probabilities that were asked for")
        self.all.append(TokenLogprob(choice.token, self._text(choice.token), choice.logprob, top))

    def take(self) -> tuple[TokenLogprob, ...]:
        """Return those that came since the last time."""
        new = tuple(self.all[self._taken :])
        self._taken = len(self.all)
        return new

    def _text(self, token: int) -> str:
        # Behind itself: some tokenizers drop a space at the beginning of a text.
        return self._renderer.show([token, token])[len(self._renderer.show([token])) :]
