"""From the pipeline's answers to OpenAI's bodies and events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic_core import to_json

from axolotl_cache.request import Answer, Served, TokenLogprob
from axolotl_cache.server.asked import CHAT, Asked

DONE: Final = b"data: [DONE]\n\n"
_PIECE: Final = re.compile(r"\s*\S+\s*$|\s*\S+")
"""A stored answer is replayed word by word, so that what shows text as it comes has pieces to show."""
_RANK: Final = {served: rank for rank, served in enumerate(reversed(Served))}


class Replies:
    """Writes the answers to one request.

    Args:
        asked: what was asked for.
        id: of the answer.
        created: seconds since the epoch.
        fingerprint: of everything that decides what the model says; OpenAI's `system_fingerprint`.
    """

    def __init__(self, asked: Asked, id: str, created: float, fingerprint: str) -> None:
        self._asked = asked
        self._is_chat = asked.route == CHAT
        kind = "chat.completion" if self._is_chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": id,
            "object": kind,
            "created": int(created),
            "model": asked.model,
            "system_fingerprint": fingerprint,
        }
        if asked.streams and self._is_chat:
            self._head["object"] = "chat.completion.chunk"
        self._offsets = [0] * len(asked.requests)

    def body(self, answers: Sequence[Answer]) -> bytes:
        """Return the whole answer, the choices in their order."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return to_json(self._head | {"choices": choices, "usage": usage(answers, self._asked.prompts)})

    def replay(self, index: int, answer: Answer) -> bytes:
        """Return all events of one choice that is there already, its end included."""
        events = [self.begin(index)]
        if answer.logprobs:
            events.append(self.piece(index, answer.text, answer.logprobs))
        else:
            events += [self.piece(index, piece) for piece in pieces(answer.text)]
        return b"".join([*events, self.end(index, answer)])

    def begin(self, index: int) -> bytes:
        """Return the event that comes before the first piece of a choice; empty if there is none."""
        return self._event(index, {"role": "assistant", "content": ""}) if self._is_chat else b""

    def piece(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> bytes:
        """Return the event of one piece."""
        return self._event(
            index, {"content": text} if self._is_chat else text, self._logprobs(index, logprobs)
        )

    def end(self, index: int, answer: Answer) -> bytes:
        """Return the event that ends a choice."""
        return self._event(index, {} if self._is_chat else "", finish_reason=answer.finish_reason)

    def last(self, answers: Sequence[Answer]) -> bytes:
        """Return what ends the stream."""
        if not self._asked.include_usage:
            return DONE
        tokens = usage(answers, self._asked.prompts)
        return b"data: %b\n\n%b" % (to_json(self._head | {"choices": [], "usage": tokens}), DONE)

    def _event(
        self,
        index: int,
        what: dict[str, Any] | str,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": index,
            "delta" if self._is_chat else "text": what,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        event = self._head | {"choices": [choice]}
        if self._asked.include_usage:
            event["usage"] = None
        return b"data: %b\n\n" % to_json(event)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        logprobs = self._logprobs(index, answer.logprobs)
        if self._is_chat:
            # Asked for, and no token there: still a list.
            if logprobs is None and self._asked.requests[index].sampling.logprobs is not None:
                logprobs = {"content": [], "refusal": None}
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            what: dict[str, Any] = {"message": message}
        else:
            what = {"text": answer.text}
        return {"index": index, **what, "logprobs": logprobs, "finish_reason": answer.finish_reason}

    def _logprobs(self, index: int, entries: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not entries:
            return None
        if self._is_chat:
            chosen = [_likely(e) | {"top_logprobs": [_likely(top) for top in e.top]} for e in entries]
            return {"content": chosen, "refusal": None}
        offsets = []
        for entry in entries:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(entry.text)
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{top.text: top.logprob for top in entry.top} for entry in entries],
            "text_offset": offsets,
        }


def usage(answers: Sequence[Answer], prompts: int = 1) -> dict[str, Any]:
    """Return the tokens of all choices as OpenAI counts them: a prompt once, however many its choices.

    Args:
        answers: those of the first prompt first.
        prompts: how many there are.
    """
    choices = len(answers) // prompts
    firsts = answers[::choices]
    prompt_tokens = sum(answer.usage.prompt_tokens for answer in firsts)
    cached_tokens = sum(
        min(answer.usage.cached_tokens for answer in answers[at : at + choices])
        for at in range(0, len(answers), choices)
    )
    completion_tokens = sum(answer.usage.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def source_headers(answers: Sequence[Answer]) -> list[tuple[bytes, bytes]]:
    """Return where answers came from, as headers; of several, what the least of them can say."""
    served = least(answer.served for answer in answers)
    headers = [(b"x-cache", served.encode())]
    if served.is_stored:
        oldest = max(answer.age_seconds for answer in answers)
        headers.append((b"age", str(int(oldest)).encode()))
    return headers


def least(served: Iterator[Served]) -> Served:
    """Return the tier that saved least."""
    return min(served, key=_RANK.__getitem__)


def pieces(text: str) -> Iterator[str]:
    """Yield a text in words, each with the space before it; joined, they are the text."""
    end = 0
    for match in _PIECE.finditer(text):
        end = match.end()
        yield match[0]
    if end < len(text):
        yield text[end:]


def _likely(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": _bytes(entry.text)}


def _bytes(text: str) -> list[int] | None:
    # What is only part of a character has no text of its own, and its bytes are not known here.
    return None if "\ufffd" in text else list(text.encode("utf-8", "replace"))
