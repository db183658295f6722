"""From logits to the next token, as transformers does it: its own processors, in its own order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from axolotl_cache.errors import RequestError
from axolotl_cache.request import Sampling


def check_sampling(sampling: Sampling) -> None:
    """Raise RequestError for settings that mean nothing, naming the setting and what it accepts."""
    limits: list[tuple[bool, str, object, str]] = [
        (
            sampling.max_new_tokens is None or sampling.max_new_tokens >= 1,
            "max_new_tokens",
            sampling.max_new_tokens,
            "at least 1",
        ),
        (sampling.temperature >= 0, "temperature", sampling.temperature, "0 (greedy) or more"),
        (0 < sampling.top_p <= 1, "top_p", sampling.top_p, "above 0, up to 1 (off)"),
        (sampling.top_k >= 0, "top_k", sampling.top_k, "0 (off) or more"),
        (0 <= sampling.min_p <= 1, "min_p", sampling.min_p, "0 (off) to 1"),
        (sampling.repetition_penalty > 0, "repetition_penalty", sampling.repetition_penalty, "above 0"),
        (0 <= (sampling.seed or 0) < 2**63, "seed", sampling.seed, "from 0 to 2**63 - 1"),
        (all(sampling.stop), "stop", list(sampling.stop), "strings that are not empty"),
    ]
    for fine, name, value, accepted in limits:
        if not fine:
            raise RequestError(f"{name} is {value}; it must be {accepted}")


class Sampler:
    """Chooses one request's tokens. The same seed gives the same tokens as `generate` in transformers.

    Args:
        sampling: the request's settings.
        prompt: its token ids; the repetition penalty counts them.
        device: where the logits will be.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], device: torch.device) -> None:
        check_sampling(sampling)
        self._greedy = sampling.is_greedy
        self._processors = LogitsProcessorList()
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
            self._seen = torch.tensor([list(prompt)], dtype=torch.long, device=device)
        self._generator: torch.Generator | None = None
        if not self._greedy:
            self._generator = torch.Generator(device=device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)
            if sampling.temperature != 1.0:
                self._processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                self._processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                self._processors.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                self._processors.append(MinPLogitsWarper(sampling.min_p))

    def next_token(self, logits: torch.Tensor) -> int:
        """Return the next token's id.

        Args:
            logits: (vocabulary,), of any floating dtype.
        """
        scores = logits.float().unsqueeze(0)
        if self._processors:
            scores = self._processors(self._seen, scores.clone())
        if self._greedy:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        if self._seen is not None:
            self._seen = torch.cat([self._seen, self._seen.new_tensor([[token]])], dim=1)
        return token
