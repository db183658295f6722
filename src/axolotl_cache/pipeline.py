"""A request's way through the tiers. The one place that knows their order.

    request -> response cache (exact) -> engine with the prefix cache -> answer

Every answer says which tier served it, what was reused, and why the others could not.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.adapters import Adapter, Adapters
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.generation import Generation
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.engine.sampling import Choice, check_sampling
from axolotl_cache.engine.text import TextStream
from axolotl_cache.errors import CapacityError, RequestError
from axolotl_cache.namespace import Namespace
from axolotl_cache.request import Answer, Delta, Miss, Request, Served, TokenLogprob, Usage
from axolotl_cache.response import Entry, SmartInferenceCache

_READER_SECONDS: Final = 2.0
"""How long in all an answer may wait for its reader while an equal request waits for it."""


@dataclass(slots=True)
class Totals:
    """What a run came to."""

    requests: int = 0
    served: Counter[Served] = field(default_factory=Counter)
    prompt_tokens: int = 0
    stored_tokens: int = 0
    """Prompt tokens of the answers that came from the response cache."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""
    completion_tokens: int = 0
    response_saved_seconds: float = 0.0
    """What the stored answers took to compute, less what serving them took."""
    prefix_saved_seconds: float = 0.0
    """Reused prompt tokens, at the prefill speed measured in this run: an estimate."""
    not_stored: Counter[str] = field(default_factory=Counter)

    def count(self, answer: Answer, prefill_seconds_per_token: float) -> None:
        """Add one answer."""
        self.requests += 1
        self.served[answer.served] += 1
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens
        if answer.served is Served.HIT_EXACT:
            self.stored_tokens += answer.usage.prompt_tokens
            self.response_saved_seconds += answer.saved_seconds
        else:
            self.cached_tokens += answer.usage.cached_tokens
            self.prefix_saved_seconds += answer.usage.cached_tokens * prefill_seconds_per_token
        if answer.not_stored:
            self.not_stored[answer.not_stored] += 1


