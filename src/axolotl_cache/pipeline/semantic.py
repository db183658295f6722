"""The second tier: a stored answer to a question in other words, if it may be trusted."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final, Protocol

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import ErasureError, StoreError
from axolotl_cache.namespace import Namespace
from axolotl_cache.pipeline.background import Background
from axolotl_cache.pipeline.topic import Topic
from axolotl_cache.pipeline.within_session import KEY, WithinSession, within_session
from axolotl_cache.request import Match, Miss, Request, Served
from axolotl_cache.response import Entry, SmartInferenceCache
from axolotl_cache.response.semantic.asked import MOST_CHARACTERS, Asked
from axolotl_cache.response.semantic.calibration import interval
from axolotl_cache.response.semantic.check_log import FILE_NAME, CheckLog
from axolotl_cache.response.semantic.comparer import Comparer, SameAnswer
from axolotl_cache.response.semantic.embedders import DEFAULT, EMBEDDERS, Embedder
from axolotl_cache.response.semantic.tier import NEAR, Lookup, Mode, SemanticTier, partition_of
from axolotl_cache.stores import StoreWarning

OFF: Final = "the request wants no answer to other words"
SHADOW: Final = "in shadow mode: nothing is served"
NOT_ASKED: Final = {
    "tools": "a request with tools is answered by no other one's answer",
    "prompt": "a plain prompt is not taken apart into question and context",
    "sampled": "sampled without a seed",
    "logprobs": "log probabilities belong to one prompt only",
    "last": "the last message is not the user's",
    "roles": "it has messages of other roles than system, user and assistant",
    "long": f"the conversation is longer than {MOST_CHARACTERS:,} characters",
}
"""Why a request is not looked up here at all."""
_TAG: Final = "semantic-partition:"
_SECONDS_BETWEEN_LISTS: Final = 1.0
_MOST_LISTS: Final = 50_000
"""Partitions of which is known when they were read; sessions have some of their own each."""


class Explained(Protocol):
    """What the exact tier says of a request that is asked here."""

    @property
    def key(self) -> str:
        """Of its own entry."""

    @property
    def not_served(self) -> str | None:
        """Why no stored answer may be served."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be served, and whose it is."""

    entry: Entry
    match: Match
    found: Lookup
    served: Served = Served.HIT_SEMANTIC


@dataclass
class Found:
    """What this tier made of one request."""

    asked: Asked | None
    """None if it is not looked up, and its answer not found by other words."""
    miss: Miss | None
    hit: Hit | None = None
    lookup: Lookup | None = None
    within: WithinSession | None = None
    """As its session compares it; None without one."""


