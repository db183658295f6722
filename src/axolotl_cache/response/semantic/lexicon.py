"""What the guards know about words: our own lists and WordNet's, read once."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
_DATA = "axolotl_cache.response.semantic"


class Phrases(Generic[Value]):
    """Finds known runs of tokens in a text, the longest first.

    Args:
        known: phrase, its tokens separated by spaces, to what it stands for.
    """

    def __init__(self, known: Mapping[str, Value]) -> None:
        self._known: dict[str, list[tuple[tuple[str, ...], Value]]] = {}
        for phrase, value in known.items():
            parts = tuple(phrase.split())
            self._known.setdefault(parts[0], []).append((parts, value))
        for entries in self._known.values():
            entries.sort(key=lambda entry: -len(entry[0]))

    def find(self, tokens: Sequence[str]) -> Iterator[tuple[int, int, Value]]:
        """Yield (start, end, value) from left to right; runs never overlap. Cost: O(len(tokens))."""
        at = 0
        while at < len(tokens):
            for parts, value in self._known.get(tokens[at], ()):
                if tuple(tokens[at : at + len(parts)]) == parts:
                    yield at, at + len(parts), value
                    at += len(parts)
                    break
            else:
                at += 1


@dataclass(frozen=True)
class Lexicon:
    """Both languages' lists in the forms in which they are looked up."""

    contractions: dict[str, tuple[str, ...]]
    aliases: re.Pattern[str]
    alias_of: dict[str, str]
    traditional: dict[int, str]
    chinese: frozenset[str]
    longest_chinese: int
    politeness: Phrases[bool]
    fillers: Phrases[bool]
    stop: frozenset[str]
    synonyms: dict[str, frozenset[int]]
    opposites: Phrases[frozenset[tuple[int, int]]]
    opposite_characters: dict[str, str]
    not_opposite: frozenset[str]
    hard_negation: frozenset[str]
    soft_negation: frozenset[str]
    not_negation: tuple[re.Pattern[str], ...]
    not_negation_chinese: re.Pattern[str]
    scope: Phrases[frozenset[tuple[str, str]]]
    one_sided_scope: frozenset[str]
    kinds: tuple[tuple[str, re.Pattern[str]], ...]
    kinds_chinese: tuple[tuple[str, re.Pattern[str]], ...]
    kinds_apart: frozenset[frozenset[str]]
    entities: Phrases[str]
    case_matters: frozenset[str]
    capitalised_words: frozenset[str]
    languages: frozenset[str]
    pointing: frozenset[str]
    opens_dependent: Phrases[bool]
    english: dict[str, Any]
    chinese_data: dict[str, Any]
    """The files as they are, for the extractors of numbers and dates."""


@dataclass(frozen=True)
class WordNet:
    """Synonyms, antonyms and word families of English. Source: WordNet 3.0."""

    synonyms: dict[str, frozenset[int]]
    antonyms: dict[str, frozenset[str]]
    related: dict[str, frozenset[str]]
    irregular: dict[str, str]

    def known(self, word: str) -> bool:
        """Return whether the word is a base form that something is known of."""
        return word in self.synonyms or word in self.antonyms or word in self.related


def read(name: str) -> dict[str, Any]:
    """Return one of the data files."""
    data: dict[str, Any] = json.loads(files(_DATA).joinpath("data", name).read_text(encoding="utf-8"))
    return data


