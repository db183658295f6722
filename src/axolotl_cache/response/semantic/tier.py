"""The tier itself: finds a stored question that means the same, and says whether its answer may be served.

It holds questions and keys of answers, never the answers. It is free-standing: whoever owns the exact cache
asks it after a miss, fetches the answer by the key of the match, and tells it what a check found.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np

from axolotl_cache.response.semantic.audit import Audit, Verdict
from axolotl_cache.response.semantic.calibration import Calibration, shipped
from axolotl_cache.response.semantic.context import Context, check_context, context_features, context_of
from axolotl_cache.response.semantic.embedders import Embedder, Vectors
from axolotl_cache.response.semantic.facts.extract import forget_texts
from axolotl_cache.response.semantic.features import embedded, features_of
from axolotl_cache.response.semantic.guards import Veto
from axolotl_cache.response.semantic.index import Index

Mode = Literal["on", "shadow", "off"]
RIGHT_TO_RETURN = 3
"""Right answers that a reported item must give unserved before it is served again."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the tier found for a conversation."""

    partition: str
    key: str | None
    """Of the stored answer that may be served; None on a miss, in shadow mode always."""
    candidate: str | None
    """Key of the best candidate that no guard forbids, served or not: what a check is compared with."""
    probability: float
    """That its answer is right; 0 without a candidate."""
    would_serve: bool
    """Whether it would be served if the tier were on."""
    check: bool
    """Whether this hit was drawn to be checked against the model after it was served."""
    vetoes: tuple[Veto, ...]
    """Why nearer candidates were passed over."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One candidate whose answer was compared with a fresh one."""

    candidate: str
    probability: float
    would_serve: bool
    right: bool


@dataclass
class _Partition:
    index: Index
    audit: Audit
    items: dict[int, tuple[str, Context, Vectors]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    next_number: int = 0


class SemanticTier:
    """Stored questions in partitions that never see one another. Safe for threads.

    Args:
        embedder: what makes vectors; None of its texts leave the process.
        threshold: probability from which a match is served.
        max_error_rate: share of hits that may be wrong; when checks refute it, the partition serves no more.
        check_share: of hits, drawn by `rng` to be checked against the model.
        mode: `shadow` computes all and serves nothing.
        calibration: of questions; the one that ships for this embedder if not given.
        contexts: of histories, likewise.
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
        rng: random.Random,
        kept: int = 10_000,
    ) -> None:
        self.mode: Mode = mode
        self.observations: deque[Observation] = deque(maxlen=kept)
        self._embedder = embedder
        self._threshold = threshold
        self._max_error_rate = max_error_rate
        self._check_share = check_share
        self._calibration = calibration or shipped(embedder.name)
        self._contexts = contexts or shipped(embedder.name, of_contexts=True)
        self._rng = rng
        self._partitions: dict[str, _Partition] = {}
        self._reported: dict[str, int] = {}
        self._lock = threading.Lock()

    def store(self, partition: str, key: str, messages: Sequence[Mapping[str, str]]) -> None:
        """Remember a conversation whose answer lies under `key`.

        Never one whose answer was served from here: errors would be handed on.

        Cost: one embedding of three short texts.
        """
        if self.mode == "off":
            return
        context = context_of(messages)
        vectors = self._embedder.embed(_texts(context))
        with self._lock:
            held = self._partitions.get(partition)
            if held is None:
                held = _Partition(Index(self._embedder.dimensions), Audit(self._max_error_rate))
                self._partitions[partition] = held
            number = held.numbers.get(key)
            if number is None:
                number, held.next_number = held.next_number, held.next_number + 1
                held.numbers[key] = number
            held.items[number] = (key, context, vectors)
            held.index.add(number, vectors[0])

    def lookup(self, partition: str, messages: Sequence[Mapping[str, str]], candidates: int = 5) -> Lookup:
        """Return the best match among the nearest `candidates`. Cost: one embedding, then about 1 ms."""
        with self._lock:
            held = self._partitions.get(partition)
        if self.mode == "off" or held is None:
            return Lookup(partition, None, None, 0.0, would_serve=False, check=False, vetoes=())
        asked = context_of(messages)
        vectors = self._embedder.embed(_texts(asked))
        best, best_key, vetoes = 0.0, None, []
        with self._lock:
            near = [(held.items[n], cosine) for n, cosine in held.index.nearest(vectors[0], candidates)]
        for (key, context, known), cosine in near:
            veto = check_context(asked, context)
            if veto is not None:
                vetoes.append(veto)
                continue
            probability = self._probability(asked, context, vectors, known, cosine)
            if probability > best:
                best, best_key = probability, key
        with self._lock:
            would = (
                best_key is not None
                and best >= self._threshold
                and best_key not in self._reported
                and not held.audit.verdict().alarm
            )
            check = would and self._rng.random() < self._check_share
        serve = would and self.mode == "on"
        return Lookup(partition, best_key if serve else None, best_key, best, would, check, tuple(vetoes))

    def observe(self, found: Lookup, right: bool) -> Verdict | None:
        """Tell whether the candidate's answer was right: after a check, and after a miss with a candidate.

        Only candidates that would have been served count for the verdict. A wrong one is served no more until
        it was right three times.
        """
        if found.candidate is None:
            return None
        with self._lock:
            self.observations.append(
                Observation(found.candidate, found.probability, found.would_serve, right)
            )
            owed = self._reported.get(found.candidate)
            if not right:
                self._reported[found.candidate] = RIGHT_TO_RETURN
            elif owed is not None:
                if owed > 1:
                    self._reported[found.candidate] = owed - 1
                else:
                    del self._reported[found.candidate]
            held = self._partitions.get(found.partition)
            if held is None:
                return None
            return held.audit.add(not right) if found.would_serve else held.audit.verdict()

    def forget(self, key: str) -> None:
        """Forget a conversation in every partition, and every text that is held to save time."""
        with self._lock:
            for held in self._partitions.values():
                number = held.numbers.pop(key, None)
                if number is not None:
                    del held.items[number]
                    held.index.remove([number])
            self._reported.pop(key, None)
        forget_texts()

    def verdict(self, partition: str) -> Verdict:
        """Return what the checks of a partition say."""
        with self._lock:
            held = self._partitions.get(partition)
            return held.audit.verdict() if held else Audit(self._max_error_rate).verdict()

    def _probability(self, a: Context, b: Context, mine: Vectors, theirs: Vectors, cosine: float) -> float:
        """Return the chance that one answer serves both: as questions and, if there is any, with history."""
        question = float(self._calibration.probability(features_of(a.last, b.last, cosine))[0])
        if not (a.users or a.answers or b.users or b.answers):
            return question
        reply, users = np.sum(mine[1:] * theirs[1:], axis=1)
        history = float(self._contexts.probability(context_features(a, b, float(reply), float(users)))[0])
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


def _texts(context: Context) -> list[str]:
    return [embedded(context.last), context.asked_back()[-500:] or " ", context.said()[-500:] or " "]
