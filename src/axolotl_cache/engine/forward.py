"""The only place that calls the model: prompt tokens and next tokens, over a slot."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from axolotl_cache.engine.attention import tiled_attention
from axolotl_cache.engine.kv import Slot, SlotCache
from axolotl_cache.engine.plan import Layout, prefill_calls

_PADDING_TOKEN = 0  # any id will do: nothing real attends to it, and decoding writes over it


class Forward:
    """A causal language model over one slot, one sequence at a time.

    Args:
        model: a Hugging Face causal LM in eval mode.
        device: where its inputs go.
        context_length_tokens: positions it knows.
    """

    def __init__(self, model: Any, device: torch.device, context_length_tokens: int) -> None:
        self.model = model
        self.device = device
        self.context_length_tokens = context_length_tokens
        wanted = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
        self._keeps_logits = "logits_to_keep" in wanted

    def prefill(self, slot: Slot, tokens: Sequence[int], layout: Layout) -> torch.Tensor:
        """Compute what `slot` lacks of `tokens`; return the last token's logits, (vocabulary,).

        Changes: the slot then holds all of `tokens`.
        """
        logits = torch.empty(0)
        for call in prefill_calls(slot.length_tokens, len(tokens), layout):
            ids = [*tokens[call.start : call.stop], *[_PADDING_TOKEN] * (call.padded_stop - call.stop)]
            with self._tiles(slot, call.padded_stop) if layout.tiled else nullcontext():
                logits = self._call(slot, ids, last_row=call.stop - call.start - 1)
            slot.length_tokens = call.stop
        return logits

    @contextmanager
    def _tiles(self, slot: Slot, stop: int) -> Iterator[None]:
        slot.clear_tail(stop)
        slot.in_tiles = True
        try:
            with tiled_attention(self.model.config):
                yield
        finally:
            slot.in_tiles = False

    def decode(self, slot: Slot, token: int) -> torch.Tensor:
        """Compute one token behind what `slot` holds; return its logits, (vocabulary,)."""
        logits = self._call(slot, [token], last_row=0)
        slot.length_tokens += 1
        return logits

    @torch.inference_mode()
    def _call(self, slot: Slot, ids: Sequence[int], last_row: int) -> torch.Tensor:
        start = slot.length_tokens
        positions = torch.arange(start, start + len(ids), device=self.device)
        # Padding may reach behind the last position that the model knows; its place does not matter.
        positions.clamp_(max=self.context_length_tokens - 1)
        row = torch.tensor([last_row], device=self.device)
        out = self.model(
            input_ids=torch.tensor([list(ids)], dtype=torch.long, device=self.device),
            position_ids=positions.unsqueeze(0),
            past_key_values=SlotCache(slot),
            use_cache=True,
            # One row at every call, so that the output layer sees the same shape in hit and miss.
            **({"logits_to_keep": row} if self._keeps_logits else {}),
        )
        logits: torch.Tensor = out.logits[0, 0 if self._keeps_logits else last_row]
        return logits
