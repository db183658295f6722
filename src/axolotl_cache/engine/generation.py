"""One request inside the engine: what its reader sees, and what the engine keeps about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from axolotl_cache.engine.cache import BlockTable
from axolotl_cache.engine.drafts import Drafts
from axolotl_cache.engine.lower import Fetch
from axolotl_cache.engine.plan import Work
from axolotl_cache.engine.sampling import Choice, Chooser
from axolotl_cache.errors import RequestCancelled
from axolotl_cache.prefix import Difference, Fences, Lease


@dataclass(eq=False, slots=True)
class Generation:
    """One generation, queued, running or finished. Iterate it for the tokens; read the rest when it ended.

    Any thread may iterate it, one at a time; iterating runs the engine for all requests that are under way.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    """For each token how likely it was, as far as the request asked for that."""
    finish_reason: str = ""
    """`stop` or `length`; `cancelled` if it was closed; empty while running."""
    ttft_seconds: float = 0.0
    """From being sent to the first token, waiting included."""
    difference: Difference | None = None
    """Where the prompt left what is cached."""
    error: BaseException | None = None
    """What ended it, raised to whoever iterates."""
    _advance: Callable[[Generation, int], None] = lambda generation, seen: None
    _cancel: Callable[[Generation], None] = lambda generation: None

    def __iter__(self) -> Iterator[int]:
        seen = 0
        while True:
            has_ended = (
                bool(self.finish_reason) or self.error is not None
            )  # asked first: no token comes after
            while seen < len(self.tokens):
                seen += 1
                yield self.tokens[seen - 1]
            if has_ended:
                if self.error is not None:
                    raise self.error
                if self.finish_reason == "cancelled":
                    raise RequestCancelled("the request was cancelled before its end; send it again")
                return
            self._advance(self, seen)

    def close(self) -> None:
        """Stop here and free what it holds. Safe to call at any time, more than once."""
        if not self.finish_reason and self.error is None:
            self._cancel(self)


@dataclass(eq=False, slots=True)
class Running:
    """A request as the engine sees it."""

    generation: Generation
    tokens: list[int]
    """The prompt, and behind it what was generated."""
    new_tokens: int
    """Tokens to generate at the most; 0 only computes the prompt."""
    end_tokens: frozenset[int]
    sampler: Chooser
    namespace: str
    reuse: bool
    adapter: Any = None
    """What it is computed with; None where the engine knows no adapters."""
    fences: Fences = ()
    lease: Lease | None = None
    kept_tokens: int | None = None
    """How many leading tokens others may reuse at the most; None is no bound."""
    sent_at: float = field(default_factory=time.perf_counter)
    table: BlockTable | None = None
    """None while it waits to be let in."""
    computed_tokens: int = 0
    """Tokens whose keys and values are there."""
    drafts: Drafts | None = None
    """None where its results depend on how many tokens are computed together."""
    draft: list[int] = field(default_factory=list)
    """What this step computes behind its last token, on the chance that it is right."""
    fetch: Fetch | None = None
    fetch_until: float = 0.0
    """When computing beats waiting on for the load, on the monotonic clock."""
    state: dict[str, Any] = field(default_factory=dict)
    """The model's own state, for models that can't reuse prefixes."""

    @property
    def work(self) -> Work:
        """What it waits for."""
        prompt_tokens = self.generation.prompt_tokens
        return Work(self.computed_tokens, len(self.tokens), prompt_tokens, len(self.draft), self.adapter)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return bool(self.generation.finish_reason) or self.generation.error is not None

    @property
    def is_prefill(self) -> bool:
        """Whether some of its prompt is still to be computed."""
        return self.computed_tokens < self.generation.prompt_tokens

    def note_found(self, table: BlockTable) -> None:
        """Go on behind what was found of its prompt, in the tree or below."""
        self.computed_tokens = self.generation.cached_tokens = table.cached_tokens
        self.generation.difference = table.difference

    def make_draft(self, company: int) -> None:
        """Guess what comes behind the token sampled last, for a step with so many requests that decode."""
        left = self.new_tokens - len(self.generation.tokens) - 1  # the last one's KV is not needed
        self.draft = self.drafts.propose(self.tokens, left, company=company) if self.drafts else []

    def attempt(self, work: Callable[..., None], *arguments: object) -> None:
        """Do something for this request; if it fails, it fails for this one and not for the others."""
        try:
            work(*arguments)
        except Exception as error:  # whatever it is, it is raised to whoever reads this request
            self.generation.error = error

    def accept(self, choice: Choice) -> None:
        """Take the next token; an end token ends the answer and is not part of it."""
        out = self.generation
        if not out.ttft_seconds:
            out.ttft_seconds = time.perf_counter() - self.sent_at
        if choice.token in self.end_tokens:
            out.finish_reason = "stop"
            return
        self.tokens.append(choice.token)
        out.choices.append(choice)
        out.tokens.append(choice.token)  # from here on its reader, in another thread, sees it
        if len(out.tokens) == self.new_tokens:
            out.finish_reason = "length"
