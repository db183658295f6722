"""A request's way through the tiers. The one place that knows their order.

    request -> session, entities, records -> response cache (exact) -> semantic cache
            -> engine with the prefix cache -> answer

Every answer says which tier served it, what was reused, and why the others could not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.config import TtlRules
from axolotl_cache.engine.adapters import Adapter, Adapters
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.generation import Generation
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.engine.sampling import check_sampling
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import CapacityError, NotCached, RequestCancelled, RequestError, StreamDiverged
from axolotl_cache.namespace import Namespace
from axolotl_cache.pipeline.account import Account
from axolotl_cache.pipeline.erase import erase_everywhere
from axolotl_cache.pipeline.exact import DROPPED, OFF, ExactTier, Question
from axolotl_cache.pipeline.invalidate import invalidate_entity
from axolotl_cache.pipeline.layout_report import LayoutReport
from axolotl_cache.pipeline.one_machine import on_one_machine
from axolotl_cache.pipeline.prefix_miss import PREFIX_OFF, prefix_miss
from axolotl_cache.pipeline.session import Joined, SessionStep, with_account
from axolotl_cache.pipeline.stored import to_value
from axolotl_cache.pipeline.writing import Writing
from axolotl_cache.request import Answer, Delta, Miss, Request, Served, Usage
from axolotl_cache.response import Entry, KeyExplanation, SmartInferenceCache
from axolotl_cache.response.prices import NO_PRICES, PriceTable
from axolotl_cache.response.storable import ABORTED, FAILED
from axolotl_cache.streams.shared import SharedStreams
from axolotl_cache.streams.stop import Stop

if TYPE_CHECKING:
    from axolotl_cache.pipeline.semantic import Found, Hit, SemanticMatching


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to compute, and what the tiers before the engine said of it."""

    request: Request
    text: str
    """Its prompt, rendered."""
    namespace: Namespace
    adapter: Adapter | None
    joined: Joined | None
    """What is known of its session and entities; None without any."""
    started: float
    """When its work began, on the clock of `time.perf_counter`."""
    question: Question | None = None
    """As the exact tier sees it; None if the response cache is off."""
    response_miss: Miss | None = None
    alike: Found | None = None
    """As the semantic tier sees it; None if that is off."""


