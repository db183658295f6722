"""The tiers under a model's own `generate`, for programs that call it themselves.

    call -> response cache (greedy calls) -> engine with the prefix cache -> result, streamer driven

What our engine does not do goes to the model's own `generate`, untouched.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.generate_call import GenerateCall, read_call
from axolotl_cache.engine.live import LiveModel
from axolotl_cache.namespace import Namespace
from axolotl_cache.request import Served
from axolotl_cache.response import SmartInferenceCache

Report = Callable[[str], None]


@dataclass(slots=True)
class GenerateTotals:
    """What the calls so far came to."""

    served: Counter[Served] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    passed_on: Counter[str] = field(default_factory=Counter)
    """Calls that went to `generate` untouched, by reason."""


class CachedGenerate:
    """Stands in for a model's `generate`: same arguments, same results, same random numbers.

    Calls are served one at a time. At the first one, when whoever loads the model is done with it, the engine
    is made and the weights are digested; an engine is made again when the model has moved to another device
    or dtype.

    Args:
        live: the model.
        open_engine: makes an engine for the model as it is.
        response: the response cache; None leaves it out.
        pinned: returns the token ids to compute and pin, each time an engine is made.
        report: gets one line for each thing worth knowing.
        clock: wall clock, for the age of stored answers.

    Attributes:
        response_enabled: kill switch of the response cache, at run time.
        prefix_enabled: kill switch of the prefix cache, at run time.
        totals: what the calls came to.
    """

    def __init__(
        self,
        live: LiveModel,
        open_engine: Callable[[], Engine],
        *,
        response: SmartInferenceCache | None,
        pinned: Callable[[], Sequence[Sequence[int]]] = tuple,
        report: Report = lambda line: None,
        clock: Clock = wall_clock,
    ) -> None:
        self.response_enabled = response is not None
        self.prefix_enabled = True
        self.totals = GenerateTotals()
        self.generate = live.model.generate
        """The model's own."""
        self._live = live
        self._open_engine = open_engine
        self._response = response
        self._pinned = pinned
        self._report = report
        self._clock = clock
        self._engine: Engine | None = None
        self._made_for: tuple[str, ...] = ()
        # While the engine runs, the model's attention is the engine's: nobody else may call the model.
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate, as the model's own `generate` does."""
        with self._lock:
            call = read_call(self._live.model, self.generate, args, kwargs)
            if isinstance(call, str):
                return self._pass_on(call, args, kwargs)
            engine = self._ready_engine()
            reason = _why_not(engine, call)
            if reason:
                return self._pass_on(reason, args, kwargs)
            return self._serve(call, engine)

    def close(self) -> None:
        """Let go of the engine, and write out what is pending."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            if self._response is not None:
                self._response.close()

    def _serve(self, call: GenerateCall, engine: Engine) -> Any:
        namespace = self._namespace(engine)
        tokens: list[int] = call.prompt[0].tolist()
        self.totals.prompt_tokens += len(tokens)
        response = self._response if self.response_enabled and call.is_repeatable else None
        if response is None:
            return call.result(self._compute(call, tokens, engine, namespace))
        key = response.generate_key(
            {"namespace": namespace.digest, "tokens": tokens, "generate": call.settings}
        )
        entry = response.lookup(key)
        if entry:
            self._count(Served.HIT_EXACT, len(tokens), f"age {self._clock() - entry.created_at:.0f} s")
            answer: list[int] = entry.value["tokens"]
            _replay(call, answer)
        else:
            answer = self._compute(call, tokens, engine, namespace)
            response.set(key, {"tokens": answer})
        return call.result(answer)

    def _compute(
        self, call: GenerateCall, tokens: list[int], engine: Engine, namespace: Namespace
    ) -> list[int]:
        call.tell(call.prompt)
        generation = engine.generate_with(
            tokens,
            call.chooser,
            call.new_tokens,
            namespace=namespace.digest,
            reuse=self.prefix_enabled,
            end_tokens=call.end_tokens,
        )
        chosen, told = call.chooser.tokens, 0
        try:
            for _ in generation:
                _tell_each(call, chosen[told:])
                told = len(chosen)
        finally:
            generation.close()
        _tell_each(call, chosen[told:])  # the end token, which the engine keeps to itself
        _end(call)
        served = Served.HIT_PREFIX if generation.cached_tokens else Served.MISS
        self._count(served, generation.cached_tokens, f"prompt of {len(tokens):,} tokens")
        return chosen

    def _pass_on(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if reason not in self.totals.passed_on:
            self._report(f"left to transformers' own generate, not cached: {reason}")
        self.totals.passed_on[reason] += 1
        return self.generate(*args, **kwargs)

    def _ready_engine(self) -> Engine:
        """Return an engine for the model as it is; make it, and pin what is to be pinned, if need be."""
        placement = self._live.placement()
        if self._engine is not None and placement == self._made_for:
            return self._engine
        if self._engine is not None:
            self._engine.close()
        with self._live.same_random_numbers():
            engine = self._engine = self._open_engine()
            self._made_for = placement
            if engine.can_reuse:
                self._report(f"prefix reuse: {engine.exactness.mode} mode ({engine.exactness.reason})")
                self._pin(engine)
        return engine

    def _pin(self, engine: Engine) -> None:
        namespace = self._namespace(engine)
        pinned = [engine.pin(tokens, namespace=namespace.digest) for tokens in self._pinned()]
        if sum(pinned):
            self._report(f"pinned {sum(pinned):,} tokens of {sum(map(bool, pinned))} system prompt(s)")

    def _namespace(self, engine: Engine) -> Namespace:
        # Another layout than the pipeline's: here an answer is what the caller's processors chose.
        return self._live.namespace().for_layout(f"{engine.exactness.mode}-generate")

    def _count(self, served: Served, cached_tokens: int, about: str) -> None:
        self.totals.served[served] += 1
        self.totals.cached_tokens += cached_tokens
        self._report(f"{served.value}: {cached_tokens:,} prompt tokens from the cache ({about})")


def _why_not(engine: Engine, call: GenerateCall) -> str:
    if not engine.can_reuse:
        return f"this model runs without prefix cache: {engine.exactness.reason}"
    longest = call.prompt.shape[1] + call.new_tokens
    if longest > engine.context_length_tokens:
        return f"up to {longest:,} tokens, and the model knows {engine.context_length_tokens:,} positions"
    return ""


def _replay(call: GenerateCall, answer: Sequence[int]) -> None:
    """Drive the streamer as if the answer were computed now."""
    call.tell(call.prompt)
    _tell_each(call, answer)
    _end(call)


def _tell_each(call: GenerateCall, tokens: Sequence[int]) -> None:
    for token in tokens:
        call.tell(call.prompt.new_tensor([token]))


def _end(call: GenerateCall) -> None:
    if call.streamer is not None:
        call.streamer.end()