class SemanticMatching:
    """Asks `SemanticTier` for a match, and the response cache for its answer.

    What is stored of a question lies in the answer's own entry, and goes with it, whatever the reason: its
    time is up, it was evicted, invalidated, erased. What is in memory here is let go of at the same moment,
    and read from the entries when a partition is first asked for, or another process has changed them.

    Args:
        tier: finds matches.
        cache: the exact tier's.
        comparer: judges whether two answers are one.
        clock: seconds since the epoch.
        background: runs comparisons, and the checks of hits.

    Attributes:
        enabled: kill switch, at run time.
    """

    def __init__(
        self,
        tier: SemanticTier,
        cache: SmartInferenceCache,
        *,
        comparer: Comparer | None = None,
        clock: Clock = wall_clock,
        background: Background | None = None,
    ) -> None:
        self.tier = tier
        self.enabled = True
        self.background = background or Background("semantic-checks")
        self._cache = cache
        self._compare = comparer or SameAnswer(tier.embedder, tier.calibration)
        self._clock = clock
        self._lists: dict[str, tuple[int, float]] = {}
        self._lock = Lock()
        cache.watch(self._gone)

    def find(
        self,
        request: Request,
        question: Explained,
        namespace: Namespace,
        leave_out: Iterable[str],
        records: Sequence[str] = (),
        topic: Topic | None = None,
    ) -> Found:
        """Look a request up, after the exact tier had no answer.

        A question of a session about entities is answered from that session or not at all: elsewhere nobody
        knows what was said since.

        Cost: one embedding of the last message, and 1 to 3 ms.

        Args:
            request: as it came.
            question: what the exact tier says of it.
            namespace: of the model that would answer it, and of its tenant.
            leave_out: sampling settings that do not matter.
            records: digests of the records that were joined to it.
            topic: what its turn is about, if it has a session.
        """
        if not self.enabled:
            return Found(None, None)
        reason = _not_asked(request)
        if reason is not None:
            return Found(None, Miss(NOT_ASKED[reason]))
        asked = self.tier.asked(_partition(request, namespace, self.tier, leave_out, records), _said(request))
        within: WithinSession | str | None = None
        if topic is not None and (topic.entities or topic.is_unsure):
            within = within_session(topic, request, namespace, self.tier, leave_out)
        kept = within if isinstance(within, WithinSession) else None
        if not request.cache_control.semantic or question.not_served is not None:
            return Found(asked, Miss(question.not_served or OFF), within=kept)
        if isinstance(within, str):
            return Found(asked, Miss(within))
        return self._judged(request, question, Found(asked, None, within=kept))

    def _judged(self, request: Request, question: Explained, wanted: Found) -> Found:
        """Return what is found, and whether it is served."""
        found = self._looked_up(wanted)
        if not found.would_serve:
            return replace(wanted, miss=Miss(found.why), lookup=found)
        entry = self._entry_to_serve(request, question, found)
        if isinstance(entry, str):
            return replace(wanted, miss=Miss(entry))
        if self.tier.mode == "shadow":
            return replace(wanted, miss=Miss(SHADOW), lookup=found)
        match = Match(found.question, str(found.candidate), found.probability)
        served = Served.HIT_SEMANTIC if wanted.within is None else Served.HIT_SESSION
        return replace(wanted, hit=Hit(entry, match, found, served), lookup=found)

    def _looked_up(self, wanted: Found) -> Lookup:
        within = wanted.within
        asked = wanted.asked if within is None else within.asked
        if asked is None:
            raise ValueError("what is not asked is not looked up")
        self._catch_up(asked.partition)
        if within is None:
            return self.tier.lookup(asked)
        return self.tier.lookup(asked, guard=lambda key: within.guard(self._cache.peek(key)))

    def to_store(self, found: Found) -> tuple[Callable[[], Mapping[str, Any]] | None, tuple[str, ...]]:
        """Return what makes the value to store beside a computed answer, and the tags to find it by."""
        asked, within = found.asked, found.within
        if asked is None:
            return None, ()
        if within is None:
            return asked.to_value, (_TAG + asked.partition,)
        return (
            lambda: {**asked.to_value(), KEY: within.to_value()},
            (_TAG + asked.partition, _TAG + within.asked.partition),
        )

    def computed(self, found: Found, key: str, text: str, *, is_stored: bool) -> None:
        """Take in that a request was answered by the model.

        Its question may be matched from now on, if the answer is stored. A candidate that was near is
        compared with what the model said, in the background.
        """
        near = found.lookup
        if near is not None and near.candidate is not None and near.candidate != key:
            is_near = near.would_serve or near.calibrated >= self.tier.threshold - NEAR
            if is_near:
                self.background.submit(lambda: self.compare(near, found.asked, text))
        if is_stored and found.asked is not None:
            self.tier.store(key, found.asked)
            if found.within is not None:
                self.tier.store(key, found.within.asked)

    def compare(self, found: Lookup, asked: Asked | None, fresh: str) -> None:
        """Compare a candidate's stored answer with a fresh one, and learn from it; nothing if it has gone."""
        entry = None if found.candidate is None else self._cache.peek(found.candidate)
        if entry is None or asked is None:
            return
        right = self._compare(asked.text, entry.value["text"], fresh)
        self._observe(found, right)

    def report_wrong(self, match: Match, key: str, value: Any) -> bool:
        """Remember that `match`'s answer is wrong for the request with `key`: it is not served for it again.

        The entry stays, being right for its own question; but other wordings get it only after it was right
        three times. Survives restarts; holds for all processes.

        Returns:
            Whether the entry was still there.
        """
        self._cache.report_wrong(key, value)
        likely = match.probability
        found = Lookup("", match.key, match.question, likely, likely, would_serve=False, check=False, why="")
        self._observe(found, right=False)
        return self._cache.peek(match.key) is not None

    def report(self) -> str:
        """Return what was looked up, served or would have been, and what comparisons found; for people."""
        stats, seen = self.tier.stats(), list(self.tier.observations)
        would = "would have been served (shadow mode)" if self.tier.mode == "shadow" else "served"
        lines = [
            f"in other words: {stats.lookups} looked up, {stats.would_serve} {would}, {stats.questions} "
            f"questions held; from a probability of {self.tier.threshold:g}"
        ]
        if stats.vetoes:
            guards = sorted(stats.vetoes.items(), key=lambda item: -item[1])
            lines.append("  forbidden by guards: " + ", ".join(f"{name} {count}" for name, count in guards))
        for name, kind in (("hits", True), ("near misses", False)):
            compared = [each.right for each in seen if each.would_serve is kind]
            if compared:
                wrong = compared.count(False)
                low, high = interval(wrong, len(compared))
                lines.append(
                    f"  {name} compared with the model: {len(compared)}, wrong {wrong} "
                    f"({wrong / len(compared):.1%}, 95 % interval {low:.1%} to {high:.1%})"
                )
        if stats.alarms:
            lines.append(f"  {stats.alarms} partition(s) serve no more: checks found too many wrong hits")
        return "\n".join(lines)

    def erased(self) -> ErasureReport:
        """Forget which entries were compared; for after an erasure. The texts went with their entries.

        Raises:
            ErasureError: the file that knows of them can't be written anew.
        """
        try:
            self.tier.forget_items()
        except StoreError as error:
            raise ErasureError(ErasureReport(left=(str(error),))) from error
        return ErasureReport()

    def close(self) -> None:
        """End what runs in the background."""
        self.background.close()

    def _observe(self, found: Lookup, right: bool) -> None:
        try:
            self.tier.observe(found, right)
        except StoreError as error:
            warnings.warn(f"a check of a semantic hit is not kept: {error}", StoreWarning, stacklevel=2)

    def _entry_to_serve(self, request: Request, question: Explained, found: Lookup) -> Entry | str:
        """Return the candidate's entry, or why its answer is not served."""
        candidate = str(found.candidate)
        max_age = request.cache_control.max_age_seconds
        entry = self._cache.peek(candidate) if self.tier.mode == "shadow" else None
        entry = entry or self._cache.lookup(candidate, max_age_seconds=max_age)
        if entry is None:
            if self._cache.peek(candidate) is not None:
                return "the best match's answer is older than the request accepts (max-age)"
            self.tier.forget([candidate])
            return "the best match's answer has gone"
        if self._cache.is_reported_wrong(question.key, entry.value):
            return "the best match's answer was reported as wrong for this question"
        return entry

    def _gone(self, keys: Iterable[str] | None, on_purpose: bool) -> None:
        if keys is None:
            with self._lock:
                self._lists.clear()
        self.tier.forget(keys, on_purpose)

    def _catch_up(self, partition: str) -> None:
        """Have what the entries say of a partition: all at first, and again when others changed them."""
        generation, now = self._cache.generation(), self._clock()
        with self._lock:
            seen = self._lists.get(partition)
            if seen is not None and (seen[0] == generation or 0 <= now - seen[1] < _SECONDS_BETWEEN_LISTS):
                return
            if len(self._lists) >= _MOST_LISTS:
                self._lists.clear()
            self._lists[partition] = (generation, now)
        keys, held = self._cache.tagged(_TAG + partition), self.tier.held(partition)
        self.tier.forget(held.difference(keys), on_purpose=False)
        for key in keys:
            if key in held:
                continue
            entry = self._cache.peek(key)
            asked = self._restored(None if entry is None else entry.value, partition)
            if asked is not None:
                self.tier.store(key, asked)

    def _restored(self, value: Any, partition: str) -> Asked | None:
        """Return the question stored beside an answer, as this partition compares it."""
        stored = value.get("asked") if isinstance(value, dict) else None
        if not isinstance(stored, dict):
            return None
        return Asked.from_value(stored, partition, self.tier.embedder) or Asked.from_value(
            stored.get(KEY), partition, self.tier.embedder
        )


