"""Merging attention over several spans of keys into attention over all of them.

Attention over a span gives a mean of its values and the logarithm of its weight (log-sum-exp of the scores).
The mean over all spans is the mean of the means by those weights. Every token's sum runs over its own spans
in their order, whatever other tokens are merged beside it: the result depends on nothing else.

Source: online softmax (Milakov and Gimelshein, 2018), as in FlashAttention, cascade inference (FlashInfer)
and Hydragen (Juravsky et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from axolotl_cache.engine.spans import LEAST_ROWS

_LANES: Final = 16
"""A token's weights come in multiples of this: then their sum is the same with more that are zero."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Where the results of one batch of attention belong."""

    count: int
    """Pieces, B."""
    tokens: int
    """Of each piece, R, padding included."""
    targets: torch.Tensor
    """Rows of the call, (results,)."""
    results: torch.Tensor
    """Which of the B * R they are, (results,)."""
    ordinals: torch.Tensor
    """The how-manieth of the token's spans this is, (results,)."""


class Merge:
    """Collects the results of a layer's batches and merges them. Made once a call, used in every layer.

    Args:
        batches: all of the call's.
        rows: of the call that have more than one span, ascending.
        kv_heads: of keys and values.
        group: query heads that share them.
        value_dim: numbers of a value.
    """

    def __init__(
        self, batches: Sequence[Batch], rows: torch.Tensor, *, kv_heads: int, group: int, value_dim: int
    ) -> None:
        self.rows = rows
        self._shape = (kv_heads, len(rows), group)
        device = rows.device
        query_rows = [-(-batch.tokens * group // LEAST_ROWS) * LEAST_ROWS for batch in batches]
        sizes = [b.count * kv_heads * rows for b, rows in zip(batches, query_rows, strict=True)]
        self._bases = [sum(sizes[:number]) for number in range(len(sizes))]
        nothing = sum(sizes)
        self.room = (nothing, value_dim)
        """Shape of the room that the batches' results take, in float32."""
        self._weights = torch.full((nothing + 1,), -torch.inf, device=device)
        # For each token, (rows, spans): its first head's result, and how far from it the next kv head's is.
        most = max(int(batch.ordinals.max()) for batch in batches) + 1
        width = -(-most // _LANES) * _LANES
        last = int(max(batch.targets.max() for batch in batches))
        place = torch.full((last + 1,), -1, device=device)
        place[rows] = torch.arange(len(rows), device=device)
        at = torch.full((len(rows), width), nothing, device=device)
        apart = torch.zeros((len(rows), width), dtype=torch.long, device=device)
        beside = torch.zeros((len(rows), width), dtype=torch.long, device=device)
        for batch, base, each in zip(batches, self._bases, query_rows, strict=True):
            mine = place[batch.targets]
            here = mine >= 0
            cell = (mine[here], batch.ordinals[here])
            results = batch.results[here]
            piece, token = results // batch.tokens, results % batch.tokens
            at[cell] = base + piece * (kv_heads * each) + token * group
            apart[cell] = each
            beside[cell] = 1
        kv = torch.arange(kv_heads, device=device).view(-1, 1, 1, 1)
        head = torch.arange(group, device=device).view(1, 1, -1, 1)
        # (kv_heads, rows, group, spans)
        places = at[:, None, :] + kv * apart[:, None, :] + head * beside[:, None, :]
        self._places = places.flatten()
        self._width = width
        self._real = (places != nothing).flatten().nonzero().flatten()
        self._real_places = self._places[self._real]
        counts = (places != nothing).flatten(0, 2).sum(-1)
        self._offsets = counts.cumsum(0) - counts

    def put(self, room: torch.Tensor, number: int, means: torch.Tensor, weights: torch.Tensor) -> None:
        """Take what batch `number` gave.

        Args:
            room: where to, of the shape `self.room`; the same for all batches of a layer.
            number: which.
            means: (B, kv_heads, query rows, value_dim).
            weights: the log-sum-exp of the scores, (B, kv_heads, query rows).
        """
        base, count = self._bases[number], weights.numel()
        room[base : base + count].view(means.shape).copy_(means)
        self._weights[base : base + count].view(weights.shape).copy_(weights)

    def merged(self, room: torch.Tensor) -> torch.Tensor:
        """Return the attention over all spans, (kv_heads, rows, group, value_dim), in float32."""
        shares = self._weights[self._places].view(-1, self._width).softmax(-1).flatten()
        found = torch.nn.functional.embedding_bag(
            self._real_places,
            room,
            self._offsets,
            mode="sum",
            per_sample_weights=shares[self._real],
        )
        return found.view(*self._shape, -1)
