"""A day of two help desks, from real parts: a bank's questions and an airline's conversations. Runs no model.

What is asked is real: Banking77's questions of a bank's customers, each by somebody else and once, and
tau-bench's conversations, several going on at a time, with the history that was recorded. A repeat is a
question that was asked before, word for word; which one is drawn from all that were asked, so that what is
asked often is asked still more often. Why each part is as it is stands in docs/design/combined.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import airline
from common import REPOSITORY, banking77
from talks import Talk
from workloads import Tokenize

BANK_PROMPT = REPOSITORY / "examples" / "smollm2" / "system_prompt.txt"
REPEATS = 0.35
NEW_TOKENS = 32
TURNS_OF_NEW = 0.5
"""Of the requests that are no repeats, the share that are turns of a conversation."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What decides how much there is to reuse."""

    requests: int
    repeats: float = REPEATS
    new_tokens: int = NEW_TOKENS
    shared_tokens: int | None = None
    """Tokens of each desk's system prompt, cut or repeated; None leaves both as they are."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the day."""

    system: str
    said: tuple[tuple[str, str], ...]
    """(role, text) of the conversation so far, the last being what is asked now."""
    session: str = ""
    """Of the conversation and of who holds it; empty for a single question."""
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What days are made of."""

    questions: Sequence[str]
    talks: Sequence[Talk]
    records: Mapping[tuple[str, str], dict[str, Any]]
    bank_prompt: str


def read() -> Parts:
    """Return the parts; end the benchmark, visibly, where a trace is missing."""
    found = airline.read()
    if found is None:
        raise SystemExit(0)
    talks, records = found
    return Parts(banking77(), talks, records, BANK_PROMPT.read_text(encoding="utf-8").strip())


def day(
    parts: Parts, mix: Mix, rng: random.Random, tokenize: Tokenize, decode: Callable[[list[int]], str]
) -> list[Asked]:
    """Return the requests of a day, in the order in which they are sent.

    Args:
        parts: what they are made of.
        mix: how many of which.
        rng: draws all that is drawn.
        tokenize: text to ids, special tokens left out; used where system prompts are cut.
        decode: ids to text.
    """
    repeats = round(mix.requests * mix.repeats)
    turns = round((mix.requests - repeats) * TURNS_OF_NEW)
    questions = mix.requests - repeats - turns
    kinds = ["repeat"] * repeats + ["turn"] * turns + ["question"] * questions
    rng.shuffle(kinds)
    # Nothing can be asked again before anything was asked.
    first = kinds.index("question")
    kinds[0], kinds[first] = kinds[first], kinds[0]

    def cut(text: str) -> str:
        return text if mix.shared_tokens is None else _cut(text, mix.shared_tokens, tokenize, decode)

    bank = cut(parts.bank_prompt)
    fresh = iter(rng.sample(list(dict.fromkeys(parts.questions)), questions))
    spoken = _conversations(parts.talks, turns, rng, cut)
    asked: list[str] = []
    requests = []
    for kind in kinds:
        if kind == "turn":
            requests.append(next(spoken))
            continue
        asked.append(rng.choice(asked) if kind == "repeat" else next(fresh))
        requests.append(Asked(bank, (("user", asked[-1]),), is_repeat=kind == "repeat"))
    return requests


def _conversations(
    talks: Sequence[Talk], turns: int, rng: random.Random, cut: Callable[[str], str]
) -> Iterator[Asked]:
    """Yield turns of conversations that go on at the same time, most of them to their end."""
    coming = iter(rng.sample(list(talks), len(talks)))
    together = max(1, round(turns / median(len(talk.says) for talk in talks)))
    open_talks = [(talk, 0) for talk in (next(coming) for _ in range(min(together, len(talks))))]
    systems: dict[str, str] = {}
    while open_talks:
        talk, turn = open_talks.pop(0)
        system = systems.setdefault(talk.system, cut(talk.system))
        yield Asked(system, _history(talk, turn), talk.name)
        if turn + 1 < len(talk.says):
            open_talks.append((talk, turn + 1))
        elif (following := next(coming, None)) is not None:
            open_talks.append((following, 0))
    raise ValueError("the conversations are used up: ask for fewer requests")


def _history(talk: Talk, turn: int) -> tuple[tuple[str, str], ...]:
    said: list[tuple[str, str]] = []
    for earlier in range(turn):
        said.append(("user", talk.says[earlier]))
        if earlier < len(talk.hears):
            said.append(("assistant", talk.hears[earlier]))
    return (*said, ("user", talk.says[turn]))


def _cut(text: str, tokens: int, tokenize: Tokenize, decode: Callable[[list[int]], str]) -> str:
    """Return a text of about so many tokens, made by repeating and cutting."""
    if tokens == 0:
        return ""
    ids = tokenize(text)
    while len(ids) < tokens:
        text += "\n" + text
        ids = tokenize(text)
    return decode(ids[:tokens]).strip()
