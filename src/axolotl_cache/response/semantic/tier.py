"""The tier itself: finds a stored question that means the same, and says whether its answer may be served.

It holds questions and keys of answers, never the answers. Whoever owns the exact cache asks it after a miss,
fetches the answer by the key of the match, and tells it what a check found.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np

from axolotl_cache.response.semantic.asked import Asked
from axolotl_cache.response.semantic.audit import Audit, Verdict
from axolotl_cache.response.semantic.calibration import Calibration, Operating, shipped
from axolotl_cache.response.semantic.check_log import Check, CheckLog
from axolotl_cache.response.semantic.context import check_context, compares_histories, context_features
from axolotl_cache.response.semantic.embedders import Embedder
from axolotl_cache.response.semantic.facts.extract import forget_texts
from axolotl_cache.response.semantic.facts.residue import same_words
from axolotl_cache.response.semantic.features import features_of
from axolotl_cache.response.semantic.guards import Veto
from axolotl_cache.response.semantic.index import Index
from axolotl_cache.response.semantic.items import Item

Mode = Literal["on", "shadow"]

NEAR = 0.25
"""How far below the threshold a candidate is still compared with the answer that was computed anyway."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the tier found for a conversation."""

    partition: str
    candidate: str | None
    """Key of the best stored answer that no guard forbids, served or not."""
    question: str
    """Its last message; empty without a candidate."""
    probability: float
    """That its answer is right; 0 without a candidate."""
    calibrated: float
    """The same before what is known of this one item."""
    would_serve: bool
    """Whether it would be served if the tier were on."""
    check: bool
    """Whether this hit was drawn to be checked against the model after it was served."""
    why: str
    """Why it would not be served; empty if it would."""
    vetoes: tuple[tuple[Veto, str], ...] = ()
    """Why nearer candidates were passed over, each with its question."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One candidate whose answer was compared with a fresh one."""

    candidate: str
    probability: float
    would_serve: bool
    right: bool


@dataclass(frozen=True, slots=True)
class SemanticStats:
    """What was looked up since this object was made, and what is held now."""

    questions: int
    partitions: int
    lookups: int
    would_serve: int
    vetoes: Mapping[str, int]
    """By guard; of the candidates that were passed over."""
    compared: int
    compared_wrong: int
    """Of those compared: hits and near misses."""
    checked: int
    """Checked hits, of all partitions, by all processes in the last 30 days."""
    checked_wrong: int
    alarms: int
    """Partitions that serve no more."""
    certified: int
    """Partitions whose checks prove the bound."""


