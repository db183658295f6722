"""What a conversation is about: an order, a card, a date, in one form each."""

from __future__ import annotations

from dataclasses import dataclass, field

BUILT_IN = (
    "order",
    "tracking",
    "account",
    "user",
    "card",
    "reservation",
    "flight",
    "product",
    "phone",
    "email",
    "url",
    "date",
    "amount",
)
"""The kinds that are known without being told."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity. Two are equal if kind and value are; where they stand in a text does not count."""

    kind: str
    """One of `BUILT_IN`, or the name of an own kind."""
    value: str
    """In its one form: "67890", "+8613800138000", "2024-05-20" (or "05-20"), "49.9 USD". Of a card
    only the last four digits, with a keyed digest behind them where there is a key."""
    start: int = field(default=0, compare=False)
    """Where the value begins in the text, in characters; a "#" or a currency sign belongs to it, a word
    like "order" does not."""
    end: int = field(default=0, compare=False)
    """Where it ends, exclusive."""

    @property
    def canonical(self) -> str:
        """Kind and value, as "order 67890". To extract it again gives an equal entity."""
        return f"{self.kind} {self.value}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A place in a text that points back: "it", "that order", 第二个订单."""

    start: int
    end: int
    phrase: str
    """Empty where nothing is said and a word implies it, as "the delivery status" does."""
    entities: tuple[Entity, ...]
    """What it points to: one, or several for "both"; none if unsure."""
    candidates: tuple[Entity, ...] = ()
    """If unsure: what it may point to, likeliest first."""

    @property
    def unsure(self) -> bool:
        """Whether it can't be told what it points to."""
        return bool(self.candidates)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a text speaks of, by name or by pointing back."""

    named: tuple[Entity, ...]
    """Named in the text, with their places in it."""
    references: tuple[Reference, ...]
    """Pointing back to what was named before."""

    @property
    def entities(self) -> tuple[Entity, ...]:
        """What the text speaks of for sure, each once; what it names first."""
        found = [*self.named, *(each for reference in self.references for each in reference.entities)]
        return tuple(dict.fromkeys(found))

    @property
    def unsure(self) -> bool:
        """Whether the text points to one of several, and it can't be told to which."""
        return any(reference.unsure for reference in self.references)

    @property
    def candidates(self) -> tuple[Entity, ...]:
        """Those several, likeliest first."""
        return tuple(dict.fromkeys(each for reference in self.references for each in reference.candidates))
