"""Drafts: guesses at a request's next tokens, so that one step may give several. They never change an answer.

An answer often repeats what stands in front of it: names, phrases of the question, its own wording. Where the
last tokens stood before, what followed them then is the draft. The model computes it together with the token
sampled last, and each position's token is chosen as ever, from its own logits: as long as the choice is what
was drafted, the next position is good as well; behind the first that differs, what was computed is dropped.
Where results don't depend on how many tokens are computed together, the chosen tokens, their log
probabilities and the KV that is kept are the same bits as without drafts.

Source: speculative decoding (Leviathan et al., 2023, arXiv 2211.17192) with prompt lookup (Saxena, 2023).
What was measured: docs/design/decode-speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LOOKUP_TOKENS: Final = (3, 2)
"""How many of the last tokens are looked up; the longest that stood there before counts."""
_STEP_IN_TOKENS: Final = 16
"""What a step costs beside its tokens, counted in decoded tokens (docs/design/decode-speed.md)."""
_FORGETTING: Final = 0.9
"""What counts of earlier drafts with every new one."""
_FIRST_RIGHT: Final = 2.0
_FIRST_WRONG: Final = 1.0
"""Counts before anything is known: two of three are right."""


class Drafts:
    """One request's drafts, and how often they were right.

    Args:
        most_tokens: length of a draft at the most.
    """

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._behind: dict[tuple[int, ...], int] = {}
        """Where the token behind these tokens stood last."""
        self._known = 0
        """Tokens that were seen so far."""
        self._guess: list[int] = []
        """What was thought to come behind those, one token at least where anything was."""
        self._right = self._wrong = 0.0

    @property
    def chance(self) -> float:
        """How likely a drafted token is right, if those before it were."""
        right, wrong = self._right + _FIRST_RIGHT, self._wrong + _FIRST_WRONG
        return right / (right + wrong)

    def propose(self, tokens: Sequence[int], most_tokens: int, *, company: int) -> list[int]:
        """Return what may follow `tokens`; empty where nothing is known or it is not worth computing.

        A token that is right saves its own decoding and that request's share of a step: the more requests
        share a step, the surer it must be.

        Cost: O(new tokens since the last call), about a microsecond each. Changes: what is known of them.

        Args:
            tokens: the prompt and what was generated; at every call those of the last one, and more.
            most_tokens: as many as are of use.
            company: requests that share the step, this one included.
        """
        self._learn(tokens)
        wanted = min(self._worthwhile_tokens(company), most_tokens)
        self._guess = []
        for length in _LOOKUP_TOKENS:
            at = self._behind.get(tuple(tokens[-length:]))
            if at is not None:
                self._guess = _from(at, tokens, max(wanted, 1))
                break
        return self._guess[:wanted]

    def _learn(self, tokens: Sequence[int]) -> None:
        came = tokens[self._known :]
        right = 0
        while right < min(len(self._guess), len(came)) and self._guess[right] == came[right]:
            right += 1
        if self._guess and came:
            self._right = self._right * _FORGETTING + right
            self._wrong = self._wrong * _FORGETTING + (right < min(len(self._guess), len(came)))
        for end in range(self._known, len(tokens)):
            for length in _LOOKUP_TOKENS:
                if end >= length:
                    self._behind[tuple(tokens[end - length : end])] = end
        self._known = len(tokens)

    def _worthwhile_tokens(self, company: int) -> int:
        least_chance = company / (company + _STEP_IN_TOKENS)
        tokens, chance = 0, self.chance
        while tokens < self._most_tokens and chance > least_chance:
            tokens, chance = tokens + 1, chance * self.chance
        return tokens


def _from(at: int, tokens: Sequence[int], count: int) -> list[int]:
    """Return `count` tokens from place `at` on; behind the end, the text is taken to go on as it returns."""
    found = list(tokens[at : at + count])
    period = len(tokens) - at
    while len(found) < count:
        found.append(found[-period])
    return found