class Pipeline:
    """Answers requests through the response cache and the engine's prefix cache, from any thread.

    Args:
        engine: computes what no cache knows.
        renderer: the model's template and tokenizer.
        namespace: of the model as it is loaded.
        response: the response cache; None leaves it out.
        adapters: what requests may name as their adapter; None knows no other than the model's own.
        ttl_rules: for how long answers of which kind may be served; None is the response cache's timeout.
        leave_out: sampling settings that are no part of a stored answer's key, as `["seed"]`: requests that
            differ there alone share an answer.
        semantic: finds stored answers to questions in other words; None leaves it out. It must be over
            `response`.
        prices: what answers cost, for the account of what was saved.
        model_name: of the model as it was loaded, in `prices`; adapters go by their own names.
        clock: wall clock, for the age of stored answers.
        session: joins requests that have a session or entities with what is known of them; None leaves it
            out.

    Attributes:
        response_enabled: kill switch of the response cache, at run time.
        semantic: the tier for questions in other words; its `enabled` is its kill switch, at run time.
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
        ttl_rules: TtlRules | None = None,
        leave_out: Iterable[str] = (),
        semantic: SemanticMatching | None = None,
        prices: PriceTable = NO_PRICES,
        model_name: str = "",
        clock: Clock = wall_clock,
        session: SessionStep | None = None,
    ) -> None:
        self.engine = engine
        self.session = session
        self.renderer = renderer
        self.adapters = adapters
        self.namespace = namespace.for_layout(engine.exactness.mode)
        self.response = response
        self.response_enabled = response is not None
        self.semantic = semantic
        self.prefix_enabled = True
        self.most_prompt_tokens: int | None = None
        """Longest prompt that is computed; None is no bound but the model's context."""
        self._leave_out = tuple(leave_out)
        self._layout = LayoutReport()
        self._exact = None if response is None else ExactTier(response, ttl_rules, self._leave_out)
        self._account = Account(prices, model_name, clock)
        self.totals = self._account.totals
        self._under_way: SharedStreams[Delta | Answer] = SharedStreams()

    def answer(self, request: Request) -> Answer:
        """Return the whole answer at once."""
        begun = self.begin(request)
        if isinstance(begun, Answer):
            return begun
        (answer,) = [part for part in begun if isinstance(part, Answer)]
        return answer

    def stream(self, request: Request) -> Generator[Delta | Answer, None, None]:
        """Yield the answer's text as it comes, and at the end the `Answer` with the whole account.

        An answer that nobody reads to its end is not stored. Requests that equal one under way share its
        computation, and have what came of it at once and the rest as it comes; whichever reader is ahead
        has it computed, so that nobody waits for a slow one. If it fails, the one that began it gets the
        error, and one of the others begins anew.

        Raises:
            RequestError: the request can't be served as asked.
            StreamDiverged: an equal request's computation failed half way, and began otherwise a second time.
            NotCached: it wants a stored answer or none, and there is none to serve.
        """
        yield from _parts(self.begin(request))

    def begin(
        self, request: Request, stop: Stop | None = None
    ) -> Answer | Generator[Delta | Answer, None, None]:
        """Return the answer that is stored, or what finds or computes one, once it is iterated.

        For callers that must not wait: this does not, unless a disk does. Otherwise as `stream`.

        Args:
            request: as it came.
            stop: set, from any thread, to end at once what is computed for this request alone; whoever
                iterates then gets RequestCancelled.
        """
        stop = stop or Stop()
        if self.session is None or not (request.session or request.entities):
            return self._begin(request, None, stop)
        return self._in_session(self.session, request, stop)

    def _in_session(
        self, session: SessionStep, request: Request, stop: Stop
    ) -> Generator[Delta | Answer, None, None]:
        """Yield the answer to a request that what is known is joined to, which may take its time."""
        started = time.perf_counter()
        joined = session.join(request, self.engine)
        try:
            with closing(_parts(self._begin(joined.request, joined, stop, started))) as parts:
                for part in parts:
                    if isinstance(part, Answer) and not part.session:
                        yield with_account(part, joined, None)
                    else:
                        yield part
        finally:
            session.ended(joined, self.engine)

    def _begin(
        self, request: Request, joined: Joined | None, stop: Stop, started: float | None = None
    ) -> Answer | Generator[Delta | Answer, None, None]:
        """Return as `begin`; the request has what is known joined to it.

        Args:
            request: with what was joined to it.
            joined: what that was.
            stop: ends it.
            started: when its work began, if that was before; else what is computed begins when it is first
                iterated: waiting for that is no time of the cache's.
        """
        asked_at = time.perf_counter() if started is None else started
        text = self.renderer.text(request)
        # Held to the end: a reload in the midst of an answer changes neither its weights nor its namespace.
        adapter = self._adapter(request)
        namespace = self._namespace(adapter).for_tenant(request.tenant)
        exact = self._exact if self.response_enabled else None
        work = Work(request, text, namespace, adapter, joined, asked_at)
        if exact is None:
            if request.cache_control.only_if_cached:
                raise NotCached(OFF)
            return self._worked(None, work, stop, started)
        question = exact.question(request, text, namespace, joined.records if joined else ())
        found = exact.look_up(question)
        if isinstance(found, Entry):
            return self._account.counted(self._account.stored(found, question.key, asked_at))
        may_be_alike = self.semantic is not None and self.semantic.enabled
        if request.cache_control.only_if_cached and not may_be_alike:
            raise NotCached(f"nothing stored can answer this request: {found.reason}")
        return self._worked(exact, replace(work, question=question, response_miss=found), stop, started)

    def _worked(
        self, exact: ExactTier | None, work: Work, stop: Stop, started: float | None
    ) -> Generator[Delta | Answer, None, None]:
        """Yield the answer to a request that has none stored for it."""
        if started is None:
            work = replace(work, started=time.perf_counter())
        if exact is None or work.question is None:
            yield from self._counting_all(self._compute(work, stop))
        elif self.semantic is not None and self.semantic.enabled:
            yield from self._alike_or_computed(self.semantic, exact, work.question, work, stop)
        else:
            yield from self._computed(exact, work.question, work, stop)

    def _computed(
        self, exact: ExactTier, question: Question, work: Work, stop: Stop
    ) -> Generator[Delta | Answer, None, None]:
        """Return what computes an answer, shared with those who ask for it now if it may be."""

        def compute(stop: Stop) -> Generator[Delta | Answer, None, None]:
            return self._counting_all(self._compute(work, stop))

        def find() -> Generator[Delta | Answer, None, None] | None:
            found = exact.look_up(question) if exact.holds(question) else None
            if not isinstance(found, Entry):
                return None
            return self._handed_out(self._account.stored(found, question.key, work.started))

        def alone(stop: Stop) -> Generator[Delta | Answer, None, None]:
            shared = None if self.response is None else self.response.shared
            if shared is None or question.not_stored is not None:
                return compute(stop)
            return on_one_machine(shared, question.key, find, compute, stop)

        if question.may_be_shared:
            return self._shared(exact, question, alone, work.started, stop)
        return compute(stop)

    def _alike_or_computed(
        self, semantic: SemanticMatching, exact: ExactTier, question: Question, work: Work, stop: Stop
    ) -> Generator[Delta | Answer, None, None]:
        """Yield the answer to the same question in other words, or a computed one."""
        records, topic = (work.joined.records, work.joined.topic) if work.joined else ((), None)
        alike = semantic.find(work.request, question, work.namespace, self._leave_out, records, topic)
        if alike.hit is not None:
            yield from self._handed_out(self._alike(alike.hit, question, work))
            if alike.hit.found.check and question.not_stored is None:
                fresh = replace(work, joined=None, alike=replace(alike, hit=None, lookup=None))
                self._check_later(fresh, alike.hit)
            return
        if work.request.cache_control.only_if_cached:
            reason = alike.miss.reason if alike.miss else "nothing is alike"
            raise NotCached(f"nothing stored can answer this request: {reason}")
        yield from self._computed(exact, question, replace(work, alike=alike), stop)

    def _handed_out(self, stored: Answer, told: str = "") -> Generator[Delta | Answer, None, None]:
        """Yield a stored answer to a reader that was told its beginning already."""
        if not stored.text.startswith(told):
            raise StreamDiverged(
                "an answer failed half way, and another is stored now; send the request again"
            )
        yield Delta(stored.text[len(told) :], () if told else stored.logprobs, stored.served)
        yield self._account.counted(stored)

    def _shared(
        self,
        exact: ExactTier,
        question: Question,
        compute: Callable[[Stop], Generator[Delta | Answer, None, None]],
        started: float,
        stop: Stop,
    ) -> Generator[Delta | Answer, None, None]:
        """Yield an answer that is computed once for all who ask for it now."""
        told, first_at = "", started

        def begin(nobody: Stop) -> Generator[Delta | Answer, None, None] | None:
            # Looked up again where a computation begins: another may have ended meanwhile.
            return None if exact.holds(question) else exact.alone(question, compute, nobody)

        while True:
            parts = self._under_way.read(question.key, begin, stop)
            with closing(parts):
                for part, is_mine in parts:
                    if isinstance(part, Answer):
                        if is_mine:
                            yield part
                        else:
                            mine = self._account.of_another(part, question.request, started, first_at)
                            yield self._account.counted(mine)
                        return
                    first_at = first_at if told else time.perf_counter()
                    told += part.text
                    yield part if is_mine else replace(part, served=Served.HIT_EXACT)
            found = exact.look_up(question)
            if isinstance(found, Entry):
                yield from self._handed_out(self._account.stored(found, question.key, started), told)
                return
            if told:
                raise StreamDiverged(
                    "an answer failed half way, and is not stored either; send the request again"
                )

    def _compute(self, work: Work, stop: Stop) -> Generator[Delta | Answer, None, None]:
        """Yield an answer that the engine computes, and store it if it may be; count no answer."""
        request, question, started = work.request, work.question, work.started
        ended = FAILED
        try:
            tokens = self.renderer.tokens(work.text, is_plain=request.prompt is not None)
            self._check_prompt(tokens)
            self._layout.note(request, len(tokens))
            generation = self._generate(request, tokens, work.namespace, work.adapter, work.joined)
            stop.tell(generation.close)
            writing = Writing(self.renderer, generation, request.sampling)
            yield from writing.deltas()
            ended = ""
        except (GeneratorExit, RequestCancelled):
            ended = ABORTED
            raise
        finally:
            if ended and question is not None:
                self._account.not_stored(question.not_stored or ended)
        now = time.perf_counter()
        answer = Answer(
            text=writing.text,
            finish_reason=writing.finish_reason,
            served=writing.served,
            usage=Usage(generation.prompt_tokens, generation.cached_tokens, writing.completion_tokens),
            ttft_seconds=(writing.first_at or now) - started,
            total_seconds=now - started,
            response_miss=work.response_miss,
            semantic_miss=None if work.alike is None else work.alike.miss,
            prefix_miss=prefix_miss(self.renderer, generation) if self.prefix_enabled else Miss(PREFIX_OFF),
            saved=self._account.saved_by_prefix(generation.cached_tokens, self.engine.stats, request),
            key="" if question is None else question.key,
            ttl=None if question is None else question.ttl,
            logprobs=writing.logprobs,
        )
        if work.joined is not None:
            answer = with_account(answer, work.joined, tokens)
        yield replace(answer, not_stored=self._keep(work, answer))

    def _keep(self, work: Work, answer: Answer) -> str | None:
        """Store a computed answer, and tell the semantic tier of it; return why it is not stored."""
        if work.question is None or self._exact is None:
            return OFF
        if self._is_dropped(work):
            return DROPPED
        name = self._account.name(work.request)
        if self.semantic is None or work.alike is None:
            not_stored = self._exact.keep(work.question, answer, name)
            return self._unless_dropped(work, not_stored)
        asked, tags = self.semantic.to_store(work.alike)
        not_stored = self._exact.keep(work.question, answer, name, asked, tags)
        not_stored = self._unless_dropped(work, not_stored)
        self.semantic.computed(work.alike, work.question.key, answer.text, is_stored=not_stored is None)
        return not_stored

    def _is_dropped(self, work: Work) -> bool:
        joined = work.joined
        return joined is not None and self.session is not None and self.session.is_dropped(joined)

    def _unless_dropped(self, work: Work, not_stored: str | None) -> str | None:
        """Take an answer out again whose entity was dropped while it was being stored."""
        if not_stored is not None or not self._is_dropped(work) or work.question is None:
            return not_stored
        if self.response is not None:
            self.response.pop(work.question.key, None)
        return DROPPED

    def _alike(self, hit: Hit, question: Question, work: Work) -> Answer:
        """Return a stored answer to another question, as the answer to this one."""
        stored = self._account.stored(hit.entry, question.key, work.started)
        tokens = len(self.renderer.tokens(work.text, is_plain=False))
        usage = Usage(tokens, tokens, stored.usage.completion_tokens)
        took = time.perf_counter() - work.started
        return replace(
            stored,
            served=hit.served,
            usage=usage,
            match=hit.match,
            response_miss=work.response_miss,
            ttft_seconds=took,
            total_seconds=took,
        )

    def _check_later(self, work: Work, hit: Hit) -> None:
        """Have a hit's answer computed in the background, compared, and stored under its own question."""

        def check() -> None:
            (fresh,) = [
                part
                for part in self._compute(replace(work, started=time.perf_counter()), Stop())
                if isinstance(part, Answer)
            ]
            if self.semantic is not None and work.alike is not None:
                self.semantic.compare(hit.found, work.alike.asked, fresh.text)

        if self.semantic is not None:
            self.semantic.background.submit(check)

    def _counting_all(
        self, parts: Generator[Delta | Answer, None, None]
    ) -> Generator[Delta | Answer, None, None]:
        with closing(parts):
            for part in parts:
                yield self._account.counted(part) if isinstance(part, Answer) else part

    def _generate(
        self,
        request: Request,
        tokens: Sequence[int],
        namespace: Namespace,
        adapter: Adapter | None,
        joined: Joined | None,
    ) -> Generation:
        options: dict[str, Any] = {} if adapter is None else {"adapter": adapter}
        if joined is not None:
            options |= {"fences": joined.fences(tokens), "lease": joined.lease(tokens)}
        tenants = self.engine.prefix_tenants if request.tenant else None
        if tenants is not None:
            tenants.name(namespace.digest, request.tenant)
        special = [self.renderer.special_token(stop) for stop in request.sampling.stop]
        return self.engine.generate(
            tokens,
            request.sampling,
            namespace=namespace.digest,
            reuse=self.prefix_enabled,
            # Special tokens are not part of the text, where a stop string would be looked for.
            end_tokens=frozenset(token for token in special if token is not None),
            **options,
        )

    def explain_key(self, request: Request) -> KeyExplanation:
        """Return what is in the key of a request's answer; two explanations say where two requests differ.

        Raises:
            RequestError: the request can't be served as asked, or there is no response cache.
        """
        if self._exact is None:
            raise RequestError("there is no response cache, and so no key")
        return self._exact.explain(request, self.renderer.text(request), self.namespace_of(request))

    def report_wrong(self, answer: Answer) -> bool:
        """Remove a stored answer that is wrong; this same answer is never stored for its request again.

        One that was served for a question in other words is not removed, as it may be right for its own: it
        is never served for this one again, and for others only after it was right three times.

        Returns:
            Whether it was stored.

        Raises:
            RequestError: the answer has no entry: the response cache was off.
            StoreError: the disk refused.
        """
        if self._exact is None or not answer.key:
            raise RequestError("this answer is of no entry in the response cache: that was off")
        if answer.match is not None and self.semantic is not None:
            return self.semantic.report_wrong(answer.match, answer.key, to_value(answer))
        return self._exact.report_wrong(answer)

    def end_session(self, id: str, *, tenant: str | None = None, principal: str | None = None) -> int:
        """End a session: its record is removed, and what its conversation holds of keys and values is freed.

        Stored answers stay; `invalidate` removes them. What of the KV others use, too, stays under the
        ordinary policy; what a turn under way uses is freed when that ends.

        Args:
            id: of the session.
            tenant: whose; None is anybody's.
            principal: whose; None is anybody's.

        Returns:
            The bytes of KV freed now.

        Raises:
            StoreError: its record on disk could not be removed.
        """
        return (
            0
            if self.session is None
            else self.session.end(id, self.engine, tenant=tenant, principal=principal)
        )

    def layout_advice(self) -> list[str]:
        """Return a sentence for each early part of the last prompts that changes, and costs what follows."""
        return list(self._layout.lines())

    def invalidate_entity(self, name: str) -> int:
        """Drop the record of an entity, the KV of prompts with it, and every stored answer that used it.

        Args:
            name: kind and value, as `order 67890`, or as people write it.

        Returns:
            The stored answers removed.

        Raises:
            StoreError: not everything could be removed; all else is.
        """
        return invalidate_entity(self, name)

    def erase(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        session: str | None = None,
        keys_and_values: bool = False,
    ) -> ErasureReport:
        """Erase everything of a tenant, a user or a session, in every tier and file.

        Answers are erased by their owner, of all namespaces. Keys and values know their namespace, and so
        a tenant's are erased under the model and the adapters that are loaded; they know no user and no
        session. What of them is not erased for that is named in `left`. What runs meanwhile is not
        reached: stop the owner's requests first.

        Args:
            tenant: whose.
            user: or whose: the principal of requests.
            session: or whose.
            keys_and_values: erase all keys and values, everybody's, but for pinned prefixes in memory. They
                are computed again when they are wanted.

        Raises:
            TypeError: none of the three, or several.
            ErasureError: something could not be removed. All else is, and the error says what is left.
        """
        return erase_everywhere(
            self, keys_and_values=keys_and_values, tenant=tenant, user=user, session=session
        )

    def namespace_of(self, request: Request) -> Namespace:
        """Return the namespace that a request is answered in.

        Raises:
            RequestError: there is no such adapter.
        """
        return self._namespace(self._adapter(request)).for_tenant(request.tenant)

    def tokens(self, request: Request) -> list[int]:
        """Return the token ids of a request's prompt.

        Raises:
            RequestError: it can't be rendered.
        """
        return self.renderer.tokens(self.renderer.text(request), is_plain=request.prompt is not None)

    def check(self, request: Request) -> None:
        """Raise RequestError if the request can't be served as asked; compute nothing."""
        text = self.renderer.text(request)
        tokens = self.renderer.tokens(text, is_plain=request.prompt is not None)
        self.engine.check_length(len(tokens), request.sampling.max_new_tokens)
        check_sampling(request.sampling)
        namespace = self._namespace(self._adapter(request))
        if self._exact is not None:
            self._exact.question(request, text, namespace)  # as far as it can be told without its records

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
        if self.semantic is not None:
            self.semantic.close()
        self.engine.close()
        if self.session is not None:
            self.session.close()
        if self.response is not None:
            self.response.close()

    def _adapter(self, request: Request) -> Adapter | None:
        """Return the adapter that a request names; None for the model as it was loaded."""
        if not request.adapter:
            return None
        if self.adapters is None:
            raise RequestError(f"there is no adapter {request.adapter!r}: this model is served without any")
        return self.adapters.get(request.adapter)

    def _check_prompt(self, tokens: Sequence[int]) -> None:
        most = self.most_prompt_tokens
        if most is not None and len(tokens) > most:
            raise RequestError(f"the prompt has {len(tokens):,} tokens, and at most {most:,} are taken here")

    def _namespace(self, adapter: Adapter | None) -> Namespace:
        if adapter is None or self.adapters is None:
            return self.namespace
        return self.adapters.namespace_for(adapter, self.namespace)


def _parts(begun: Answer | Generator[Delta | Answer, None, None]) -> Generator[Delta | Answer, None, None]:
    """Yield what was begun, a stored answer as a stream like any."""
    if isinstance(begun, Answer):
        yield Delta(begun.text, begun.logprobs, begun.served)
        yield begun
    else:
        yield from begun
