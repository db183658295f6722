"""What a conversation is about, as far as its messages say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from axolotl_cache.entities import Entity, Extractor, Resolution, Tracker
from axolotl_cache.request import Message

_NOTHING = Resolution((), ())
_MESSAGE_BYTES = 96
"""A digest as text, and its place in a list."""
_ENTITY_BYTES = 600
"""What is remembered of an entity: itself, what is known of its mentions, its place in a table."""


@dataclass(slots=True)
class Conversation:
    """Follows the messages of one conversation, as each turn brings them all again.

    Messages that were seen before are not read again. Where the beginning is another one, after an edit or in
    another branch, everything is read anew, so that what was taken back is not remembered.
    """

    extractor: Extractor | None = None
    tracker: Tracker = field(init=False)
    about: list[Entity] = field(default_factory=list)
    """What the user spoke of, in the order in which it came up."""
    _seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tracker = Tracker(self.extractor)

    def read(self, messages: Sequence[Message]) -> Resolution:
        """Take in what is new, and return what the last message speaks of, if it is the user's.

        Args:
            messages: all of the conversation so far; system messages do not count.
        """
        said = [m for m in messages if m.role not in {"system", "developer"}]
        digests = [_digest(m) for m in said]
        known = len(self._seen)
        if digests[:known] != self._seen or len(digests) == known:
            known = 0
            self.tracker = Tracker(self.extractor)
            self.about = []
        last = _NOTHING
        for message in said[known:]:
            last = self._take_in(message)
        self._seen = digests
        return last

    def _take_in(self, message: Message) -> Resolution:
        if message.role != "user":
            self.tracker.note(message.content)
            return _NOTHING
        found = self.tracker.turn(message.content)
        self.about += [entity for entity in found.entities if entity not in self.about]
        return found

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory. Cost: O(1)."""
        return _MESSAGE_BYTES * len(self._seen) + _ENTITY_BYTES * max(len(self.tracker), len(self.about))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes it of again. It holds no message, but the entities named in them."""
        return {
            "tracker": self.tracker.to_json(),
            "about": [[entity.kind, entity.value] for entity in self.about],
            "seen": self._seen,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], extractor: Extractor | None = None) -> Conversation:
        """Return the conversation of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: these are no such data.
        """
        conversation = cls(extractor)
        conversation.tracker = Tracker.from_json(data["tracker"], extractor)
        conversation.about = [Entity(str(kind), str(value)) for kind, value in data["about"]]
        conversation._seen = [str(each) for each in data["seen"]]
        return conversation


def _digest(message: Message) -> str:
    told = f"{message.role}\n{message.content}".encode("utf-8", "surrogatepass")
    return blake2b(told, digest_size=16, person=b"axc-message").hexdigest()
