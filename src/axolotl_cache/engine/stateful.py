"""Models whose state is more than keys and values (recurrent ones, for one): computed alone, never cached."""

from __future__ import annotations

from typing import Any

import torch


class StatefulForward:
    """A causal language model that keeps its own state for each request.

    Args:
        model: a Hugging Face causal LM in eval mode.
        device: where its inputs go.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device

    @torch.inference_mode()
    def run(self, tokens: list[int], computed_tokens: int, state: dict[str, Any]) -> torch.Tensor:
        """Compute the tokens behind the first `computed_tokens`; return the last one's logits, (vocabulary,).

        Changes: `state`, which is the request's, and empty for a new one.
        """
        # A model that hands back no state is given everything each time.
        ids = tokens[computed_tokens:] if state else tokens
        out = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=True, **state)
        for name in ("past_key_values", "cache_params"):
            if getattr(out, name, None) is not None:
                state[name] = getattr(out, name)
        logits: torch.Tensor = out.logits[0, -1]
        return logits
