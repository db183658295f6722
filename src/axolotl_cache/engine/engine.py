"""The engine: token ids in, token ids out, many requests at once, over the prefix cache.

Every step is one pass of the model over the next tokens of all running requests. Whoever waits for a token
runs the step, for everybody; there is no thread of the engine's own.

Here is what callers do, and whose turn it is to run a step. Which requests take part in it is scheduler.py's
to say, and runner.py computes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, Final

import torch

from axolotl_cache.adjustments import Adjustments
from axolotl_cache.budget import MemoryBudget, Tenant
from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.adapters import Adapter, Adapters
from axolotl_cache.engine.as_generate import own_fence, probe_as_generate, with_filler
from axolotl_cache.engine.cache import KVCache
from axolotl_cache.engine.drafts import Drafts
from axolotl_cache.engine.exactness import Exactness, probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.generation import Generation, Running
from axolotl_cache.engine.lower import LowerTier
from axolotl_cache.engine.memory import PressureGovernor
from axolotl_cache.engine.pool import KVLayout, KVPool, read_layout
from axolotl_cache.engine.runner import PagedRunner, Runner, StatefulRunner
from axolotl_cache.engine.sampling import Chooser, Sampler
from axolotl_cache.engine.scheduler import Scheduler
from axolotl_cache.engine.stateful import StatefulForward
from axolotl_cache.engine.stats import EngineStats
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import RequestError
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS
from axolotl_cache.prefix import Fences, Lease, PolicyName, PrefixStats, Run, TreeParts, TreeTenants
from axolotl_cache.request import Sampling

_DEFAULT_NEW_TOKENS: Final = 512

_LOOK_STEPS = 256
"""Steps between two looks at the budget: seconds on a GPU, half a minute on a CPU."""


class Engine:
    """Generates with a Hugging Face causal LM, many requests at once, reusing the KV of known prefixes.

    Where `exactness.mode` is "invariant", an answer is the same bits whatever is cached and whatever else
    is computed with it; what the other modes promise is in docs/design/engine.md.

    Args:
        model: the model, in eval mode.
        device: where its inputs go.
        context_length_tokens: positions it knows.
        end_tokens: ids that end an answer.
        max_cache_bytes: bound on the KV held for reuse; 0 turns the prefix cache off.
        ttl_seconds: unpinned KV that nobody used for this long is forgotten.
        cache_policy: who goes first from the prefix cache: `lru`, `lfu` or `adaptive`.
        max_batch: requests that run at once.
        max_running_bytes: bound on the KV of running requests that is not shared; a request waits until it
            fits, and one always runs. None is no bound but `max_batch`.
        step_tokens: tokens that one step computes at the most.
        strict: also where a token's company can change its bits ("grid"), compute answers as if alone.
        as_generate: give the bits of transformers' `generate`, where reuse can (engine/as_generate.py).
        draft_tokens: tokens that are guessed ahead at the most, per request and step (engine/drafts.py); 0
            guesses none. Answers are the same; where they would not be ("grid" and the others), none are.
        adapters: the adapters that requests may ask for.
        lower: makes the slower tiers of the cache, fastest first, for a layout and block size.
        governor: lowers `max_cache_bytes` while the machine is short of memory.
        memo: folder where the exactness probe's result is remembered.
        clock: wall clock, for TTLs.
        report: gets one line before something takes its time.

    Raises:
        ValueError: `max_batch` or `step_tokens` is less than 1, or `draft_tokens` less than 0.
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
        cache_policy: PolicyName = "lru",
        max_batch: int = 32,
        max_running_bytes: int | None = None,
        step_tokens: int = 512,
        strict: bool = False,
        as_generate: bool = False,
        draft_tokens: int = 7,
        adapters: Adapters | None = None,
        lower: Callable[[KVLayout, int], Sequence[LowerTier]] = lambda layout, block_size: (),
        governor: PressureGovernor | None = None,
        memo: Path | None = None,
        clock: Clock = wall_clock,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("step_tokens", step_tokens)):
            if value < 1:
                raise ValueError(f"{name} is {value}; nothing would ever be computed: use 1 or more")
        if draft_tokens < 0:
            raise ValueError(f"draft_tokens is {draft_tokens}; use 0 for none, or more")
        self.context_length_tokens = context_length_tokens
        self.end_tokens = end_tokens
        self.stats = EngineStats()
        self.device = device
        self.draft_tokens = draft_tokens
        """May be changed at any time; requests that were sent before keep to what was."""
        self._adapters = adapters
        self._vocabulary = _count_embeddings(model)
        self._changed = threading.Condition()
        self._stepping = False
        self._in_background = False
        self.exactness = Exactness("none", "the model keeps more than keys and values of each token")
        self._cache: KVCache | None = None
        self._budget: MemoryBudget | None = None
        self._adjustments = governor.adjustments if governor is not None else Adjustments()
        self._forward: Forward | None = None
        self._runner: Runner
        kv = read_layout(model, device)
        if kv is not None:
            measured = Forward(model, KVPool(kv, BLOCK_SIZE_TOKENS), context_length_tokens)
            found = probe_as_generate(measured, memo, report) if as_generate else None
            self.exactness = found or probe(measured, memo, report, adapters=adapters is not None)
        has_state = kv is None
        if self.exactness.mode == "none":
            kv = None
        # Another pool than the probe's, as the mode decides the block size, and that one is larger than need
        # be. For a model whose state does not fit into pages it has no layers, and so no bytes.
        self._pool = KVPool(kv or KVLayout((), torch.float32, device), self.block_size)
        if kv is None:
            # Where the probe saw that keys and values are not all, what the model hands back is not, either.
            forward = StatefulForward(model, device)
            self._runner = StatefulRunner(forward, self.stats, adapters, keeps_state=has_state)
        else:
            if max_cache_bytes:
                self._cache = KVCache(
                    self._pool,
                    max_bytes=max_cache_bytes,
                    ttl_seconds=ttl_seconds,
                    clock=clock,
                    policy=cache_policy,
                    lower=lower(kv, self.block_size),
                    numerics=self.exactness.numerics,
                    governor=governor,
                )
            self._forward = Forward(model, self._pool, context_length_tokens)
            self._runner = PagedRunner(
                self._forward,
                self._cache,
                self.exactness,
                self.stats,
                adapters=adapters,
                step_tokens=step_tokens,
                strict=strict,
            )
        self._scheduler = Scheduler(
            self._changed,
            self._pool,
            self._cache,
            self.stats,
            max_batch=max_batch,
            max_running_bytes=max_running_bytes,
            probed_seconds_per_token=self.exactness.prefill_seconds_per_token,
        )

    @property
    def can_reuse(self) -> bool:
        """False for models whose state is more than keys and values: they run, uncached."""
        return self._forward is not None

    @property
    def block_size(self) -> int:
        """Tokens in a block: prefixes are reused in multiples of it."""
        return self.exactness.layout.block_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes; 0 if the model can't reuse prefixes."""
        return self._pool.page_bytes // self.block_size

    @property
    def prefix_stats(self) -> PrefixStats:
        """Counters of the prefix cache, live."""
        return self._cache.stats if self._cache else PrefixStats()

    @property
    def prefix_max_bytes(self) -> int:
        """Bound on what is held for reuse, as it is now: it shrinks while the machine is short of memory."""
        return self._cache.tree.max_bytes if self._cache else 0

    @property
    def prefix_tenants(self) -> TreeTenants | None:
        """What each tenant holds of the prefix cache, and may hold; None without one."""
        return self._cache.tree.tenants if self._cache else None

    def prefix_runs(self, limit: int) -> list[Run]:
        """Return the largest and the hottest runs of the prefix tree, about now; as `PrefixTree.runs`."""
        return self._cache.tree.runs(limit) if self._cache else []

    def known_tokens(self, tokens: Sequence[int], *, namespace: str) -> int:
        """Return how many leading tokens are in memory about now; from any thread. Changes nothing."""
        return self._cache.known_tokens(tokens, namespace) if self._cache else 0

    @property
    def device_memory_bytes(self) -> tuple[int, int] | None:
        """Bytes in use of the GPU, by everybody, and in all; None on a CPU."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free, total

    @property
    def lower_tiers(self) -> Sequence[LowerTier]:
        """The tiers below memory, fastest first."""
        return self._cache.lower if self._cache else ()

    @property
    def running_max_bytes(self) -> int | None:
        """Bound on the keys and values of running requests that are not shared; None is none."""
        return self._scheduler.max_running_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values that are held now, for reuse and by running requests."""
        return self._pool.used_bytes

    @property
    def running_requests(self) -> int:
        """Requests that are being computed."""
        return len(self._scheduler.running)

    @property
    def waiting_requests(self) -> int:
        """Requests that are sent and not begun."""
        return len(self._scheduler.waiting)

    @property
    def cache_tenant(self) -> Tenant | None:
        """The prefix cache, to share memory with others; None if it is off."""
        return self._cache

    @property
    def cache_parts(self) -> TreeParts | None:
        """The prefix cache as two tenants, by what is leased and what is not; None if it is off."""
        return self._cache.parts if self._cache else None

    @property
    def adjustments(self) -> Adjustments:
        """What the caches did to their bounds, and why."""
        return self._adjustments

    def share_memory(self, budget: MemoryBudget) -> None:
        """Look at a budget now and then, which this engine's cache is part of, and heed it."""
        with self._changed:
            self._budget = budget

    # What callers do

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        *,
        namespace: str,
        reuse: bool = True,
        end_tokens: frozenset[int] = frozenset(),
        adapter: Adapter | None = None,
        fences: Fences = (),
        lease: Lease | None = None,
    ) -> Generation:
        """Queue a request; it is computed while anyone iterates a generation of this engine.

        A generation that is left without `close()` goes on, and holds its pages, until it ends or is closed.

        Args:
            tokens: prompt ids, at least one.
            sampling: how to choose tokens.
            namespace: digest of the namespace whose KV may be used and added to; another for each adapter.
            reuse: False computes as if nothing were cached, and keeps nothing.
            end_tokens: further ids that end this answer.
            adapter: computes with this adapter; None with the model as it was given.
            fences: what of the prompt is only for requests that have the same fences.
            lease: what is kept of this request is held under it, until `end` is called for it.

        Raises:
            RequestError: the prompt is empty or too long, or the sampling settings mean nothing; the model
                does not know a token; or this engine knows no adapters.
        """
        return self._send(
            tokens,
            sampling,
            sampling.max_new_tokens,
            namespace=namespace,
            reuse=reuse and self._cache is not None,
            end_tokens=self.end_tokens | end_tokens,
            adapter=adapter,
            fences=fences,
            lease=lease,
        )

    def generate_with(
        self,
        tokens: Sequence[int],
        chooser: Chooser,
        new_tokens: int,
        *,
        namespace: str,
        reuse: bool = True,
        end_tokens: frozenset[int] = frozenset(),
    ) -> Generation:
        """Queue a request whose tokens another than our sampler chooses; otherwise as `generate`.

        Args:
            tokens: prompt ids, at least one.
            chooser: asked once for each token, in order; not used for another request.
            new_tokens: how many may be generated, at least 1.
            namespace: as for `generate`.
            reuse: as for `generate`.
            end_tokens: ids that end this answer, beside the engine's own.

        Raises:
            RequestError: the prompt is empty or too long, or the model does not know a token.
        """
        return self._send(
            tokens,
            chooser,
            new_tokens,
            namespace=namespace,
            reuse=reuse and self._cache is not None,
            end_tokens=self.end_tokens | end_tokens,
            adapter=None,
        )

    def pin(self, tokens: Sequence[int], *, namespace: str, adapter: Adapter | None = None) -> int:
        """Compute the whole blocks of `tokens` now and keep them for good; return the tokens pinned.

        Raises:
            CapacityError: they do not fit below the bound; nothing is pinned then.
            RequestError: as `generate`.
        """
        whole = list(tokens[: len(tokens) // self.block_size * self.block_size])
        if not whole or self._cache is None:
            return 0
        sent = whole
        if self.exactness.layout.whole:
            sent = with_filler(whole)
            if len(sent) > self.context_length_tokens:
                return 0
        list(
            self._send(
                sent, Sampling(), 0, namespace=namespace, reuse=True, adapter=adapter, kept_tokens=len(whole)
            )
        )
        return len(whole)

    def step(self) -> bool:
        """Go one token forward with everything that runs; return whether anything was left to do."""
        with self._turn():
            busy = self._scheduler.is_busy
            if busy:
                self._step()
            return busy

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Let one thread run the steps inside this block, so that those who iterate only wait.

        For many threads with a request each: torch keeps threads of its own for every thread that computes.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._work_until, args=(stop,), name="engine", daemon=True)
        with self._turn():
            self._in_background = True
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                stop.set()
                self._changed.notify_all()
            thread.join()
            with self._turn():
                self._in_background = False

    def _work_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._changed:
                while not (self._scheduler.is_busy or stop.is_set()):
                    self._changed.wait()
            with self._turn():
                try:
                    if self._scheduler.is_busy:
                        self._step()
                except Exception as error:  # else those who wait for this thread would do so for ever
                    self._end_all(error)

    def _end_all(self, error: Exception) -> None:
        with self._changed:
            for running in [*self._scheduler.waiting, *self._scheduler.running]:
                if not running.has_ended:
                    running.generation.error = error
            self._changed.notify_all()

    def cancel_all(self) -> None:
        """Cancel everything that runs or waits; frees at once, or when the step that runs now is over."""
        with self._changed:
            requests = [*self._scheduler.waiting, *self._scheduler.running]
        for running in requests:
            running.generation.close()

    def clear(self, *, namespace: str | None = None) -> int:
        """Forget all KV (of one namespace) that is not in use, pinned included; return the blocks forgotten.

        Raises:
            StoreError: a lower tier could not forget it.
        """
        with self._turn():
            return self._cache.clear(namespace) if self._cache else 0

    def end(self, lease: Lease) -> int:
        """End a lease, and forget what was held under it alone; return the bytes freed.

        What others use, too, stays, under the ordinary policy. While a request goes on with the lease,
        nothing is freed: it is when that has ended.
        """
        with self._turn():
            return self._cache.tree.end(lease) if self._cache else 0

    def clear_fenced(self, name: str) -> int:
        """Forget all KV behind fences of this name that is not in use; return the blocks forgotten.

        Raises:
            StoreError: a lower tier could not forget it.
        """
        with self._turn():
            return self._cache.clear_fenced(name) if self._cache else 0

    def erase_fenced(self, name: str) -> ErasureReport:
        """Erase all KV behind fences of this name; what running requests hold or compute is not reached.

        Raises:
            ErasureError: a lower tier could not; all else is gone, and the error says what is left.
        """
        with self._turn():
            return self._cache.erase_fenced(name) if self._cache else ErasureReport()

    @property
    def has_lower_tiers(self) -> bool:
        """Whether blocks are kept outside of this process's memory, too."""
        return self._cache is not None and self._cache.has_lower_tiers

    def erase(self, *, namespace: str | None = None) -> ErasureReport:
        """Erase all KV of one namespace; or of all, but for pinned prefixes in memory.

        Pages in memory are let go, not overwritten. What running requests hold or compute is not reached.

        Raises:
            ErasureError: a lower tier could not; all else is gone, and the error says what is left.
        """
        with self._turn():
            return self._cache.erase(namespace) if self._cache else ErasureReport()

    def clear_memory(self, *, namespace: str | None = None) -> int:
        """As `clear`, but lower tiers keep what they have."""
        with self._turn():
            return self._cache.tree.clear(namespace=namespace) if self._cache else 0

    def close(self) -> None:
        """Cancel what runs, and write out what waits to be written to lower tiers."""
        self.cancel_all()
        with self._turn():
            self._scheduler.sweep()
            if self._cache:
                self._cache.shut()

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

    # Who runs the next step

    def _send(
        self,
        tokens: Sequence[int],
        choice: Sampling | Chooser,
        new_tokens: int | None,
        *,
        namespace: str,
        reuse: bool,
        adapter: Adapter | None,
        end_tokens: frozenset[int] = frozenset(),
        fences: Fences = (),
        lease: Lease | None = None,
        kept_tokens: int | None = None,
    ) -> Generation:
        if not tokens:
            raise RequestError("the prompt is empty; send at least one token")
        tokens = self._checked(tokens)
        if self.exactness.layout.whole:
            own = own_fence(len(tokens))
            fences = tuple(sorted([*fences, *own], key=lambda fence: fence.position_tokens))
        running = Running(
            Generation(len(tokens), _advance=self._advance, _cancel=self._cancel),
            tokens=tokens,
            new_tokens=self.check_length(len(tokens), new_tokens),
            end_tokens=end_tokens,
            sampler=Sampler(choice, tokens, self.device) if isinstance(choice, Sampling) else choice,
            drafts=self._new_drafts(),
            namespace=namespace,
            reuse=reuse,
            adapter=self._resolved(adapter),
            fences=fences,
            lease=lease,
            kept_tokens=kept_tokens,
        )
        with self._changed:
            self._scheduler.waiting.append(running)
            self._changed.notify_all()
        return running.generation

    def _new_drafts(self) -> Drafts | None:
        if self.draft_tokens == 0 or self.exactness.mode != "invariant":
            return None
        return Drafts(self.draft_tokens)

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        """Return the ids as plain ints. On a GPU, one that is not known would end every request."""
        try:
            ids = [index(token) for token in tokens]
        except TypeError:
            ids = []
        if not ids or min(ids) < 0 or max(ids) >= self._vocabulary:
            place, token = next((n, t) for n, t in enumerate(tokens) if not self._knows(t))
            raise RequestError(
                f"the prompt's token at index {place} is {token!r}; ids are integers from 0 to "
                f"{self._vocabulary - 1}, as the model's vocabulary has {self._vocabulary} tokens"
            )
        return ids

    def _knows(self, token: Any) -> bool:
        try:
            return 0 <= index(token) < self._vocabulary
        except TypeError:
            return False

    def _resolved(self, adapter: Adapter | None) -> Adapter | None:
        """Return what is used for an adapter; None stands for the model as it was given."""
        if self._adapters is not None:
            return adapter if adapter is not None else self._adapters.get("")
        if adapter is not None:
            raise RequestError("this engine knows no adapters: make it with `adapters`, or ask for none")
        return None

    def _advance(self, generation: Generation, seen: int) -> None:
        """Return when `generation` has more than `seen` tokens, or has ended, or a step was run for it."""
        with self._changed:
            while self._stepping or self._in_background:
                if len(generation.tokens) > seen or generation.finish_reason or generation.error:
                    return
                self._changed.wait()
            self._stepping = True
        try:
            self._step()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._changed:
            self._stepping = False
            self._changed.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._changed:
            while self._stepping:
                self._changed.wait()
            self._stepping = True
        try:
            yield
        finally:
            self._pass_on()

    def _cancel(self, generation: Generation) -> None:
        with self._changed:
            if generation.finish_reason:
                return
            generation.finish_reason = "cancelled"
            if not self._stepping:  # else whoever runs the step frees it at its end
                self._scheduler.sweep()
            self._changed.notify_all()

    # One step

    def _step(self) -> None:
        self.stats.steps += 1
        self._scheduler.sweep()
        if self._cache:
            self._cache.heed_pressure()
            if self._budget and self.stats.steps % _LOOK_STEPS == 0:
                if self.stats.prefill_tokens:
                    token_seconds = self.stats.prefill_seconds / self.stats.prefill_tokens
                    for ghosts in (self._cache.ghosts, self._cache.leased_ghosts):
                        ghosts.seconds_each = token_seconds * self.block_size
                self._budget.look()
        self._scheduler.admit()
        ready = self._scheduler.ready()
        self._runner.compute(ready)
        if not ready:
            self._scheduler.wait_for_loads()
        self._scheduler.sweep()


def _count_embeddings(model: Any) -> int:
    """Return the number of tokens that a model knows; where it can't be told, what the cache can name."""
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embeddings = None
    embeddings = getattr(embeddings, "base_layer", embeddings)  # below an adapter's own
    count = getattr(embeddings, "num_embeddings", None)
    return count if isinstance(count, int) else 2**32
