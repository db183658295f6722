"""What a turn of a session is about, for those who compare it with earlier turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from axolotl_cache.entities import Entity, Resolution
from axolotl_cache.request import Message
from axolotl_cache.session import SessionName


@dataclass(frozen=True, slots=True)
class Topic:
    """One turn: whose it is, what it speaks of, and what was said."""

    session: SessionName
    entities: tuple[tuple[str, str, str], ...]
    """What this turn speaks of, sorted: canonical name, what became of its record, and its digest."""
    records: tuple[str, ...]
    """Digests of all records in the prompt, those of earlier turns' entities included."""
    messages: tuple[Message, ...]
    """As they came, without the records."""
    text: str
    """The last message with the names of entities in the place of what points back to them."""
    is_unsure: bool
    """Whether it points back to one of several, and it can't be told to which."""

    @property
    def said(self) -> tuple[Message, ...]:
        """The messages without the system's."""
        return tuple(message for message in self.messages if message.role not in {"system", "developer"})

    @property
    def system(self) -> list[str]:
        """The system's messages, without the records."""
        return [message.content for message in self.messages if message.role in {"system", "developer"}]


def spelled_out(text: str, found: Resolution) -> str:
    """Return a message with names in the place of what points back: "When does order 67890 arrive?"."""
    behind = [each for each in found.references if each.entities and not each.phrase]
    pointing = [each for each in found.references if each.entities and each.phrase]
    for each in sorted(pointing, key=lambda reference: -reference.start):
        text = text[: each.start] + _names(each.entities) + text[each.end :]
    return " ".join([text, *(_names(each.entities) for each in behind)])


def _names(entities: Sequence[Entity]) -> str:
    return " and ".join(entity.canonical for entity in entities)
