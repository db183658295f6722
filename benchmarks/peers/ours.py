"""Our engine as a side of the benchmark."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from axolotl_cache.request import Sampling
from peers import Served, Stopwatch
from workloads import TokenRequest

NAMESPACE = "benchmark"


class Ours:
    """Our engine, many requests at once; with `reuse` off, the same engine without its cache.

    Args:
        engine: built without end tokens, so that answers have the length that is asked for.
        dtype: of its model, for the table.
        reuse: whether prompts find and leave cached blocks.
    """

    def __init__(self, engine: Any, dtype: str, *, reuse: bool = True) -> None:
        self.engine = engine
        self._reuse = reuse
        self.name = "axolotl-cache" if reuse else "axolotl-cache, cache off"
        self.settings = f"{dtype}, exactness: {engine.exactness.mode}"
        self.reuses = reuse

    def forget(self, coming: Sequence[TokenRequest] = ()) -> None:
        """Forget all KV."""
        self.engine.clear()

    def serve(self, requests: Sequence[TokenRequest]) -> list[Served]:
        """Hand the requests in as they arrive, and take steps until all are answered."""
        watch = Stopwatch()
        waiting = deque(requests)
        generations: list[Any] = []
        first: dict[int, float] = {}
        ended: dict[int, float] = {}
        while len(ended) < len(requests):
            while waiting and waiting[0].at_seconds <= watch.seconds():
                generations.append(self.submit(waiting.popleft()))
            if not self.engine.step():
                if not waiting and len(ended) < len(generations):
                    raise RuntimeError("the engine has nothing left to do, and answers are missing")
                if waiting:
                    watch.wait_until(waiting[0].at_seconds)
                continue
            now = watch.seconds()
            for number, generation in enumerate(generations):
                if generation.error is not None:
                    raise generation.error
                if generation.tokens:
                    first.setdefault(number, now)
                if generation.finish_reason:
                    ended.setdefault(number, now)
        return [
            Served(
                list(generation.tokens),
                first[number],
                ended[number],
                generation.prompt_tokens - generation.cached_tokens,
            )
            for number, generation in enumerate(generations)
        ]

    def submit(self, request: TokenRequest) -> Any:
        """Queue a request; return its generation."""
        return self.engine.generate(
            request.tokens,
            Sampling(max_new_tokens=request.new_tokens),
            namespace=NAMESPACE,
            reuse=self._reuse,
        )

    def close(self) -> None:
        """The engine is its owner's."""