class Pipeline:
    """Answers requests through the response cache and the engine's prefix cache, from any thread.

    Args:
        engine: computes what no cache knows.
        renderer: the model's template and tokenizer.
        namespace: of the model as it is loaded.
        response: the response cache; None leaves it out.
        adapters: what requests may name as their adapter; None knows no other than the model's own.
        clock: wall clock, for the age of stored answers.

    Attributes:
        response_enabled: kill switch of the response cache, at run time.
        prefix_enabled: kill switch of the prefix cache, at run time.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: PromptRenderer,
        namespace: Namespace,
        response: SmartInferenceCache | None = None,
        *,
        adapters: Adapters | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.adapters = adapters
        self.namespace = namespace.for_layout(engine.exactness.mode)
        self.response = response
        self.response_enabled = response is not None
        self.prefix_enabled = True
        self.totals = Totals()
        self._counting = threading.Lock()
        self._equal = _EqualRequests()
        self._clock = clock

    def answer(self, request: Request) -> Answer:
        """Return the whole answer at once."""
        (answer,) = [part for part in self.stream(request) if isinstance(part, Answer)]
        return answer

    def stream(self, request: Request) -> Generator[Delta | Answer, None, None]:
        """Yield the answer's text as it comes, and at the end the `Answer` with the whole account.

        An answer that is not read to its end is not stored. A request that equals one under way waits for its
        answer, however long that takes to compute, but not for its reader: once the other's answer has lain
        unread for 2 seconds in all, this one is computed, too.

        Raises:
            RequestError: the request can't be served as asked.
        """
        started = time.perf_counter()
        text = self.renderer.text(request)
        # Held to the end: a reload in the midst of an answer changes neither its weights nor its namespace.
        adapter = self._adapter(request)
        namespace = self._namespace(adapter).for_tenant(request.tenant)
        response = self.response if self.response_enabled else None
        response_miss: Miss | None = None
        key, shared, mine = "", False, _Computing()
        if response is not None:
            key = _key(response, request, text, namespace)
            entry, response_miss = self._look_up(response, key, request)
            shared = _why_not_stored(request) is None and not request.cache_control.no_cache
            while not entry and shared and not self._equal.begin(key, mine):
                entry, response_miss = self._look_up(response, key, request)
            if entry:
                stored = _from_entry(entry, started, self._clock())
                yield Delta(stored.text, stored.logprobs)
                yield self._counted(stored)
                return
        try:
            yield from mine.handed_out(
                self._compute(request, text, namespace, adapter, response, key, response_miss, started)
            )
        finally:
            self._equal.end(key, mine)

    def _compute(
        self,
        request: Request,
        text: str,
        namespace: Namespace,
        adapter: Adapter | None,
        response: SmartInferenceCache | None,
        key: str,
        response_miss: Miss | None,
        started: float,
    ) -> Generator[Delta | Answer, None, None]:
        """Yield an answer that the engine computes, and store it if it may be."""
        special = [self.renderer.special_token(stop) for stop in request.sampling.stop]
        generation = self.engine.generate(
            self.renderer.tokens(text, is_plain=request.prompt is not None),
            request.sampling,
            namespace=namespace.digest,
            reuse=self.prefix_enabled,
            # Special tokens are not part of the text, where a stop string would be looked for.
            end_tokens=frozenset(token for token in special if token is not None),
            **({} if adapter is None else {"adapter": adapter}),
        )
        logprobs = _Logprobs(self.renderer, generation, request.sampling.logprobs is not None)
        pieces: list[str] = []
        out = TextStream(self.renderer.decode, request.sampling.stop)
        first_at = 0.0
        completion_tokens = 0  # that were read: the engine does not know stop strings, and may be ahead
        try:
            for token in generation:
                piece = out.push(token)
                completion_tokens += 1
                first_at = first_at or time.perf_counter()
                logprobs.push()
                if piece:
                    pieces.append(piece)
                    yield Delta(piece, logprobs.take())
                if out.stopped:
                    break
        finally:
            generation.close()
        rest, last = out.finish(), logprobs.take()
        if rest or last:
            pieces.append(rest)
            yield Delta(rest, last)
        now = time.perf_counter()
        answer = Answer(
            text="".join(pieces),
            finish_reason="stop" if out.stopped else generation.finish_reason,
            served=Served.HIT_PREFIX if generation.cached_tokens else Served.MISS,
            usage=Usage(generation.prompt_tokens, generation.cached_tokens, completion_tokens),
            ttft_seconds=(first_at or now) - started,
            total_seconds=now - started,
            response_miss=response_miss,
            prefix_miss=self._prefix_miss(generation),
            not_stored=_why_not_stored(request) if response is not None else "the response cache is off",
            logprobs=tuple(logprobs.all),
        )
        if response is not None and answer.not_stored is None:
            response.set(key, _to_value(answer), ttl=request.cache_control.ttl_seconds, tags=request.tags)
        yield self._counted(answer)

    def check(self, request: Request) -> None:
        """Raise RequestError if the request can't be served as asked; compute nothing."""
        tokens = self.renderer.tokens(self.renderer.text(request), is_plain=request.prompt is not None)
        self.engine.check_length(len(tokens), request.sampling.max_new_tokens)
        check_sampling(request.sampling)
        self._adapter(request)

    def precompute(
        self,
        system_prompts: Sequence[str],
        prefix_length: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[int, ...]:
        """Compute and pin the leading tokens of each system prompt; return how many of each.

        For the model as it was loaded and no tenant: adapters and tenants have namespaces of their own.

        Args:
            system_prompts: texts; empty for the message that the template puts in by itself.
            prefix_length: tokens to pin of each, at the most; rounded down to whole blocks.
            progress: called with (prompts done, prompts in all).

        Raises:
            CapacityError: together they do not fit below the bound; nothing stays pinned, nor in memory.
        """
        wanted: list[str | None] = [*dict.fromkeys(system_prompts)] or [None]
        pinned: list[int] = []
        for done, system in enumerate(wanted):
            progress(done, len(wanted))
            tokens = self.renderer.shared_prefix(system) if self.renderer.takes_messages else []
            try:
                pinned.append(self.engine.pin(tokens[:prefix_length], namespace=self.namespace.digest))
            except CapacityError:
                self.engine.clear_memory(namespace=self.namespace.digest)
                raise
        progress(len(wanted), len(wanted))
        return tuple(pinned)

    def close(self) -> None:
        """Write out what is pending and let go of files."""
        self.engine.close()
        if self.response is not None:
            self.response.close()

    def _adapter(self, request: Request) -> Adapter | None:
        """Return the adapter that a request names; None for the model as it was loaded."""
        if not request.adapter:
            return None
        if self.adapters is None:
            raise RequestError(f"there is no adapter {request.adapter!r}: this model is served without any")
        return self.adapters.get(request.adapter)

    def _namespace(self, adapter: Adapter | None) -> Namespace:
        if adapter is None or self.adapters is None:
            return self.namespace
        return self.adapters.namespace_for(adapter, self.namespace)

    def _look_up(
        self, response: SmartInferenceCache, key: str, request: Request
    ) -> tuple[Entry | None, Miss | None]:
        if not _is_repeatable(request):
            return None, Miss(_SAMPLED)
        if request.cache_control.no_cache:
            return None, Miss("the request asked for a new answer (no-cache)")
        entry = response.lookup(key, max_age_seconds=request.cache_control.max_age_seconds)
        if entry:
            return entry, None
        missing = response.why_missing(key)
        return None, Miss(missing or "the stored answer is older than the request accepts (max-age)")

    def _prefix_miss(self, generation: Generation) -> Miss:
        if not self.prefix_enabled:
            return Miss("the prefix cache is off")
        at = generation.difference
        if at is None:
            ends = generation.cached_tokens
            known = (
                "what is cached of this prompt ends here"
                if ends
                else "nothing cached starts like this prompt"
            )
            return Miss(known, first_difference_tokens=ends)
        return Miss(
            "the prompt differs from everything cached from here on",
            first_difference_tokens=at.position_tokens,
            expected_text=self.renderer.show(at.cached),
            found_text=self.renderer.show(at.found),
        )

    def _counted(self, answer: Answer) -> Answer:
        stats = self.engine.stats
        with self._counting:
            self.totals.count(answer, stats.prefill_seconds / max(stats.prefill_tokens, 1))
        return answer


class _Computing:
    """An answer on its way, and how long its reader has let it lie."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        self._unread_seconds = 0.0
        self._handed_out_at: float | None = None

    def handed_out(
        self, parts: Generator[Delta | Answer, None, None]
    ) -> Generator[Delta | Answer, None, None]:
        """Yield the parts, and note how long each is with the reader."""
        with closing(parts):
            for part in parts:
                since = self._handed_out_at = time.monotonic()
                yield part
                self._handed_out_at = None
                self._unread_seconds += time.monotonic() - since

    def wait(self) -> bool:
        """Wait until it has ended; return False once its reader has kept the caller waiting for too long."""
        until = self._unread() + _READER_SECONDS
        while (left := until - self._unread()) > 0:
            if self.done.wait(left):
                return True
        return False

    def _unread(self) -> float:
        since = self._handed_out_at
        return self._unread_seconds + (0.0 if since is None else time.monotonic() - since)


class _EqualRequests:
    """Lets equal requests of several threads be computed once: the others wait until the answer is stored.

    A slow reader holds up nobody else: of those that have waited for it too long, one computes the answer
    again, and the rest wait for that one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._computing: dict[str, _Computing] = {}

    def begin(self, key: str, mine: _Computing) -> bool:
        """Return True if the caller is to compute `key`, and must `end` it; False if it is to look again.

        Waits for another that computes it, but not if that is of this thread, which may be reading two
        streams in turns.
        """
        with self._lock:
            other = self._computing.setdefault(key, mine)
        if other.thread == mine.thread:
            return True
        if other.wait():
            return False
        with self._lock:
            if self._computing.get(key) is not other:
                return False
            self._computing[key] = mine
            return True

    def end(self, key: str, mine: _Computing) -> None:
        """Let those who wait for `mine` look again: for the answer, or to compute it themselves."""
        with self._lock:
            if self._computing.get(key) is mine:
                del self._computing[key]
        mine.done.set()


class _Logprobs:
    """The log probabilities of an answer's tokens, as they come.

    Args:
        renderer: writes tokens out.
        generation: has a choice for every token.
        wanted: False gives none, at no cost.
    """

    def __init__(self, renderer: PromptRenderer, generation: Generation, wanted: bool) -> None:
        self.all: list[TokenLogprob] = []
        self._renderer = renderer
        self._generation = generation
        self._wanted = wanted
        self._taken = 0

    def push(self) -> None:
        """Take the next token's."""
        if not self._wanted:
            return
        choice: Choice = self._generation.choices[len(self.all)]
        top = tuple(TokenLogprob(token, self._text(token), logprob) for token, logprob in choice.top)
        if choice.logprob is None:
            raise RuntimeError("the engine chose a token without the log probabilities that were asked for")
        self.all.append(TokenLogprob(choice.token, self._text(choice.token), choice.logprob, top))

    def take(self) -> tuple[TokenLogprob, ...]:
        """Return those that came since the last time."""
        new = tuple(self.all[self._taken :])
        self._taken = len(self.all)
        return new

    def _text(self, token: int) -> str:
        # Behind itself: some tokenizers drop a space at the beginning of a text.
        return self._renderer.show([token, token])[len(self._renderer.show([token])) :]


def _key(response: SmartInferenceCache, request: Request, text: str, namespace: Namespace) -> str:
    return response.generate_key(
        {
            "namespace": namespace.digest,
            "plain": request.prompt is not None,
            "prompt": text,
            "sampling": request.sampling.canonical(),
        }
    )


_SAMPLED = (
    "sampled without a seed: asking again may rightly give another answer "
    "(set temperature to 0, give a seed, or ask for sampled answers to be cached)"
)


def _is_repeatable(request: Request) -> bool:
    return request.sampling.is_repeatable or request.cache_control.sampled


def _why_not_stored(request: Request) -> str | None:
    if not _is_repeatable(request):
        return _SAMPLED
    if request.cache_control.no_store:
        return "the request asked not to store it (no-store)"
    return None


def _to_value(answer: Answer) -> dict[str, Any]:
    logprobs = {"logprobs": [_to_json(entry) for entry in answer.logprobs]} if answer.logprobs else {}
    return logprobs | {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "seconds": answer.total_seconds,
    }


def _to_json(entry: TokenLogprob) -> list[Any]:
    return [entry.token, entry.text, entry.logprob, [_to_json(other) for other in entry.top]]


def _from_json(value: list[Any]) -> TokenLogprob:
    token, text, logprob, top = value
    return TokenLogprob(token, text, logprob, tuple(_from_json(other) for other in top))


def _from_entry(entry: Entry, started: float, now_seconds: float) -> Answer:
    value = entry.value
    took = time.perf_counter() - started
    return Answer(
        text=value["text"],
        finish_reason=value["finish_reason"],
        served=Served.HIT_EXACT,
        usage=Usage(value["prompt_tokens"], value["prompt_tokens"], value["completion_tokens"]),
        ttft_seconds=took,
        total_seconds=took,
        age_seconds=max(now_seconds - entry.created_at, 0.0),
        saved_seconds=max(value["seconds"] - took, 0.0),
        logprobs=tuple(_from_json(item) for item in value.get("logprobs", ())),
    )
