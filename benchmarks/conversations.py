"""Counts conversations: what was said before decides whether one answer serves both."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from time import perf_counter
from typing import Any

import numpy as np

from axolotl_cache.response.semantic.calibration import learn
from axolotl_cache.response.semantic.context import (
    CONTEXT_FEATURES,
    Context,
    check_context,
    context_features,
    context_of,
)
from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.features import embedded
from common import say
from intervals import share
from learning import FOLDS, ROUNDS, Vectors, loosest
from pairs import ConversationPair, halves

WRONG = 0.03
SEED = 78
Half = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Features, whether a guard forbids, whether one answer is right, kind."""


def texts_of(context: Context) -> list[str]:
    """Return what is embedded of a conversation."""
    return [context.asked_back()[-500:] or " ", context.said()[-500:] or " ", embedded(context.last)]


def scored(pairs: Sequence[ConversationPair], vectors: Vectors) -> Half:
    """Return what is known of the pairs before anything is learnt."""
    contexts = [(context_of(pair.a), context_of(pair.b)) for pair in pairs]
    rows, forbidden = [], []
    for a, b in contexts:
        reply, users, _ = np.sum(vectors(texts_of(a)) * vectors(texts_of(b)), axis=1)
        rows.append(context_features(a, b, float(reply), float(users)))
        forbidden.append(check_context(a, b) is not None)
    groups = np.array([pair.group for pair in pairs], dtype=object)
    return np.array(rows), np.array(forbidden), np.array([pair.right for pair in pairs]), groups


def model(half: Half, kept: np.ndarray, embedder: str, *, cross_fit: bool = True) -> Any:
    """Return a calibration of contexts learnt from some of a half's pairs."""
    features, forbidden, right, _ = half
    these = kept & ~forbidden
    return learn(
        features[these],
        right[these],
        embedder=embedder,
        sources=(),
        names=CONTEXT_FEATURES,
        strength=1.0,
        cross_fit=cross_fit,
    )


def unseen(half: Half, embedder: str) -> np.ndarray:
    """Return each pair's probability by models that had not seen it."""
    rng, total = np.random.default_rng(SEED), np.zeros(len(half[2]))
    for _ in range(ROUNDS):
        fold = rng.permutation(len(total)) % FOLDS
        for number in range(FOLDS):
            kept = fold != number
            total[~kept] += model(half, kept, embedder, cross_fit=False).probability(half[0][~kept])
    return np.where(half[1], 0, total / ROUNDS)


def count(
    pairs: Sequence[ConversationPair], vectors: Vectors, rows: list[dict[str, Any]]
) -> dict[str, float]:
    """Learn on each half, count on the other, and time a lookup whose earlier turns were seen before."""
    say("conversations")
    name = vectors.embedder.name
    both = [scored(half, vectors) for half in halves(pairs)]
    right = np.concatenate([half[2] for half in both])
    groups = np.concatenate([half[3] for half in both])
    models = [model(half, np.ones(len(half[2]), bool), name) for half in both]
    learnt = [unseen(half, name) for half in both]
    counted = [
        np.where(half[1], 0, other.probability(half[0]))
        for half, other in zip(both, reversed(models), strict=True)
    ]
    result = {}
    for wrong in (0.0, 0.01, 0.02, WRONG, 0.05, 0.075, 0.1, 0.15, 0.2):
        limits = [loosest(p, half[2], wrong) for p, half in zip(learnt, both, strict=True)]
        served = np.concatenate([p >= limit for p, limit in zip(counted, reversed(limits), strict=True)])
        good, bad = int((served & right).sum()), int((served & ~right).sum())
        row = {
            "part": "conversations",
            "embedder": name,
            "allowed_on_the_learning_half": wrong,
            "served": share(good, int(right.sum())),
            "wrong_per_trap": share(bad, int((~right).sum())),
            "wrong_per_hit": share(bad, good + bad),
            "wrong_per_request": share(bad, len(right)),
        }
        rows.append(row)
        say(f"  {wrong:.0%} allowed: served {row['served']}, wrong {row['wrong_per_trap']}")
        if wrong == WRONG:
            result = {
                "conversations_served": row["served"]["share"],
                "conversations_wrong": row["wrong_per_trap"]["share"],
            }
            cut = len(both[0][2])
            for number, these in enumerate((slice(None, cut), slice(cut, None))):
                hits, wanted = served[these], right[these]
                good, bad = int((hits & wanted).sum()), int((hits & ~wanted).sum())
                rows.append(
                    {
                        "part": "conversations, one half",
                        "half": number,
                        "was_read": number == 0,
                        "served": share(good, int(wanted.sum())),
                        "wrong_per_trap": share(bad, int((~wanted).sum())),
                        "wrong_per_hit": share(bad, good + bad),
                        "wrong_per_request": share(bad, len(wanted)),
                    }
                )
            for group in sorted(set(groups)):
                these = groups == group
                rows.append(
                    {
                        "part": "conversations, by kind",
                        "kind": group,
                        "served": share(int(served[these].sum()), int(these.sum())),
                    }
                )
    result["conversation_lookup_p95_ms"] = _time(pairs, vectors, rows)
    return result


def _time(pairs: Sequence[ConversationPair], vectors: Vectors, rows: list[dict[str, Any]]) -> float:
    """Time one comparison of the longest conversations; the facts of all turns but the last two are known."""
    longest = sorted(pairs, key=lambda pair: -max(len(pair.a), len(pair.b)))[:60]
    times = []
    for pair in longest:
        facts_of.cache_clear()
        other = context_of(pair.b)
        context_of([*pair.a[:-3], {"role": "user", "content": "."}])
        known = vectors(texts_of(other))
        started = perf_counter()
        asked = context_of(pair.a)
        reply, users, _ = np.sum(vectors.embedder.embed(texts_of(asked)) * known, axis=1)
        check_context(asked, other)
        context_features(asked, other, float(reply), float(users))
        times.append((perf_counter() - started) * 1e3)
    p95 = round(quantiles(times, n=20)[-1], 2)
    rows.append(
        {"part": "conversation lookup", "turns": max(len(longest[0].a), len(longest[0].b)), "p95_ms": p95}
    )
    return p95
