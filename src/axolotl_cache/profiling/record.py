"""One request of a log, in one shape whatever wrote the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_cache.layout import system_of

ROLE_MARK: Final = "<|{}|>\n"
"""What stands before a message where the log has no rendered prompt. The text of the mark cancels out:
prompts are compared with each other only."""


@dataclass(slots=True)
class Record:
    """One request of a log. What the log does not say is empty, or None.

    One of `messages`, `prompt`, `block_ids` and (for logs with lengths only) `prompt_tokens` is there.
    """

    arrived_seconds: float | None = None
    """Since the epoch, or since the start of the trace."""
    messages: tuple[tuple[str, str], ...] = ()
    """Role and text of each."""
    tools: tuple[str, ...] = ()
    """As JSON, in the order of the log."""
    prompt: str | None = None
    """As the model reads it."""
    block_ids: Sequence[int] = ()
    """One number for each block of the prompt, equal for equal prefixes."""
    block_tokens: int = 0
    """Tokens in each of `block_ids`."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    answer: str | None = None
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Names as in OpenAI's API: temperature, top_p, seed, max_tokens, ..."""
    namespace: Mapping[str, str] = field(default_factory=dict)
    """What was in the key beside the request itself: the digest of the namespace."""
    namespace_parts: Mapping[str, str] = field(default_factory=dict)
    """What the namespace is made of, where the log says: its first line of each namespace."""
    tenant: str = ""
    principal: str = ""
    session: str = ""
    entities: tuple[str, ...] = ()
    served: str = ""
    """`hit-exact`, `hit-semantic`, `hit-session`, `hit-prefix` or `miss`; empty if the log does not say."""
    miss_reason: str = ""
    not_stored: str = ""
    """Why the answer was not kept; empty if it was, or if the log does not say."""
    ttl_seconds: float | None = None
    """For how long the answer may be served, where the log says."""
    ttft_seconds: float | None = None
    total_seconds: float | None = None

    @property
    def has_text(self) -> bool:
        """Whether the log has the words, and not only lengths or hashes."""
        return self.prompt is not None or bool(self.messages)

    @property
    def system(self) -> str:
        """The text of the leading system messages; empty if there are none."""
        return system_of(self.messages)

    @property
    def question(self) -> str:
        """The last thing a user said; of a rendered prompt, all of it."""
        for role, text in reversed(self.messages):
            if role == "user":
                return text
        return self.prompt or ""

    @property
    def is_repeatable(self) -> bool:
        """Whether asking again must give the same answer: greedy, or with a seed.

        OpenAI's default temperature is 1, and a log that names no temperature at all mostly leaves sampling
        out, so that only one that is named above 0 counts against it.
        """
        temperature = self.sampling.get("temperature")
        return not temperature or self.sampling.get("seed") is not None

    def text(self) -> str:
        """Return the prompt as one text: rendered, or the tools and messages one after another."""
        if self.prompt is not None:
            return self.prompt
        return "".join(f"{mark}{text}\n" for _, mark, text in self._parts()) + ROLE_MARK.format("assistant")

    @property
    def lead_characters(self) -> int:
        """Characters of `text()` in front of the first that the log has."""
        return 0 if self.prompt is not None else len(next((mark for _, mark, _ in self._parts()), ""))

    def place_of(self, character: int) -> tuple[str, int]:
        """Return in which part of the prompt a character of `text()` is, and where in that part."""
        if self.prompt is not None:
            return "the prompt", character
        start = 0
        for name, mark, text in self._parts():
            end = start + len(mark) + len(text) + 1
            if character < end:
                return name, max(0, character - start - len(mark))
            start = end
        return "the end", 0

    def _parts(self) -> Iterator[tuple[str, str, str]]:
        """Yield what each part is called, its mark and its text."""
        if self.tools:
            yield "the tools", ROLE_MARK.format("tools"), "\n".join(self.tools)
        for number, (role, text) in enumerate(self.messages, 1):
            is_first_system = number == 1 and role in {"system", "developer"}
            name = "the system message" if is_first_system else f"message {number}, of the {role}"
            yield name, ROLE_MARK.format(role), text
