"""Traps within one domain, made of Banking77 and CLINC150, and trivial rewrites as their control."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np

from pairs import Pair

NEAR = 0.8
"""Cosine from which two questions of different intents are a trap."""

_SWAPS = (
    "deposit/withdraw",
    "send/receive",
    "sent/received",
    "activate/deactivate",
    "increase/decrease",
    "enable/disable",
    "open/close",
    "accept/decline",
    "add/remove",
    "before/after",
    "first/last",
    "cheapest/most expensive",
    "lowest/highest",
    "buy/sell",
    "lend/borrow",
    "lock/unlock",
    "freeze/unfreeze",
    "up/down",
    "on/off",
    "all/some",
    "more than/less than",
    "incoming/outgoing",
    "virtual/physical",
    "debit/credit",
    "visa/mastercard",
    "us/uk",
    "dollars/euros",
    "usd/gbp",
    "euro/dollar",
    "pounds/euros",
    "monday/friday",
    "saturday/sunday",
    "today/tomorrow",
    "tonight/tomorrow night",
    "morning/evening",
    "january/july",
    "march/april",
    "london/paris",
    "france/spain",
    "chicago/boston",
    "new york/los angeles",
    "spanish/french",
    "german/italian",
    "english/spanish",
    "my wife/my brother",
    "cat/dog",
    "week/year",
    "daily/weekly",
    "checking/savings",
    "minimum/maximum",
    "red/blue",
    "apple pay/google pay",
    "car/bike",
    "breakfast/dinner",
    "hours/days",
)
_NEGATIONS = (
    (
        r"\b(is|are|was|were|will|should|would|could|has|have|does|did|can) "
        r"(my|the|there|it|a|an|this|that|i|you|we)\b(?! not)",
        r"\1 \2 not",
    ),
    (r"\b(i) (want|need|like|have|see|know|think)\b", r"\1 do not \2"),
    (
        r"\b(i|you|we|it|card|payment|transfer) (can|could|will|would|should|is|was|did|does)\b(?! not)",
        r"\1 \2 not",
    ),
    (r"\bwith\b", "without"),
)
_NUMBERS = {"one": "three", "two": "five", "three": "six", "four": "nine", "five": "eight", "ten": "twenty"}


def neighbours(texts: Sequence[tuple[str, str]], vectors: np.ndarray, count: int, seed: int) -> list[Pair]:
    """Return questions with their nearest question of another intent, where that is near.

    One intent does not make one answer, but two intents make two: up to 14 % of Banking77's labels may be
    wrong (Ying and Thomas 2022), which counts against whoever is measured.

    Args:
        texts: (text, intent).
        vectors: (len(texts), d), of length 1.
        count: most pairs.
        seed: which ones.
    """
    names = np.array([intent for _, intent in texts])
    pairs: dict[tuple[int, int], float] = {}
    for start in range(0, len(texts), 1000):
        block = vectors[start : start + 1000] @ vectors.T
        block[names[start : start + 1000, None] == names[None, :]] = -1
        best = block.argmax(axis=1)
        for row, column in enumerate(best.tolist()):
            if block[row, column] >= NEAR:
                i, j = sorted((start + row, column))
                pairs[i, j] = float(block[row, column])
    chosen = sorted(pairs)
    random.Random(seed).shuffle(chosen)  # noqa: S311
    return [Pair(f"near-{i}-{j}", "neighbour", False, texts[i][0], texts[j][0]) for i, j in chosen[:count]]


def mutations(texts: Sequence[tuple[str, str]], count: int, seed: int) -> list[Pair]:
    """Return questions with a copy in which one number, name, day, direction or negation was changed."""
    rng = random.Random(seed)  # noqa: S311
    order = list(range(len(texts)))
    rng.shuffle(order)
    found = []
    for number in order:
        text = texts[number][0]
        changed = [
            (kind, new) for kind, change in _CHANGES for new in [change(text, rng)] if new and new != text
        ]
        if changed:
            kind, new = rng.choice(changed)
            found.append(Pair(f"mutated-{number}", f"mutated {kind}", False, text, new))
        if len(found) == count:
            break
    return found


def rewrites(texts: Sequence[tuple[str, str]], count: int, seed: int) -> list[Pair]:
    """Return questions with a copy that says the same: case, a greeting, punctuation, a typing mistake."""
    rng = random.Random(seed)  # noqa: S311
    chosen = rng.sample(list(texts), min(count, len(texts)))
    changes: list[Callable[[str], str]] = [
        str.upper,
        str.lower,
        lambda text: f"Hi, {text[:1].lower()}{text[1:]}",
        lambda text: f"{text.rstrip('?.! ')}, please?",
        lambda text: f"{text} Thanks!",
        lambda text: text.rstrip("?.!"),
        lambda text: _typo(text, rng),
    ]
    return [
        Pair(f"rewrite-{n}", "rewrite", True, text, rng.choice(changes)(text))
        for n, (text, _) in enumerate(chosen)
    ]


def _number(text: str, rng: random.Random) -> str | None:
    digits = re.search(r"(?<![\w.])\d+(?![\w.])", text)
    if digits:
        return (
            text[: digits.start()] + str(int(digits.group()) + rng.choice((1, 2, 10))) + text[digits.end() :]
        )
    word = re.search(rf"\b({'|'.join(_NUMBERS)})\b(?! of)", text)
    return (
        text[: word.start()] + _NUMBERS[word.group()] + text[word.end() :]
        if word and word.group() != "one"
        else None
    )


def _swap(text: str, rng: random.Random) -> str | None:
    found = []
    for swap in _SWAPS:
        left, right = swap.split("/")
        for old, new in ((left, right), (right, left)):
            match = re.search(rf"\b{old}\b", text, re.IGNORECASE)
            if match and not re.search(rf"\b{new}\b", text, re.IGNORECASE):
                found.append(text[: match.start()] + new + text[match.end() :])
    return rng.choice(found) if found else None


def _negate(text: str, rng: random.Random) -> str | None:
    if re.search(r"n't|\bnot\b|\bno\b|\bnever\b|\bwithout\b", text, re.IGNORECASE):
        return None
    found = [re.sub(old, new, text, count=1, flags=re.IGNORECASE) for old, new in _NEGATIONS]
    different = [new for new in found if new != text]
    return rng.choice(different) if different else None


_CHANGES: tuple[tuple[str, Callable[[str, random.Random], str | None]], ...] = (
    ("number", _number),
    ("word", _swap),
    ("negation", _negate),
)


def _typo(text: str, rng: random.Random) -> str:
    words = list(re.finditer(r"[A-Za-z]{6,}", text))
    if not words:
        return text.lower()
    at = rng.choice(words).start() + rng.randint(1, 4)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
