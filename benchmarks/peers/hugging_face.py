"""transformers, as it comes: `generate` one request at a time, and `generate_batch`'s continuous batching."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.utils import WorkloadHints
from transformers.utils import logging

from peers import Served, Stopwatch
from workloads import TokenRequest

NO_END_TOKEN = -1
PAD_TOKEN = 0
_MANY_PAGES = 512
"""For a workload that is not known beforehand."""


def load_plain(path: Any, dtype: str) -> Any:
    """Load the model as its users do; our engine never touches this copy."""
    logging.set_verbosity_error()  # it warns of an end token that no model has, which is what we want
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval()


def greedy(new_tokens: int) -> GenerationConfig:
    """Return settings for exactly `new_tokens` greedy tokens."""
    return GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=NO_END_TOKEN, pad_token_id=PAD_TOKEN
    )


def pages_needed(requests: Sequence[TokenRequest], page_tokens: int) -> int:
    """Return the pages that hold these prompts and their answers, whole pages that are alike once."""
    shared: set[tuple[int, ...]] = set()
    own = 0
    for request in requests:
        whole = len(request.tokens) // page_tokens
        shared |= {tuple(request.tokens[: n * page_tokens]) for n in range(1, whole + 1)}
        own += -(-(len(request.tokens) + request.new_tokens) // page_tokens) - whole
    return len(shared) + own


class _FirstToken:
    """A streamer that notes when the first new token came."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._puts = 0
        self.seconds = 0.0

    def put(self, value: Any) -> None:
        """Take the prompt, then each new token."""
        self._puts += 1
        if self._puts == 2:
            self.seconds = self._watch.seconds()

    def end(self) -> None:
        """Nothing is left to do."""


class GenerateOneByOne:
    """`model.generate`, one request after another in the order of arrival; nothing is kept between them."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.name = "transformers generate"
        self.settings = f"{str(model.dtype).removeprefix('torch.')}, one by one"
        self.reuses = False

    def forget(self, coming: Sequence[TokenRequest] = ()) -> None:
        """Nothing is kept."""

    def serve(self, requests: Sequence[TokenRequest]) -> list[Served]:
        """Serve one after another."""
        watch = Stopwatch()
        return [self._one(request, watch) for request in requests]

    def close(self) -> None:
        """Nothing is held."""

    def _one(self, request: TokenRequest, watch: Stopwatch) -> Served:
        watch.wait_until(request.at_seconds)
        ids = torch.tensor([request.tokens])
        first = _FirstToken(watch)
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=greedy(request.new_tokens),
                streamer=first,
            )
        answer = out[0, ids.shape[1] :].tolist()
        return Served(answer, first.seconds, watch.seconds(), len(request.tokens))


class GenerateBatch:
    """The manager behind `model.generate_batch(persistent_manager=True)`, prefix sharing on.

    It is set up, and its prefixes are forgotten, outside the time that is taken. Its pages hold what the
    coming workload needs and a quarter more: with many more it is slower.

    Args:
        model: a plain model.
        page_tokens: tokens in a page; whole pages are shared.
        batch_tokens: most tokens in a step.
    """

    def __init__(
        self,
        model: Any,
        *,
        page_tokens: int = 128,
        batch_tokens: int = 512,
    ) -> None:
        self._model = model
        self._page_tokens, self._batch_tokens = page_tokens, batch_tokens
        self._manager: Any = None
        dtype = str(model.dtype).removeprefix("torch.")
        self.name = "transformers generate_batch"
        self.settings = f"{dtype}, pages of {page_tokens}, {batch_tokens} tokens a step"
        self.reuses = True

    def forget(self, coming: Sequence[TokenRequest] = ()) -> None:
        """Make a new manager: the old one's pages go with it."""
        self.close()
        config = ContinuousBatchingConfig(
            page_size=self._page_tokens,
            num_blocks=pages_needed(coming, self._page_tokens) * 5 // 4 if coming else _MANY_PAGES,
            max_batch_tokens=self._batch_tokens,
            allow_block_sharing=True,
        )
        with torch.no_grad():
            self._manager = self._model.init_continuous_batching(
                generation_config=greedy(32),
                continuous_batching_config=config,
                workload_hints=WorkloadHints(
                    max_prompt_length=2048, max_generated_length=64, num_requests=32
                ),
            )
            self._manager.warmup()

    def serve(self, requests: Sequence[TokenRequest]) -> list[Served]:
        """Send the requests as they arrive; the manager's thread serves them."""
        if self._manager is None:
            self.forget()
        watch = Stopwatch()
        offset = time.perf_counter() - watch.seconds()
        self._manager.start()
        try:
            done: dict[str, tuple[Any, float]] = {}
            waiting = list(enumerate(requests))
            while len(done) < len(requests):
                while waiting and waiting[0][1].at_seconds <= watch.seconds():
                    number, request = waiting.pop(0)
                    self._manager.add_request(
                        request.tokens,
                        request_id=str(number),
                        max_new_tokens=request.new_tokens,
                        record_timestamps=True,
                        eos_token_id=NO_END_TOKEN,
                    )
                result = self._manager.get_result(timeout=0.01)
                if result is not None and result.is_finished():
                    if result.error:
                        raise RuntimeError(f"generate_batch: {result.error}")
                    done[result.request_id] = result, watch.seconds()
                elif not self._manager.is_running():
                    raise RuntimeError("generate_batch: its thread has ended")
        finally:
            # Restores the model's attention and keeps the pages.
            self._manager.stop(block=True, keep_for_next_session=True)
        return [
            Served(result.generated_tokens, result.timestamps[0] - offset, seconds)
            for result, seconds in (done[str(number)] for number in range(len(requests)))
        ]

    def close(self) -> None:
        """End the manager."""
        if self._manager is not None:
            self._model.destroy_cached_continuous_batching_manager()
            self._manager = None
