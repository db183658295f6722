"""How many entities are found, how many of those found are right, and do follow-ups point to the right ones?

python benchmarks/entities.py                  the half that is only counted on
python benchmarks/entities.py --half develop   the half that the rules were written with, and its mistakes

The sentences and conversations are our own, half Chinese (`benchmarks/data/README.md`). An entity counts as
found if kind and canonical form are right and its place overlaps that of the label. Follow-ups that the
tracker is unsure of are counted apart: the accuracy is that of the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from axolotl_cache.entities import BUILT_IN, Entity, Tracker, extract
from common import REPOSITORY, emit, say

DATA = REPOSITORY / "benchmarks" / "data"
Half = Literal["held-out", "develop"]


@dataclass
class Found:
    """Counts of extraction: of all, of each kind, of each language."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    exact_spans: int = 0
    mistakes: list[str] = field(default_factory=list)

    def precision(self, name: str = "all") -> float:
        """Return the share of those found that are right; 1 if none were found."""
        found = self.right[name] + self.wrong[name]
        return self.right[name] / found if found else 1.0

    def recall(self, name: str = "all") -> float:
        """Return the share of those there that were found; 1 if there are none."""
        there = self.right[name] + self.missed[name]
        return self.right[name] / there if there else 1.0


@dataclass
class Followed:
    """Counts of follow-ups."""

    right: int = 0
    wrong: int = 0
    unsure: int = 0
    ambiguous: int = 0
    """Labelled so: nobody could tell which is meant."""
    rightly_unsure: int = 0
    """Ambiguous ones that the tracker was unsure of, with the right candidates."""
    mistakes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """All follow-ups."""
        return self.right + self.wrong + self.unsure


def rows(name: str, half: Half) -> list[dict[str, Any]]:
    """Return the labelled "entities" or "followups" of a half."""
    text = (DATA / f"{name}-{half}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def count_entities(half: Half) -> Found:
    """Extract from every sentence of a half and compare."""
    counts = Found()
    for row in rows("entities", half):
        labels = [Entity(**label) for label in row["entities"]]
        found = list(extract(row["text"]))
        for entity in found:
            label = next((each for each in labels if _same(each, entity)), None)
            names = ("all", entity.kind, row["language"])
            if label is None:
                counts.wrong.update(names)
                counts.mistakes.append(f"wrong   {entity.canonical!r} in: {row['text']}")
                continue
            labels.remove(label)
            counts.right.update(names)
            counts.exact_spans += (label.start, label.end) == (entity.start, entity.end)
        for label in labels:
            counts.missed.update(("all", label.kind, row["language"]))
            counts.mistakes.append(f"missed  {label.canonical!r} in: {row['text']}")
    return counts


def _same(label: Entity, entity: Entity) -> bool:
    return label == entity and label.start < entity.end and entity.start < label.end


def count_followups(half: Half, language: str | None = None) -> Followed:
    """Follow every conversation of a half and compare what the labelled turns point to."""
    counts = Followed()
    for row in rows("followups", half):
        if language not in {None, row["language"]}:
            continue
        for turn, resolution in _followed(row["turns"]):
            told = {entity.canonical for entity in resolution.entities}
            candidates = {entity.canonical for entity in resolution.candidates}
            counts.ambiguous += "unsure" in turn
            if resolution.unsure:
                counts.unsure += 1
                rightly = "unsure" in turn and candidates == set(turn["unsure"])
                counts.rightly_unsure += rightly
                if not rightly:
                    counts.mistakes.append(f"unsure  {sorted(candidates)} in: {turn}")
            elif "refers" in turn and told == set(turn["refers"]):
                counts.right += 1
            else:
                counts.wrong += 1
                counts.mistakes.append(f"wrong   {sorted(told)} in: {turn}")
    return counts


def _followed(turns: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    tracker = Tracker()
    for turn in turns:
        if turn["role"] == "assistant":
            tracker.note(turn["text"])
            continue
        resolution = tracker.turn(turn["text"])
        if "refers" in turn or "unsure" in turn:
            yield turn, resolution


def seconds_per_message(length: int = 500, times: int = 200) -> float:
    """Return the median seconds that extraction takes for a message that is full of entities."""
    text = " ".join(row["text"] for row in rows("entities", "develop"))
    messages = [text[at : at + length] for at in range(0, len(text) - length, length)]
    taken = []
    for turn in range(times):
        message = messages[turn % len(messages)]
        begin = time.perf_counter()
        extract(message)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def figures(half: Half = "held-out") -> dict[str, float]:
    """Return entity_precision, entity_recall, followup_accuracy, followup_unsure_fraction and finer ones.

    Cost: less than a second.
    """
    found, followed = count_entities(half), count_followups(half)
    return {
        "entity_precision": found.precision(),
        "entity_recall": found.recall(),
        "entity_exact_spans": found.exact_spans / max(1, found.right["all"]),
        "entity_labels": found.right["all"] + found.missed["all"],
        "followup_accuracy": followed.right / max(1, followed.right + followed.wrong),
        "followup_unsure_fraction": followed.unsure / followed.count,
        "followup_unsure_fraction_of_clear": (followed.unsure - followed.rightly_unsure)
        / (followed.count - followed.ambiguous),
        "followup_ambiguous_recognised": followed.rightly_unsure / max(1, followed.ambiguous),
        "followups": followed.count,
    }


def show(half: Half) -> list[dict[str, Any]]:
    """Write the tables, and for the half that was developed with the mistakes; return the rows."""
    found = count_entities(half)
    made: list[dict[str, Any]] = []
    say(f"entities, {half}: {len(rows('entities', half))} sentences")
    say(f"{'':12} {'there':>6} {'found':>6} {'precision':>10} {'recall':>8}")
    for name in (*BUILT_IN, "en", "zh", "all"):
        row = {
            "part": "entities",
            "name": name,
            "labels": found.right[name] + found.missed[name],
            "found": found.right[name] + found.wrong[name],
            "precision": found.precision(name),
            "recall": found.recall(name),
        }
        made.append(row)
        say(f"{name:12} {row['labels']:6} {row['found']:6} {row['precision']:10.3f} {row['recall']:8.3f}")
    say(f"\nfollow-ups, {half}: {len(rows('followups', half))} conversations")
    say(
        f"{'':12} {'all':>6} {'right':>6} {'wrong':>6} {'unsure':>7} {'ambiguous':>10} {'rightly unsure':>15}"
    )
    followed = Followed()
    for language in ("en", "zh", None):
        followed = count_followups(half, language)
        counts = {
            name: getattr(followed, name)
            for name in ("count", "right", "wrong", "unsure", "ambiguous", "rightly_unsure")
        }
        made.append({"part": "followups", "name": language or "all", **counts})
        widths = zip((6, 6, 6, 7, 10, 15), counts.values(), strict=True)
        say(f"{language or 'all':12} " + " ".join(f"{value:{width}}" for width, value in widths))
    if half == "develop":
        say("\n" + "\n".join([*found.mistakes, *followed.mistakes]))
    return made


def main() -> None:
    """Count, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=("held-out", "develop"), default="held-out")
    parser.add_argument("--quick", action="store_true", help="no difference: it takes seconds")
    half: Half = parser.parse_args().half
    begin = time.time()
    made = show(half)
    counted = figures(half) | {"extract_500_characters_ms": seconds_per_message() * 1e3}
    emit(
        "entities",
        figures=counted,
        rows=made,
        seed=0,
        started=begin,
        packages=(),
        half=half,
    )


if __name__ == "__main__":
    main()