@cache
def lexicon() -> Lexicon:
    """Return the lists. Cost: about 15 ms the first time."""
    en, zh = read("en.json"), read("zh.json")
    chinese = _chinese_words(zh)
    entities = {
        re.sub(r"[.]", " ", form).strip(): name
        for data in (en, zh)
        for name, others in data["entities"].items()
        for form in (name, *others)
    }
    characters: dict[str, str] = {}
    for left, right in zh["opposite_characters"]:
        characters[left] = characters.get(left, "") + right
        characters[right] = characters.get(right, "") + left
    return Lexicon(
        contractions={short: tuple(full.split()) for short, full in en["contractions"].items()},
        aliases=re.compile(
            rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(en['aliases'], key=len, reverse=True)))})(?!\w)",
            re.IGNORECASE,
        ),
        alias_of=en["aliases"],
        traditional=str.maketrans(zh["traditional"]),
        chinese=chinese,
        longest_chinese=max(map(len, chinese)),
        politeness=Phrases({word: True for data in (en, zh) for word in data["politeness"]}),
        fillers=Phrases(
            {word: True for data in (en, zh) for word in (*data["politeness"], *data["fillers"])}
        ),
        stop=frozenset([*en["stop"], *zh["stop"]]),
        synonyms=_places(
            (word, number)
            for number, group in enumerate([*en["synonyms"], *zh["synonyms"]])
            for word in group
        ),
        opposites=Phrases(
            _places(
                (word.replace("-", " "), (number, side))
                for number, sides in enumerate([*en["opposites"], *zh["opposites"]])
                for side, words in enumerate(sides)
                for word in words
            )
        ),
        opposite_characters=characters,
        not_opposite=frozenset(en["unlike_pairs_not_opposite"]),
        hard_negation=frozenset([*en["negation"]["hard"], *zh["negation"]["hard"]]),
        soft_negation=frozenset([*en["negation"]["soft"], *zh["negation"]["soft"]]),
        not_negation=tuple(re.compile(pattern) for pattern in en["negation"]["excluded"]),
        not_negation_chinese=re.compile("|".join(_renumbered(zh["negation"]["excluded"]))),
        scope=Phrases(
            _places(
                (word, (dimension, value))
                for data in (en, zh)
                for dimension, values in data["scope"].items()
                for value, words in values.items()
                for word in words
            )
        ),
        one_sided_scope=frozenset([*en["one_sided_scope"], *zh["one_sided_scope"]]),
        kinds=tuple((kind, re.compile(pattern)) for kind, pattern in en["kinds"]),
        kinds_chinese=tuple((kind, re.compile(pattern)) for kind, pattern in zh["kinds"]),
        kinds_apart=frozenset(frozenset(pair) for pair in en["kinds_apart"]),
        entities=Phrases(entities),
        case_matters=frozenset(en["case_matters"]),
        capitalised_words=frozenset(en["capitalised_words"]),
        languages=frozenset(en["languages"]),
        pointing=frozenset([*en["pointing"], *zh["pointing"]]),
        opens_dependent=Phrases({word: True for data in (en, zh) for word in data["opens_dependent"]}),
        english=en,
        chinese_data=zh,
    )


@cache
def wordnet() -> WordNet:
    """Return WordNet's part. Cost: about 60 ms and 20 MB the first time."""
    raw = files(_DATA).joinpath("data", "wordnet.json.gz").read_bytes()
    data = json.loads(gzip.decompress(raw))
    return WordNet(
        synonyms={word: frozenset(groups) for word, groups in data["synonyms"].items()},
        antonyms=_both_ways(data["antonyms"]),
        related=_both_ways(data["related"]),
        irregular=data["irregular"],
    )


def _places(pairs: Iterable[tuple[str, Value]]) -> dict[str, frozenset[Value]]:
    """Return each word with all that it stands for."""
    found: dict[str, set[Value]] = {}
    for word, place in pairs:
        found.setdefault(word, set()).add(place)
    return {word: frozenset(places) for word, places in found.items()}


def _both_ways(pairs: Sequence[Sequence[str]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for left, right in pairs:
        found.setdefault(left, set()).add(right)
        found.setdefault(right, set()).add(left)
    return {word: frozenset(others) for word, others in found.items()}


def _chinese_words(zh: Mapping[str, Any]) -> frozenset[str]:
    """Return every word of two characters or more that stands anywhere in the lists."""
    words = {
        *zh["lexicon"],
        *zh["politeness"],
        *zh["fillers"],
        *zh["relative"],
        *zh["negation"]["hard"],
        *zh["negation"]["soft"],
    }
    words |= {word for group in zh["synonyms"] for word in group}
    words |= {word for sides in zh["opposites"] for side in sides for word in side}
    words |= {word for values in zh["scope"].values() for forms in values.values() for word in forms}
    words |= {form for forms in zh["entities"].values() for form in forms}
    words |= {word for word in zh["negation"]["excluded"] if "(" not in word}
    return frozenset(word for word in words if len(word) > 1)


def _renumbered(patterns: Sequence[str]) -> Iterator[str]:
    """Yield the patterns with their back references right for being joined into one."""
    group = 0
    for pattern in patterns:
        if "\\1" in pattern:
            group += 1
            yield pattern.replace("\\1", f"\\{group}")
        else:
            yield pattern
