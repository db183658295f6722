"""The four workloads of `engine.py`: which prompts arrive when, in token ids. Nothing here runs a model.

Every side gets the same ids, so that no two tokenizers or templates are compared by accident.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request: a prompt, and how many tokens its answer has (the end token is ignored)."""

    tokens: list[int]
    new_tokens: int
    at_seconds: float = 0.0
    """When it arrives, counted from the start of the workload."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of one customer; the prompt of each is all that was said before, and the turn."""

    system: list[int]
    turns: list[list[int]]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a run does."""

    slow_requests: int | None
    """Most requests that a peer serves of a workload, its time scaled to all of them; None is all."""
    unshared_requests: int
    unshared_rounds: int
    mixed_requests: int
    turns: int
    latency_rounds: int
    prompts: int
    corruptions: int
    operations: int


class Texts:
    """Cuts real text to exact numbers of tokens, and never the same text twice.

    Args:
        tokenize: text to ids, special tokens left out.
        system_prompt: of the help desk.
        questions: what customers ask.
        rng: shuffles the questions.
    """

    def __init__(
        self, tokenize: Tokenize, system_prompt: str, questions: Sequence[str], rng: random.Random
    ) -> None:
        self._tokenize = tokenize
        self._system_prompt = system_prompt
        shuffled = list(dict.fromkeys(questions))
        rng.shuffle(shuffled)
        self._questions = iter(shuffled)

    def system(self, tokens: int, number: int = 0) -> list[int]:
        """Return `tokens` tokens: the system prompt of desk `number`, repeated as often as needed."""
        text = f"Desk {number}. {self._system_prompt}\n"
        ids = self._tokenize(text)
        while len(ids) < tokens:
            text += self._system_prompt + "\n"
            ids = self._tokenize(text)
        return ids[:tokens]

    def questions(self, tokens: int) -> list[int]:
        """Return `tokens` tokens of questions that were not used before, one a line."""
        ids: list[int] = []
        while len(ids) < tokens:
            ids += self._tokenize(f"- {self._next_question()}\n")
        return ids[:tokens]

    def turn(self) -> list[int]:
        """Return what a customer says next, and the cue for the answer."""
        return self._tokenize(f"\nCustomer: {self._next_question()}\nDesk:")

    def _next_question(self) -> str:
        try:
            return next(self._questions)
        except StopIteration:
            raise RuntimeError("the questions are used up: ask for fewer requests") from None


def shared(texts: Texts, *, requests: int, prefix: int, suffix: int, new_tokens: int) -> list[TokenRequest]:
    """Return requests that arrive together and share their first `prefix` tokens."""
    system = texts.system(prefix)
    return [TokenRequest(system + texts.questions(suffix), new_tokens) for _ in range(requests)]


def unshared(
    texts: Texts, *, requests: int, lengths: tuple[int, int], new_tokens: int, rng: random.Random
) -> list[TokenRequest]:
    """Return requests that arrive together and have no first block in common."""
    return [TokenRequest(texts.questions(rng.randint(*lengths)), new_tokens) for _ in range(requests)]


def mixed(
    texts: Texts,
    *,
    gaps: Sequence[float],
    prefixes: Sequence[int],
    shared_fraction: float,
    lengths: tuple[int, int],
    new_tokens: tuple[int, int],
    rng: random.Random,
) -> list[TokenRequest]:
    """Return requests of many lengths that arrive one after another.

    Args:
        texts: where the words come from.
        gaps: seconds from each arrival to the next; one request each.
        prefixes: tokens of each shared prefix.
        shared_fraction: of the requests that begin with one of them, if they are long enough for any.
        lengths: shortest and longest prompt; the logarithm of the length is spread evenly.
        new_tokens: shortest and longest answer, spread evenly.
        rng: draws all of it.
    """
    systems = [texts.system(length, number) for number, length in enumerate(prefixes, 1)]
    shortest, longest = lengths
    requests = []
    for arrival in accumulate(gaps):
        length = round(shortest * (longest / shortest) ** rng.random())
        # At least a question's worth of tokens behind a shared prefix.
        fitting = [system for system in systems if len(system) + 16 <= length]
        head = rng.choice(fitting) if fitting and rng.random() < shared_fraction else []
        tokens = head + texts.questions(length - len(head))
        requests.append(TokenRequest(tokens, rng.randint(*new_tokens), arrival))
    return requests


def conversations(
    texts: Texts, *, count: int, turns: int, system: int, new_tokens: int
) -> list[Conversation]:
    """Return conversations with one desk: a system prompt of `system` tokens, and turns of one question."""
    return [
        Conversation(texts.system(system), [texts.turn() for _ in range(turns)], new_tokens)
        for _ in range(count)
    ]


def exponential_gaps(count: int, mean_seconds: float, rng: random.Random) -> list[float]:
    """Return gaps between arrivals that know nothing of each other."""
    return [rng.expovariate(1 / mean_seconds) for _ in range(count)]


def scaled_gaps(arrivals: Sequence[float], count: int, mean_seconds: float) -> list[float]:
    """Return the first `count` gaps of a trace, stretched or squeezed to a mean.

    Args:
        arrivals: seconds, ascending, more than `count` of them.
        count: how many gaps.
        mean_seconds: their mean afterwards.

    Raises:
        ValueError: the trace is too short, or all of it arrived at once.
    """
    gaps = [after - before for before, after in pairwise(arrivals[: count + 1])]
    if len(gaps) < count or not sum(gaps):
        raise ValueError(f"a trace of {len(arrivals)} arrivals does not give {count} gaps")
    scale = mean_seconds * count / sum(gaps)
    return [gap * scale for gap in gaps]
