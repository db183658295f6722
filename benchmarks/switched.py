"""The pipeline with any of its tiers switched on, alone and together, over one engine.

- prefix: the desks' system prompts, computed and pinned before the first request; nothing behind them.
- session: what a conversation's own earlier turns have left, and the records of what it is about.
- response: stored answers, and one computation for equal requests that are sent at once.

Prefix and session together are the engine's prefix tree as it is, with everything that two requests begin
with in common, records that several people may see included. A side without sessions gets the same prompts,
records and all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.generation import Generation
from axolotl_cache.prefix import Fence
from axolotl_cache.request import CacheControl, Message, Request, Sampling
from helpdesk import Asked
from session import Table

TIERS = ("prefix", "response", "session")
Side = frozenset[str]
"""The tiers that are on."""
OFF: Side = frozenset()
ON: Side = frozenset(TIERS)
MAX_CACHE_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that came as far as the engine."""

    prompt: Sequence[int]
    generation: Generation


class SwitchedEngine(Engine):
    """An engine that reuses what the tiers that are on reuse, and keeps account of what it was sent.

    Attributes:
        side: the tiers that are on.
        heads: the tokens that all conversations with each desk begin with.
        sent: what it was sent since this was emptied.
    """

    side: Side = OFF
    heads: tuple[tuple[int, ...], ...] = ()
    sent: list[Sent]

    def generate(
        self, tokens: Sequence[int], sampling: Sampling, *, namespace: str, reuse: bool = True, **options: Any
    ) -> Generation:
        """Queue a request as `Engine.generate` does."""
        fences = options.get("fences", ())
        if self.side & {"prefix", "session"} == {"session"}:
            # A namespace for each conversation: only its own is found.
            reuse = bool(fences)
            namespace = f"{namespace}/{fences[-1].name}" if fences else namespace
        elif "session" not in self.side:
            reuse = reuse and "prefix" in self.side
            # A name that nobody else has: what stands behind the system prompt is found by no other request.
            options["fences"] = (Fence(self.head_tokens(tokens), f"only-{len(self.sent)}"),)
        generation = super().generate(tokens, sampling, namespace=namespace, reuse=reuse, **options)
        self.sent.append(Sent(list(tokens), generation))
        return generation

    def head_tokens(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens of a prompt are its desk's system prompt."""
        fitting = [len(head) for head in self.heads if tuple(tokens[: len(head)]) == head]
        return max(fitting, default=0)


class Desk:
    """Answers the requests of a day with any of the tiers on.

    Args:
        loaded: the model.
        engine: over it.
        records: what is known of entities, by (kind, value).
    """

    def __init__(
        self, loaded: Any, engine: SwitchedEngine, records: Mapping[tuple[str, str], dict[str, Any]]
    ) -> None:
        from axolotl_cache.engine.prompt import PromptRenderer

        self._loaded, self.engine = loaded, engine
        self._table = Table(dict(records))
        self.renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        engine.sent = []

    def requests(self, asked: Sequence[Asked], new_tokens: int, *, with_sessions: bool) -> list[Request]:
        """Return a day as requests; without sessions, with the same records in the prompts."""
        step = self._step()
        found = []
        for each in asked:
            system = (Message("system", each.system),) if each.system else ()
            request = Request(
                messages=(*system, *(Message(role, text) for role, text in each.said)),
                # The end token is ignored, and so every answer is one that was cut off.
                sampling=Sampling(max_new_tokens=new_tokens),
                cache_control=CacheControl(truncated=True),
                session=each.session,
                principal=each.session,
            )
            if not with_sessions and each.session:
                joined = step.join(request, self.engine).request
                request = replace(joined, session="", entities=(), principal="")
            found.append(request)
        return found

    def open(self, side: Side, systems: Sequence[str]) -> Open:
        """Forget everything, switch to these tiers, and pin the system prompts if that is one of them."""
        self.engine.clear()
        self.engine.sent = []
        self.engine.side = side
        self.engine.heads = tuple(self._head(each) for each in systems)
        return Open(self._loaded, self.engine, self.renderer, side, self._step(), systems)

    def head_tokens(self, system: str) -> int:
        """Return how many tokens every conversation with this system prompt begins with."""
        return len(self._head(system))

    def _head(self, system: str) -> tuple[int, ...]:
        return tuple(self.renderer.shared_prefix(system or None))

    def _step(self) -> Any:
        from axolotl_cache.clock import wall_clock
        from axolotl_cache.pipeline.session import SessionStep
        from axolotl_cache.session import Records, Sessions

        sessions = Sessions(4200.0, wall_clock)
        return SessionStep(self.renderer, sessions, Records(self._table, wall_clock))


class Open:
    """A pipeline with some of its tiers on, and nothing in any of them but pinned prompts. Close it."""

    def __init__(
        self,
        loaded: Any,
        engine: SwitchedEngine,
        renderer: Any,
        side: Side,
        step: Any,
        systems: Sequence[str],
    ) -> None:
        from axolotl_cache import SmartInferenceCache
        from axolotl_cache.pipeline import Pipeline

        self._folder = tempfile.TemporaryDirectory()
        self._response = None
        if "response" in side:
            self._response = SmartInferenceCache(2000, 1800, str(Path(self._folder.name)))
        session = step if "session" in side else None
        self.pipeline = Pipeline(engine, renderer, loaded.namespace, self._response, session=session)
        self.pipeline.prefix_enabled = bool(side & {"prefix", "session"})
        self.pinned_tokens = 0
        before = engine.stats.prefill_seconds
        if "prefix" in side:
            self.pinned_tokens = sum(self.pipeline.precompute([each for each in systems if each], 10**6))
        self.pin_seconds = engine.stats.prefill_seconds - before

    def close(self) -> None:
        """Let go of all but the engine."""
        if self.pipeline.session is not None:
            self.pipeline.session.close()
        if self._response is not None:
            self._response.close()
        self._folder.cleanup()
