"""How prompts are laid out: what an early part that changes costs, and where to move it.

A prefix cache reuses what prompts begin with, and not one token behind the first that differs. A date or a
user's name at the top of a system prompt therefore costs all that stands below it, each time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

_MOST_PROMPTS: Final = 64
_MOST_TOKENS: Final = 4_096
_LEAST_SAME_TOKENS: Final = 32
"""What is the same behind a difference counts from here on: shorter runs are chance."""


@dataclass(frozen=True, slots=True)
class LostPart:
    """A part that changes from prompt to prompt, though what follows it does not."""

    position_tokens: int
    """Where it begins, in the first prompt that has it."""
    changing_tokens: int
    """How long it is there."""
    lost_tokens: int
    """Tokens that were the same again behind it, and could not be reused for it: over all prompts given."""
    prompts: int
    """In how many of them."""
    examples: tuple[tuple[int, ...], ...]
    """What stands there, in up to three of the prompts, as token ids."""
    move_behind_tokens: int
    """Behind which token of the first prompt it would cost nothing: the end of what stays the same."""


@dataclass(frozen=True, slots=True)
class LayoutAdvice:
    """What a few prompts of one kind lose by their layout."""

    prompt_tokens: int
    """Of all prompts but the first of their kind: what could be reused at the most."""
    lost_tokens: int
    parts: tuple[LostPart, ...]
    """The costliest first."""


def advise(prompts: Sequence[Sequence[int]]) -> LayoutAdvice:
    """Return what these prompts lose to early parts that change.

    Each prompt is compared with the one before that it shares most with. Cost: O(prompts^2 * tokens) for the
    leading tokens, and a diff for each prompt; of many prompts the first 64 are looked at, and of each the
    first 4,096 tokens.

    Args:
        prompts: token ids, in the order in which they came; their beginnings are enough.
    """
    seen: list[Sequence[int]] = []
    found: dict[tuple[int, ...], list[tuple[int, int, int, int, Sequence[int]]]] = defaultdict(list)
    total = 0
    for prompt in (list(each[:_MOST_TOKENS]) for each in prompts[:_MOST_PROMPTS]):
        if seen:
            total += len(prompt)
            nearest = max(seen, key=lambda other: _likeness(other, prompt))
            lost = _lost(nearest, prompt)
            if lost is not None:
                at, length, behind, same = lost
                found[tuple(nearest[:at][-16:])].append((at, length, behind, same, prompt[at : at + length]))
        seen.append(prompt)
    parts = sorted(map(_part, found.values()), key=lambda part: -part.lost_tokens)
    return LayoutAdvice(total, sum(part.lost_tokens for part in parts), tuple(parts))


def _likeness(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Say how much two prompts have in common, wherever it stands; then how much at the beginning."""
    counts = Counter(one)
    return sum((counts & Counter(other)).values()), _common(one, other)


def _lost(before: Sequence[int], prompt: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Return where a prompt first differs, for how long, where what stays the same ends, and how much is."""
    at = _common(before, prompt)
    matcher = SequenceMatcher(None, before[at:], prompt[at:], autojunk=False)
    same = [block for block in matcher.get_matching_blocks() if block.size >= _LEAST_SAME_TOKENS]
    if not same:
        return None
    last = same[-1]
    return at, same[0].b, at + last.b + last.size, sum(block.size for block in same)


def _part(found: Sequence[tuple[int, int, int, int, Sequence[int]]]) -> LostPart:
    at, length, behind, _, _ = found[0]
    examples = dict.fromkeys(tuple(changed) for *_, changed in found)
    return LostPart(at, length, sum(same for *_, same, _ in found), len(found), tuple(examples)[:3], behind)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
