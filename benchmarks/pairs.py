"""Pairs of questions, and of conversations, of which it is known whether one answer serves both."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import REPOSITORY, TRACES, say

FOW = "fow-cache (PyPI; Maby0, CC BY 4.0)"
OWN = REPOSITORY / "benchmarks" / "data"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions."""

    id: str
    group: str
    """What halves are balanced over, as "paraphrase/reworded"."""
    right: bool
    """Whether one answer serves both."""
    a: str
    b: str
    ambiguous: bool = False
    """Whether that depends on the application; counted as not right."""


@dataclass(frozen=True, slots=True)
class ConversationPair:
    """Two conversations that end with a user's message."""

    id: str
    group: str
    right: bool
    a: list[dict[str, str]]
    b: list[dict[str, str]]


def fow_folder() -> Path | None:
    """Return where fow-cache's data lies: in this environment or in `.venv-peers`; None if nowhere."""
    places = [*(REPOSITORY / ".venv-peers").glob("lib/python3*/site-packages/fow_cache/data")]
    spec = find_spec("fow_cache")
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "data")
    return next((place for place in places if (place / "pairs.jsonl").exists()), None)


def fow_questions(folder: Path) -> list[Pair]:
    """Return the 600 pairs of questions."""
    return [
        Pair(
            row["id"],
            f"{row['category']}/{row['style']}",
            row["same_answer"] and not row.get("ambiguous"),
            row["a"],
            row["b"],
            bool(row.get("ambiguous")),
        )
        for row in _lines(folder / "pairs.jsonl")
    ]


def fow_conversations(folder: Path) -> list[ConversationPair]:
    """Return the 240 pairs of conversations, grouped by kind and length."""
    found = []
    for part in ("conv-parts", "conv-long"):
        for path in sorted((folder / part).glob("*.jsonl")):
            for row in _lines(path):
                longest = max(len(row["a"]), len(row["b"]))
                length = next(
                    (n for limit, n in ((4, "short"), (8, "medium"), (20, "long")) if longest <= limit),
                    "very long",
                )
                found.append(
                    ConversationPair(
                        row["id"], f"{row['subtype']}/{length}", row["same_answer"], row["a"], row["b"]
                    )
                )
    return found


def own_pairs(language: str) -> list[Pair]:
    """Return the pairs in `benchmarks/data/questions-LANGUAGE.tsv`, written for this library (CC0)."""
    with (OWN / f"questions-{language}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Pair(f"{language}-{number}", f"{label}/{group}", label == "same", a, b)
        for number, (label, group, a, b) in enumerate(rows)
    ]


def halves(pairs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Cut pairs in two: within each group, in the order of their ids' SHA-1, every other one.

    The rule is that of fow-cache's held-out run of conversations, so that figures compare.
    """
    groups: dict[str, list[Any]] = defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    first, second = [], []
    for members in groups.values():
        members.sort(key=lambda pair: hashlib.sha1(pair.id.encode(), usedforsecurity=False).hexdigest())
        first += members[::2]
        second += members[1::2]
    return first, second


def intents(name: str) -> list[tuple[str, str]] | None:
    """Return (text, intent) of "banking77" or "clinc150"; None, visibly, where the file is missing."""
    file, source = {
        "banking77": (
            "banking77_train.csv.gz",
            "https://github.com/PolyAI-LDN/task-specific-datasets, banking_data/train.csv",
        ),
        "clinc150": ("clinc150_train.json.gz", "https://github.com/clinc/oos-eval, data/data_full.json"),
    }[name]
    path = TRACES / file
    if not path.exists():
        say(f"SKIPPED: {path} is missing; set AXOLOTL_CACHE_TRACES. It is public: {source}, gzipped.")
        return None
    readers: dict[str, Callable[[Any], list[tuple[str, str]]]] = {
        "banking77": lambda opened: [
            (row["text"].strip(), row["category"]) for row in csv.DictReader(opened)
        ],
        "clinc150": lambda opened: [(text.strip(), intent) for text, intent in json.load(opened)["train"]],
    }
    with gzip.open(path, "rt", encoding="utf-8", newline="") as opened:
        return list(dict(readers[name](opened)).items())


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
