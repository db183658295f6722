#!/usr/bin/env python3
"""Make `wordnet.json.gz`: the words, synonyms, antonyms and irregular forms that the guards look up.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    scripts/make_wordnet_data.py wordnet/usr/share/wordnet

Source: WordNet 3.0, Princeton University; its licence stands in the file made. Single English words:
the first four senses of a word that has senses seen in the tagged texts, the first two of one that has none.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
OUTPUT = Path(__file__).resolve().parents[1] / "src/axolotl_cache/response/semantic/data/wordnet.json.gz"
LICENCE = (
    "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Permission to use, copy, "
    "modify and distribute this software and database and its documentation for any purpose and without fee "
    "or royalty is hereby granted, provided that this notice appears on all copies. THIS SOFTWARE AND "
    'DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS '
    "OR IMPLIED. "
    "The name of Princeton University or Princeton may not be used in advertising or publicity. Title to "
    "copyright in this software, database and any associated documentation shall at all times remain with "
    "Princeton University."
)
WORD = re.compile(r"[a-z]{2,}")


def senses(folder: Path, part: str) -> dict[str, list[str]]:
    """Return each word's synset offsets, most frequent first, cut as said above."""
    found = {}
    for line in (folder / f"index.{part}").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        word, pointers = fields[0], int(fields[3])
        tagged = int(fields[5 + pointers])
        if WORD.fullmatch(word):
            kept = 4 if tagged else 2
            found[word] = fields[6 + pointers :][: min(kept, max(tagged, 2))]
    return found


def partners(word: str, letter: str, offset: str, data: dict, index: dict) -> Iterator[tuple[str, str]]:
    """Yield (symbol, other word) for the pointers from this word in this sense to a kept sense of a word."""
    members, pointers = data[letter, offset]
    for symbol, target, target_letter, places in pointers:
        mine, other = int(places[:2], 16), int(places[2:], 16)
        if mine and members[mine - 1] == word:
            partner = data[target_letter, target][0][other - 1]
            if WORD.fullmatch(partner) and target in index[target_letter].get(partner, ()):
                yield symbol, partner


def main(folder: Path) -> None:
    """Read WordNet's files and write ours."""
    groups: dict[str, set[str]] = defaultdict(set)
    antonyms: set[tuple[str, str]] = set()
    related: set[tuple[str, str]] = set()
    lemmas: dict[str, dict[str, str]] = {}
    numbers: dict[str, int] = {}
    data = {}
    index = {}
    for part, letter in PARTS.items():
        index[letter] = senses(folder, part)
        lines = (folder / f"data.{part}").read_text(encoding="ascii").splitlines()
        for line in lines:
            if line.startswith(" "):
                continue
            fields = line.split("|")[0].split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", fields[4 + 2 * i]).lower() for i in range(count)]
            at = 4 + 2 * count
            pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
            data[letter, fields[0]] = (words, pointers)
        lemmas[letter] = dict(
            line.split()[:2]
            for line in (folder / f"{part}.exc").read_text(encoding="ascii").splitlines()
            if all(WORD.fullmatch(word) for word in line.split()[:2])
        )
    for letter, words_of in index.items():
        for word, offsets in words_of.items():
            for offset in offsets:
                members = data[letter, offset][0]
                if sum(offset in words_of.get(m, ()) for m in members) > 1:
                    groups[word].add(f"{letter}{offset}")
                for symbol, partner in partners(word, letter, offset, data, index):
                    pair = (min(word, partner), max(word, partner))
                    if symbol == "!":
                        antonyms.add(pair)
                    elif symbol == "+" and word != partner and word[:3] == partner[:3]:
                        related.add(pair)
    for name in sorted({name for names in groups.values() for name in names}):
        numbers[name] = len(numbers)
    irregular = {
        form: word
        for letter in ("v", "n", "a")
        for form, word in lemmas[letter].items()
        if form != word and word in index[letter] and form not in index["n"]
    }
    result = {
        "source": "WordNet 3.0, https://wordnet.princeton.edu",
        "licence": LICENCE,
        "made_by": "scripts/make_wordnet_data.py",
        "synonyms": {word: sorted(numbers[n] for n in names) for word, names in sorted(groups.items())},
        "antonyms": sorted(antonyms),
        "related": sorted(related),
        "irregular": dict(sorted(irregular.items())),
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with OUTPUT.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(json.dumps(result, separators=(",", ":")).encode())
    print({k: len(v) for k, v in result.items()}, OUTPUT.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
