"""The form in which the facts of a text are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Negation:
    """How often a text negates."""

    hard: int
    """not, never, without, 不, 没有: each turns the meaning around."""
    soft: int
    """unable, fails, trouble, 失败: words that may stand for a negation in another wording."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found in one text. Made by `extract`; the sets hold normal forms."""

    text: str
    """Normalised."""
    language: str
    """Two letters; empty where it can't be told."""
    tokens: tuple[str, ...]
    """All words and numbers, in lower case, contractions written out."""
    plain: tuple[str, ...]
    """The same without politeness."""
    content: tuple[str, ...]
    """Base forms of the words that carry meaning, in order, without what the typed sets hold."""
    numbers: frozenset[str]
    amounts: frozenset[str]
    """`value family`, as "86400 time" or "50 EUR"."""
    dates: frozenset[str]
    """As "md:03-05", "weekday:1", "time:15:00", "relative:day+1"."""
    ids: frozenset[str]
    entities: frozenset[str]
    """Names, in lower case or as the gazetteer calls them."""
    directions: frozenset[tuple[str, str]]
    """From what to what."""
    persons: frozenset[tuple[str, str]]
    """Whose, or whom: ("name", "you") in "your name", ("call", "i") in "call me"."""
    negation: Negation
    scope: frozenset[tuple[str, str]]
    """(dimension, value), as ("bound", "least")."""
    opposites: frozenset[tuple[int, int]]
    """(pair, side) of the list of opposites."""
    kind: str
    """What is asked: who, when, why, how_much, yes_no ...; empty if it is no question that we know."""
    answer_languages: frozenset[str]
    """Languages in which an answer is asked for."""
    day: date | None = None
    """When it was said; relative dates mean nothing without it."""
