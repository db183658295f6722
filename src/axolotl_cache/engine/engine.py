"""The engine: token ids in, token ids out, through the prefix cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.exactness import Exactness, probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.kv import KVBlock, Slot, read_layout
from axolotl_cache.engine.sampling import Sampler
from axolotl_cache.errors import RequestError
from axolotl_cache.prefix import Difference, PrefixMatch, PrefixStats, PrefixTree
from axolotl_cache.request import Sampling

_DEFAULT_NEW_TOKENS: Final = 512


@dataclass(slots=True)
class EngineStats:
    """Counters since the start."""

    prefill_tokens: int = 0
    """Prompt tokens that went through the model; padding is not counted."""
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    copied_blocks: int = 0
    """Cached blocks copied into a slot; those still there from the request before cost nothing."""


@dataclass(slots=True)
class Generation:
    """One running or finished generation. Iterate it for the tokens; read the rest when it has ended."""

    prompt_tokens: int
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    """`stop` or `length`; empty while running."""
    ttft_seconds: float = 0.0
    difference: Difference | None = None
    """Where the prompt left what is cached."""
    _steps: Iterator[int] = field(default_factory=lambda: iter(()))

    def __iter__(self) -> Iterator[int]:
        return self._steps

    def close(self) -> None:
        """Stop here and free the engine. Safe to call at any time, more than once."""
        close = getattr(self._steps, "close", None)
        if close:
            close()


@dataclass(frozen=True, slots=True)
class _Job:
    tokens: list[int]
    new_tokens: int
    end_tokens: frozenset[int]
    sampler: Sampler
    namespace: str
    reuse: bool


class Engine:
    """Generates with a Hugging Face causal LM, one request at a time, reusing the KV of known prefixes.

    With or without the prefix cache, a prompt is computed the same way (see `Exactness`), so that the
    answer is the same bit for bit.

    Args:
        model: the model, in eval mode.
        device: where its inputs go.
        context_length_tokens: positions it knows.
        end_tokens: ids that end an answer.
        max_cache_bytes: bound on the KV held for reuse; 0 turns the prefix cache off.
        ttl_seconds: unpinned KV that nobody used for this long is forgotten.
        memo: folder where the exactness probe's result is remembered.
        clock: wall clock, for TTLs.
        report: gets one line before something takes its time.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device,
        context_length_tokens: int,
        end_tokens: frozenset[int],
        max_cache_bytes: int,
        ttl_seconds: float | None = None,
        memo: Path | None = None,
        clock: Clock = wall_clock,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.context_length_tokens = context_length_tokens
        self.end_tokens = end_tokens
        self.stats = EngineStats()
        self._forward = Forward(model, device, context_length_tokens)
        self._device = device
        self._lock = threading.Lock()
        self._owner = 0
        """The thread that holds the lock; 0 for none."""
        kv = read_layout(model, device)
        self.can_reuse = kv is not None
        """False for models whose state is more than keys and values: they run, uncached."""
        self.exactness = Exactness("none", "the model keeps more than keys and values of each token")
        self._slot: Slot | None = None
        self._tree: PrefixTree[KVBlock] | None = None
        self._block_bytes = 0
        if kv is None:
            return
        self._slot = Slot(kv)
        self.exactness = probe(self._forward, kv, memo, report)
        self._block_bytes = kv.nbytes(self.exactness.layout.block_size)
        if max_cache_bytes:
            self._tree = PrefixTree(
                block_size=self.exactness.layout.block_size,
                max_bytes=max_cache_bytes,
                ttl_seconds=ttl_seconds,
                clock=clock,
            )

    @property
    def block_size(self) -> int:
        """Tokens in a block: prefixes are reused in multiples of it."""
        return self.exactness.layout.block_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes; 0 if the model can't reuse prefixes."""
        return self._block_bytes // self.block_size

    @property
    def prefix_stats(self) -> PrefixStats:
        """Counters of the prefix cache, live."""
        return self._tree.stats if self._tree else PrefixStats()

    def pin(self, tokens: Sequence[int], *, namespace: str) -> int:
        """Compute the whole blocks of `tokens` now and keep them for good; return the tokens pinned.

        Raises:
            CapacityError: they do not fit below the bound; nothing is pinned then.
        """
        whole = tokens[: len(tokens) // self.block_size * self.block_size]
        if not whole or self._tree is None or self._slot is None:
            return 0
        self.check_length(len(whole), 0)
        with self._alone():
            match = self._tree.match([*whole, 0], namespace=namespace)
            try:
                self._begin(self._slot, match.payloads, len(whole))
                if match.tokens < len(whole):
                    self._timed_prefill(self._slot, whole)
                self._keep(self._slot, whole, namespace, pinned=True)
            finally:
                self._tree.release(match)
        return len(whole)

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        *,
        namespace: str,
        reuse: bool = True,
        end_tokens: frozenset[int] = frozenset(),
    ) -> Generation:
        """Start generating; nothing is computed until the result is iterated.

        The engine serves one generation at a time: a second one waits for the first to end or be closed.

        Args:
            tokens: prompt ids, at least one.
            sampling: how to choose tokens.
            namespace: digest of the namespace whose KV may be used and added to.
            reuse: False computes as if nothing were cached, and keeps nothing.
            end_tokens: further ids that end this answer.

        Raises:
            RequestError: the prompt is empty or too long, or the sampling settings mean nothing.
        """
        if not tokens:
            raise RequestError("the prompt is empty; send at least one token")
        new_tokens = self.check_length(len(tokens), sampling.max_new_tokens)
        sampler = Sampler(sampling, tokens, self._device)
        job = _Job(list(tokens), new_tokens, self.end_tokens | end_tokens, sampler, namespace, reuse)
        generation = Generation(prompt_tokens=len(tokens))
        run = self._run if self._slot else self._run_uncacheable
        generation._steps = run(generation, job)
        return generation

    def clear(self, *, namespace: str | None = None) -> int:
        """Forget all KV (of one namespace), pinned included; return the blocks forgotten."""
        with self._alone():
            return self._tree.clear(namespace=namespace) if self._tree else 0

    # One generation

    def _run(self, generation: Generation, job: _Job) -> Iterator[int]:
        slot, tokens = self._slot, job.tokens
        if slot is None:
            raise RuntimeError("the engine has no slot")
        with self._alone():
            started = time.perf_counter()
            tree = self._tree if job.reuse else None
            match: PrefixMatch[KVBlock] | None = None
            try:
                if tree:
                    match = tree.match(tokens, namespace=job.namespace)
                    generation.cached_tokens, generation.difference = match.tokens, match.difference
                self._begin(slot, match.payloads if match else (), len(tokens) + job.new_tokens)
                token = job.sampler.next_token(self._timed_prefill(slot, tokens))
                generation.ttft_seconds = time.perf_counter() - started
                decode = partial(self._timed_decode, slot, job.sampler)
                steps = self._tokens(generation, token, job, decode)
                try:
                    # The first token goes out before anything is kept: its reader does not wait for that.
                    yield from islice(steps, 1)
                finally:
                    if tree:
                        self._keep(slot, tokens, job.namespace)
                yield from steps
            finally:
                if tree and match:
                    tree.release(match)

    def _tokens(
        self, generation: Generation, token: int, job: _Job, decode: Callable[[int], int]
    ) -> Iterator[int]:
        """Yield tokens until one ends the answer; the end token itself is not part of it."""
        while True:
            if token in job.end_tokens:
                generation.finish_reason = "stop"
                return
            generation.tokens.append(token)
            if len(generation.tokens) == job.new_tokens:
                generation.finish_reason = "length"
                yield token
                return
            yield token
            token = decode(token)

    def _run_uncacheable(self, generation: Generation, job: _Job) -> Iterator[int]:
        """Generate with the model's own state, for models that keep more than keys and values."""
        model = self._forward.model
        state: dict[str, Any] = {}
        seen: list[int] = []

        def step(new: list[int]) -> int:
            seen.extend(new)
            ids = new if state or len(seen) == len(new) else seen  # a model that hands back no state
            with torch.inference_mode():
                out = model(input_ids=torch.tensor([ids], device=self._device), use_cache=True, **state)
            for name in ("past_key_values", "cache_params"):
                if getattr(out, name, None) is not None:
                    state[name] = getattr(out, name)
            return job.sampler.next_token(out.logits[0, -1])

        with self._alone():
            started = time.perf_counter()
            token = step(job.tokens)
            generation.ttft_seconds = time.perf_counter() - started
            self.stats.prefill_tokens += len(job.tokens)
            yield from self._tokens(generation, token, job, lambda t: step([t]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._lock.locked() and self._owner == me:
            raise RequestError(
                "an answer is still streaming in this thread, and the engine serves one at a time: read it "
                "to its end or close it first"
            )
        with self._lock:
            self._owner = me
            try:
                yield
            finally:
                self._owner = 0

    def _begin(self, slot: Slot, blocks: Sequence[KVBlock], capacity_tokens: int) -> None:
        capacity = capacity_tokens + max(self.exactness.layout.row_multiple, 1)
        self.stats.copied_blocks += slot.begin(blocks, self.block_size, capacity)

    def _keep(self, slot: Slot, tokens: Sequence[int], namespace: str, *, pinned: bool = False) -> None:
        if self._tree is None:
            return
        try:
            held = self._tree.insert(
                tokens,
                lambda index: slot.block(index, self.block_size),
                self._block_bytes,
                namespace=namespace,
                pinned=pinned,
            )
        except (MemoryError, torch.OutOfMemoryError):
            if pinned:
                raise
            self._tree.stats.refused_blocks += 1  # an answer is worth more than what could be kept of it
        else:
            slot.remember(held)

    def _timed_prefill(self, slot: Slot, tokens: Sequence[int]) -> torch.Tensor:
        started, before = time.perf_counter(), slot.length_tokens
        logits = self._forward.prefill(slot, tokens, self.exactness.layout)
        self.stats.prefill_seconds += time.perf_counter() - started
        self.stats.prefill_tokens += len(tokens) - before
        return logits

    def _timed_decode(self, slot: Slot, sampler: Sampler, token: int) -> int:
        started = time.perf_counter()
        following = sampler.next_token(self._forward.decode(slot, token))
        self.stats.decode_seconds += time.perf_counter() - started
        self.stats.decode_tokens += 1
        return following

    def check_length(self, prompt_tokens: int, new_tokens: int | None) -> int:
        """Return how many tokens may be generated behind a prompt.

        Args:
            prompt_tokens: length of the prompt.
            new_tokens: how many are wanted; None is what the context leaves, up to a default.

        Raises:
            RequestError: there is no room for them.
        """
        if new_tokens is None:
            new_tokens = max(min(_DEFAULT_NEW_TOKENS, self.context_length_tokens - prompt_tokens), 1)
        if prompt_tokens + new_tokens > self.context_length_tokens:
            raise RequestError(
                f"the prompt has {prompt_tokens:,} tokens and {new_tokens:,} more may be generated, but the "
                f"model knows only {self.context_length_tokens:,} positions; shorten the prompt or lower "
                "max_new_tokens"
            )
        return new_tokens
