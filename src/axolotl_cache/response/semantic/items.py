"""What became of one stored question: answers that were right for other wordings, and wrong ones."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

RIGHT_TO_RETURN = 3
"""Right answers that an item which was wrong must give unserved before it is served again."""
REMEMBERED = 20
"""Labels that count; older ones are forgotten."""


@dataclass
class Item:
    """Labels of one stored question, and what follows from them.

    Its log-odds are those of the calibration plus an offset of its own, which is drawn from a normal
    distribution with mean 0 and variance 1 before anything is known of it, and is the most probable one
    (Newton's method) after the labels. So one that was right for many wordings is served a little
    sooner, and one that was wrong far later: vCache learns each item from nothing, here it starts from all.
    """

    labels: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """(log-odds, whether it was right)."""
    owed: int = 0
    """Right answers that it still must give unserved."""
    offset: float = 0.0

    def add(self, probability: float, right: bool) -> None:
        """Learn from one comparison. Cost: 20 us."""
        self.labels.append((log_odds(probability), right))
        if not right:
            self.owed = RIGHT_TO_RETURN
        elif self.owed:
            self.owed -= 1
        offset = 0.0
        for _ in range(8):
            chances = [_sigmoid(odds + offset) for odds, _ in self.labels]
            slope = sum(right - p for (_, right), p in zip(self.labels, chances, strict=True)) - offset
            offset += slope / (1 + sum(p * (1 - p) for p in chances))
        self.offset = offset

    def probability(self, probability: float) -> float:
        """Return the calibration's probability as this item's labels change it."""
        return _sigmoid(log_odds(probability) + self.offset) if self.offset else probability


def log_odds(probability: float) -> float:
    """Return the logarithm of the odds, of probabilities no nearer to 0 and 1 than a ten-thousandth."""
    p = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