@dataclass
class _Partition:
    index: Index
    items: dict[int, tuple[str, Asked]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    next_number: int = 0


class SemanticTier:
    """Stored questions in partitions that never see one another. Safe for threads.

    Args:
        embedder: what makes vectors; none of its texts leave the process.
        threshold: lowest probability from which a match is served.
        max_error_rate: share of hits that may be wrong. The threshold is raised to where the calibration's
            own pairs keep it, and when checks refute it, the partition serves no more.
        check_share: of hits, drawn by `rng` to be checked against the model.
        mode: `shadow` says what would be served, and its owner serves nothing.
        calibration: of questions; the one that ships for this embedder if not given.
        contexts: of histories, likewise.
        log: where checks are kept; None forgets them with this object.
        rng: draws the checks.
        kept: how many observations `observations` holds.

    Raises:
        KeyError: no calibration ships for this embedder, and none was given.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        threshold: float = 0.75,
        max_error_rate: float = 0.01,
        check_share: float = 0.02,
        mode: Mode = "on",
        calibration: Calibration | None = None,
        contexts: Calibration | None = None,
        log: CheckLog | None = None,
        rng: random.Random,
        kept: int = 10_000,
    ) -> None:
        self.mode: Mode = mode
        self.embedder = embedder
        self.calibration = calibration or shipped(embedder.name)
        self.operating: Operating = self.calibration.threshold_for(max_error_rate)
        self.threshold = max(threshold, self.operating.threshold)
        """From which probability a match is served."""
        self.observations: deque[Observation] = deque(maxlen=kept)
        self._max_error_rate = max_error_rate
        self._check_share = check_share
        self._contexts = contexts or shipped(embedder.name, of_contexts=True)
        self._log = log or CheckLog(None, b"", lambda: 0.0)
        self._rng = rng
        self._partitions: dict[str, _Partition] = {}
        self._of_key: dict[str, set[str]] = {}
        self._items: dict[str, Item] = {}
        self._audits: dict[str, Audit] = {}
        self._lookups = self._would = self._compared = self._wrong = 0
        self._vetoes: dict[str, int] = {}
        self._lock = threading.Lock()

    def asked(self, partition: str, messages: Sequence[Mapping[str, str]]) -> Asked:
        """Return a conversation in the form in which it is looked up and stored."""
        return Asked(partition, messages, self.embedder)

    def store(self, key: str, asked: Asked) -> None:
        """Remember a conversation whose answer lies under `key`.

        Never one whose answer was served from here: errors would be handed on.

        Cost: one embedding if it was not looked up before, and two more with a history.
        """
        vector = asked.vector
        if asked.has_history:
            asked.history  # noqa: B018 - made now, and not at the first lookup that needs it
        with self._lock:
            held = self._partitions.get(asked.partition)
            if held is None:
                held = self._partitions[asked.partition] = _Partition(Index(self.embedder.dimensions))
            number = held.numbers.get(key)
            if number is None:
                number, held.next_number = held.next_number, held.next_number + 1
                held.numbers[key] = number
            self._of_key.setdefault(key, set()).add(asked.partition)
            held.items[number] = (key, asked)
            held.index.add(number, vector)

    def held(self, partition: str) -> frozenset[str]:
        """Return the keys of a partition's answers."""
        with self._lock:
            held = self._partitions.get(partition)
            return frozenset() if held is None else frozenset(held.numbers)

    def lookup(
        self,
        asked: Asked,
        candidates: int = 5,
        guard: Callable[[str], Veto | None] = lambda key: None,
    ) -> Lookup:
        """Return the best match among the nearest `candidates`.

        Cost: one embedding, and two more where histories told in other words are compared; then about 1 ms.

        Args:
            asked: what is asked now.
            candidates: how many of the nearest are compared.
            guard: one more, which is told the key of a candidate's answer.
        """
        self._read_log()
        with self._lock:
            self._lookups += 1
            held = self._partitions.get(asked.partition)
        if held is None:
            return _nothing(asked, "no question is stored that might mean the same")
        mine, vector = asked.context, asked.vector
        with self._lock:
            near = [(held.items[number], cosine) for number, cosine in held.index.nearest(vector, candidates)]
        best, calibrated, found = 0.0, 0.0, None
        vetoes: list[tuple[Veto, str]] = []
        for (key, other), cosine in near:
            veto = check_context(mine, other.context) or guard(key)
            if veto is not None:
                vetoes.append((veto, other.text))
                continue
            shared = self._probability(asked, other, cosine)
            item = self._items.get(self._log.digest(key))
            probability = shared if item is None else item.probability(shared)
            if found is None or probability > best:
                best, calibrated, found = probability, shared, (key, other)
        with self._lock:
            for veto, _ in vetoes:
                name = veto.guard.partition(":")[0]
                self._vetoes[name] = self._vetoes.get(name, 0) + 1
            if found is None:
                return _nothing(asked, _forbidden(vetoes), tuple(vetoes))
            why = self._why_not(asked.partition, found[0], best, vetoes)
            self._would += not why
            check = not why and self._rng.random() < self._check_share
        return Lookup(
            asked.partition, found[0], found[1].text, best, calibrated, not why, check, why, tuple(vetoes)
        )

    def observe(self, found: Lookup, right: bool) -> Verdict | None:
        """Tell whether the candidate's answer was right: after a check, and after a miss with a candidate.

        Only candidates that would have been served count for the verdict. A wrong one is served no more until
        it was right three times.

        Raises:
            StoreError: it can't be written down, and counts in this process alone.
        """
        if found.candidate is None:
            return None
        check = Check(
            self._log.digest(found.partition),
            self._log.digest(found.candidate),
            found.would_serve,
            found.calibrated,
            right,
        )
        is_logged = False
        try:
            is_logged = self._log.add(check)
        finally:
            with self._lock:
                self.observations.append(
                    Observation(found.candidate, found.probability, found.would_serve, right)
                )
                self._compared += 1
                self._wrong += not right
                if not is_logged:
                    self._count(check)
        self._read_log()
        return self.verdict(found.partition)

    def forget(self, keys: Iterable[str] | None, on_purpose: bool = True) -> None:
        """Forget conversations in every partition; None is all of them.

        What was removed on purpose leaves no text behind either that is only held to save time.
        """
        with self._lock:
            known = set(self._of_key) if keys is None else {key for key in keys if key in self._of_key}
            for key in known:
                for name in self._of_key.pop(key):
                    held = self._partitions[name]
                    number = held.numbers.pop(key)
                    del held.items[number]
                    held.index.remove([number])
                    if not held.items:
                        del self._partitions[name]
        if on_purpose and (known or keys is None):
            forget_texts()

    def forget_items(self) -> None:
        """Forget which answers were compared, here and on disk; what their partitions came to stays.

        Raises:
            StoreError: the file can't be written anew.
        """
        with self._lock:
            self._items.clear()
            self.observations.clear()
        self._log.forget_items()

    def verdict(self, partition: str) -> Verdict:
        """Return what the checks of a partition say."""
        with self._lock:
            return self._audit(self._log.digest(partition)).verdict()

    def stats(self) -> SemanticStats:
        """Return all counts."""
        with self._lock:
            verdicts = [audit.verdict() for audit in self._audits.values()]
            return SemanticStats(
                questions=len(self._of_key),
                partitions=len(self._partitions),
                lookups=self._lookups,
                would_serve=self._would,
                vetoes=dict(self._vetoes),
                compared=self._compared,
                compared_wrong=self._wrong,
                checked=sum(verdict.checked for verdict in verdicts),
                checked_wrong=sum(verdict.wrong for verdict in verdicts),
                alarms=sum(verdict.alarm for verdict in verdicts),
                certified=sum(verdict.certified for verdict in verdicts),
            )

    # Inside: holding the lock

    def _why_not(self, partition: str, key: str, probability: float, vetoes: list[tuple[Veto, str]]) -> str:
        if self._audit(self._log.digest(partition)).verdict().alarm:
            return "checks found more wrong hits than max_error_rate allows: nothing more is served here"
        item = self._items.get(self._log.digest(key))
        if item is not None and item.owed:
            return "the best match was wrong before, and has not been right often enough since"
        if probability < self.threshold:
            low = f"the best match would be right with {probability:.2f}, and {self.threshold:.2f} is needed"
            return f"{low}; {_forbidden(vetoes)}" if vetoes else low
        return ""

    def _audit(self, name: str) -> Audit:
        audit = self._audits.get(name)
        if audit is None:
            audit = self._audits[name] = Audit(self._max_error_rate)
        return audit

    def _count(self, check: Check) -> None:
        if check.is_hit:
            self._audit(check.partition).add(not check.right)
        if check.item != "-":
            self._items.setdefault(check.item, Item()).add(check.probability, check.right)

    # Inside: not holding it

    def _read_log(self) -> None:
        """Take in what was written down by all processes, this one included."""
        anew, checks = self._log.new()
        if not checks and not anew:
            return
        with self._lock:
            if anew:
                self._audits.clear()
                self._items.clear()
            for check in checks:
                self._count(check)

    def _probability(self, asked: Asked, other: Asked, cosine: float) -> float:
        """Return the chance that one answer serves both: as questions and, if there is any, with history."""
        a, b = asked.context, other.context
        question = float(self.calibration.probability(features_of(a.last, b.last, cosine))[0])
        if not (asked.has_history or other.has_history):
            return question
        if same_words(a.last, b.last):
            question = 1.0  # "yes" and "Yes, please": what was said before decides alone
        reply = users = 0.0
        if compares_histories(a, b):
            reply, users = (float(x) for x in np.sum(asked.history * other.history, axis=1))
        history = float(self._contexts.probability(context_features(a, b, reply, users))[0])
        return min(question, history)


def partition_of(**bounds: object) -> str:
    """Return the name of the partition for what must be equal between two requests.

    Args:
        bounds: namespace (tenant included), principal, system prompt, response format, sampling, session if
            its context matters; anything with a stable `repr`. Requests with tools belong in no partition.
    """
    digest = blake2b(digest_size=16, person=b"axc-partition")
    for name in sorted(bounds):
        part = repr((name, bounds[name])).encode()
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()


def _nothing(asked: Asked, why: str, vetoes: tuple[tuple[Veto, str], ...] = ()) -> Lookup:
    return Lookup(asked.partition, None, "", 0.0, 0.0, would_serve=False, check=False, why=why, vetoes=vetoes)


def _forbidden(vetoes: list[tuple[Veto, str]]) -> str:
    nearest, question = vetoes[0]
    return f"the guard for {nearest} forbids the nearest question, {question[:80]!r}"
