"""The form of a guard's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from axolotl_cache.response.semantic.facts.model import Facts


@dataclass(frozen=True, slots=True)
class Veto:
    """Why one question's answer must not be served for the other."""

    guard: str
    a: str
    """What the first text has that the second does not."""
    b: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.a or 'nothing'} / {self.b or 'nothing'}"


Guard = Callable[[Facts, Facts], Veto | None]
"""Pure, symmetric (but for the order of `a` and `b` in the veto), and never against a text and itself."""


def veto(guard: str, a: Iterable[str], b: Iterable[str]) -> Veto:
    """Return a veto that names what differs, in a fixed order."""
    return Veto(guard, ", ".join(sorted(a)), ", ".join(sorted(b)))
