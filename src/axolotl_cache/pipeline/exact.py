"""The first tier: a request's key, whether a stored answer may be served, and whether one is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from axolotl_cache.config import TtlRules
from axolotl_cache.errors import RequestError
from axolotl_cache.namespace import Namespace
from axolotl_cache.pipeline.stored import to_cost, to_value
from axolotl_cache.request import Answer, Delta, Miss, Request, Sampling, TtlDecision
from axolotl_cache.response import CanonicalRequest, Entry, KeyExplanation, SmartInferenceCache, owner_tags
from axolotl_cache.response.owners import checked_tags
from axolotl_cache.response.storable import Outcome, why_not_stored
from axolotl_cache.response.ttl_rules import Facts, TtlPolicy
from axolotl_cache.streams.stop import Stop

SAMPLED: Final = (
    "sampled without a seed: asking again may rightly give another answer "
    "(set temperature to 0, give a seed, or ask for sampled answers to be cached)"
)
NO_STORE: Final = "the request asked not to store it (no-store)"
NO_CACHE: Final = "the request asked for a new answer (no-cache)"
TOO_OLD: Final = "the stored answer is older than the request accepts (max-age)"
WRONG: Final = "this same answer was reported as wrong"
DROPPED: Final = "what is known of an entity in it was dropped while it was computed"
OFF: Final = "the response cache is off"

_MAY_BE_LEFT_OUT: Final = frozenset(field.name for field in fields(Sampling))


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the response cache sees it."""

    request: Request
    key: str
    ttl: TtlDecision
    tags: tuple[str, ...]
    not_served: str | None
    """Why no stored answer may be served."""
    not_stored: str | None
    """Why the answer will not be stored, as far as the request alone says."""

    @property
    def may_be_shared(self) -> bool:
        """Whether the answer to an equal request will do, once it is there."""
        return self.not_served is None and self.not_stored is None