def _not_asked(request: Request) -> str | None:
    """Return why a request is neither looked up nor found by other words: a key of `NOT_ASKED`."""
    roles = {message.role for message in request.messages}
    reasons = {
        "prompt": request.prompt is not None,
        "tools": bool(request.tools),
        "sampled": not request.sampling.is_repeatable,
        "logprobs": request.sampling.logprobs is not None,
        "last": not request.messages or request.messages[-1].role != "user",
        "roles": bool(roles - {"system", "user", "assistant"}),
        "long": sum(len(message.content) for message in request.messages) > MOST_CHARACTERS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _said(request: Request) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"]


def _partition(
    request: Request,
    namespace: Namespace,
    tier: SemanticTier,
    leave_out: Iterable[str],
    records: Sequence[str],
) -> str:
    """Return the name of what a request may be compared within.

    A message that leans on what was said before is compared within its session, if it has one.
    """
    sampling = {
        name: value for name, value in request.sampling.canonical().items() if name not in set(leave_out)
    }
    said = _said(request)
    stands_alone = not request.session or tier.asked("", said).context.standalone
    return partition_of(
        namespace=namespace.digest,
        request_namespace=request.cache_control.namespace,
        principal=request.principal,
        system=[m.content for m in request.messages if m.role == "system"],
        sampling=sorted(sampling.items(), key=lambda item: item[0]),
        entities=sorted(request.entities),
        records=sorted(map(repr, records)),
        session="" if stands_alone else request.session,
        embedder=tier.embedder.name,
    )


def open_semantic(
    cache: SmartInferenceCache,
    *,
    embedder: str | Embedder = DEFAULT,
    threshold: float = 0.75,
    max_error_rate: float = 0.01,
    check_share: float = 0.02,
    mode: Mode = "on",
    comparer: Comparer | None = None,
    clock: Clock = wall_clock,
    rng: random.Random | None = None,
) -> SemanticMatching:
    """Return the tier over a response cache, its checks read from the cache's folder.

    Args:
        cache: where the answers are; the pipeline's own.
        embedder: by name (`EMBEDDERS`), or one of your own, for which `SemanticTier` needs a calibration.
        threshold: lowest probability from which a match is served.
        max_error_rate: share of hits that may be wrong.
        check_share: of hits that are computed by the model afterwards, and compared.
        mode: `shadow` serves nothing.
        comparer: judges whether two answers are one.
        clock: seconds since the epoch.
        rng: draws the checks.

    Raises:
        ImportError: the embedder's package is not installed.
        KeyError: there is no calibration for the embedder.
    """
    made = EMBEDDERS[embedder]() if isinstance(embedder, str) else embedder
    path, secret = cache.beside(FILE_NAME)
    tier = SemanticTier(
        made,
        threshold=threshold,
        max_error_rate=max_error_rate,
        check_share=check_share,
        mode=mode,
        log=CheckLog(path, secret, clock),
        rng=rng or random.Random(),  # noqa: S311 - which hits are checked is luck, and no secret
    )
    return SemanticMatching(tier, cache, comparer=comparer, clock=clock)
