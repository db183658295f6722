"""Tokens to text, piece by piece, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what tokenizers put where the bytes of a character are not all there yet


class TextStream:
    """Turns tokens into text as they come; all pieces together are the whole text.

    Holds back what may yet change: bytes of an unfinished character, and the beginning of a stop string.

    Args:
        decode: token ids to text.
        stop: the text ends before the first of these.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = 0
        """Start of the tokens that are decoded again, so that joints between tokens come out right."""
        self._read = 0
        """Tokens whose text has been taken."""
        self._held_back = ""
        self.stopped = False
        """Whether a stop string was met."""

    def push(self, token: int) -> str:
        """Take one token; return the text that is certain by now (maybe none)."""
        self._tokens.append(token)
        text = self._new_text()
        if not text or text.endswith(_INCOMPLETE):
            return ""  # a skipped special token, or part of a character: read on with it as context
        self._context, self._read = self._read, len(self._tokens)
        return self._emit(text)

    def finish(self) -> str:
        """Return what was held back. Nothing more may be pushed."""
        rest = self._held_back + (self._new_text() if self._read < len(self._tokens) else "")
        self._held_back = ""
        return "" if self.stopped else self._cut(rest)

    def _new_text(self) -> str:
        known = self._decode(self._tokens[self._context : self._read]) if self._read > self._context else ""
        return self._decode(self._tokens[self._context :])[len(known) :]

    def _cut(self, text: str) -> str:
        places = [at for s in self._stop if (at := text.find(s)) >= 0]
        if not places:
            return text
        self.stopped = True
        return text[: min(places)]

    def _emit(self, text: str) -> str:
        text = self._cut(self._held_back + text)
        self._held_back = ""
        if self.stopped:
            return text
        longest = max((_overlap(text, s) for s in self._stop), default=0)
        if longest:
            text, self._held_back = text[:-longest], text[-longest:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