class ExactTier:
    """Stored answers to the very same request.

    Args:
        cache: where they are.
        rules: the `ttl_rules` in force.
        leave_out: sampling settings that are no part of the key.

    Raises:
        ValueError: `leave_out` has something that is no sampling setting.
    """

    def __init__(self, cache: SmartInferenceCache, rules: TtlRules | None, leave_out: Iterable[str]) -> None:
        self._cache = cache
        self._ttl = TtlPolicy(rules, cache.timeout)
        self._leave_out = tuple(leave_out)
        wrong = sorted(set(self._leave_out) - _MAY_BE_LEFT_OUT)
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} can't be left out of the key: sampling settings may be, "
                f"{', '.join(sorted(_MAY_BE_LEFT_OUT))}"
            )

    def question(
        self, request: Request, text: str, namespace: Namespace, records: Sequence[str] = ()
    ) -> Question:
        """Return what there is to look up, and to store.

        Args:
            request: as it came.
            text: its prompt, rendered.
            namespace: of the model that would answer it, and of its tenant.
            records: digests of the entities' records in the prompt.

        Raises:
            RequestError: tags, or names of owners, that can't be stored.
        """
        control = request.cache_control
        ttl = self._ttl.decide(_facts(request), control.ttl_seconds)
        never = f"{ttl.kind or 'by a rule'}, never stored ({ttl.why})" if ttl.ttl_seconds == 0 else None
        sampled = None if request.sampling.is_repeatable or control.sampled else SAMPLED
        by_rule = never if control.ttl_seconds is None else None
        return Question(
            request=request,
            key=self._cache.generate_key(self._canonical(request, text, namespace, records)),
            ttl=ttl,
            tags=_tags(request, namespace),
            not_served=sampled or (NO_CACHE if control.no_cache else by_rule),
            not_stored=sampled or (NO_STORE if control.no_store else never),
        )

    def explain(
        self, request: Request, text: str, namespace: Namespace, records: Sequence[str] = ()
    ) -> KeyExplanation:
        """Return what the request's key is made of; the arguments are those of `question`."""
        return self._cache.explain_key(self._canonical(request, text, namespace, records))

    def look_up(self, question: Question) -> Entry | Miss:
        """Return the stored answer, or why there is none to serve."""
        if question.not_served is not None:
            return Miss(question.not_served)
        max_age = question.request.cache_control.max_age_seconds
        entry = self._cache.lookup(question.key, max_age_seconds=max_age)
        return entry or Miss(self._cache.why_missing(question.key) or TOO_OLD)

    def holds(self, question: Question) -> bool:
        """Return whether `look_up` would find an answer. Changes no count."""
        age, max_age = self._cache.age(question.key), question.request.cache_control.max_age_seconds
        return age is not None and (max_age is None or age <= max_age)

    def alone(
        self,
        question: Question,
        compute: Callable[[Stop], Generator[Delta | Answer, None, None]],
        stop: Stop,
    ) -> Generator[Delta | Answer, None, None]:
        """Yield what `compute` does; nothing, if another process is at it, once its answer is stored.

        A process that takes more than 30 seconds to hand out its answer is waited for no longer.
        """
        with self._cache.alone(question.key, lambda: not stop.is_set):
            if not self.holds(question):
                yield from compute(stop)

    def keep(
        self,
        question: Question,
        answer: Answer,
        model: str,
        asked: Callable[[], Mapping[str, Any]] | None = None,
        tags: tuple[str, ...] = (),
    ) -> str | None:
        """Store an answer of `model` if it may be stored, and return why it was not.

        Args:
            question: what there was to store.
            answer: as it was computed.
            model: by its name, for the account of what was saved.
            asked: makes what is stored of the question; not called if nothing is stored.
            tags: beside the question's own.
        """
        control = question.request.cache_control
        reason = question.not_stored or why_not_stored(
            Outcome(answer.text, answer.finish_reason), truncated=control.truncated, refusals=control.refusals
        )
        if reason is not None:
            return reason
        ttl = math.inf if question.ttl.ttl_seconds is None else question.ttl.ttl_seconds
        is_stored = self._cache.set(
            question.key,
            to_value(answer, asked() if asked else None),
            ttl=ttl,
            tags=(*question.tags, *tags),
            kind=question.ttl.kind,
            cost=to_cost(answer, model),
        )
        if is_stored:
            return None
        why = self._cache.why_missing(question.key) or ""
        return why if why.startswith("not kept") else WRONG

    def report_wrong(self, answer: Answer) -> bool:
        """Remove a wrong answer, and never store it again."""
        return self._cache.report_wrong(answer.key, to_value(answer))

    def _canonical(
        self, request: Request, text: str, namespace: Namespace, records: Sequence[str]
    ) -> CanonicalRequest:
        asked: dict[str, Any] = {
            "namespace": namespace.digest,
            "plain": request.prompt is not None,
            "prompt": text,
            **request.sampling.canonical(),
        }
        if request.cache_control.namespace:
            asked["request_namespace"] = request.cache_control.namespace
        if request.principal:
            asked["principal"] = request.principal
        if records:
            asked["records"] = list(records)
        return CanonicalRequest(asked, leave_out=self._leave_out)


def _facts(request: Request) -> Facts:
    said = (message.content for message in reversed(request.messages) if message.role == "user")
    return Facts(
        text=next(said, "") if request.prompt is None else request.prompt,
        tags=request.tags,
        route=request.route,
        tools=tuple(str(tool.get("function", tool).get("name", "")) for tool in request.tools),
        is_personal=bool(request.session or request.principal or request.entities),
    )


def _tags(request: Request, namespace: Namespace) -> tuple[str, ...]:
    try:
        owners = owner_tags(
            tenant=request.tenant,
            user=request.principal,
            session=request.session,
            entities=request.entities,
            models=[name for name in (namespace.weights, namespace.adapter, request.adapter) if name],
            version=namespace.cache_version,
        )
        checked_tags(request.tags)
    except (TypeError, ValueError) as error:
        raise RequestError(str(error)) from error
    return (*owners, *request.tags)
