"""What the words say: what is asked, negation, scope, direction, and what carries meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from axolotl_cache.response.semantic.facts.model import Negation
from axolotl_cache.response.semantic.lexicon import Phrases, lexicon, wordnet
from axolotl_cache.response.semantic.text import HAN, tokens

_WHOSE = {"my": "i", "our": "i", "mine": "i", "your": "you", "his": "he", "her": "she", "their": "they"}
_WHOM = {"me": "i", "us": "i", "you": "you", "him": "he", "them": "they"}
_CONNECTORS = frozenset(
    (
        "to",
        "into",
        "than",
        "before",
        "after",
        "到",
        "换成",
        "转成",
        "变成",
        "改成",
        "换为",
        "转为",
        "比",
        "至",
    )
)
_CHINESE_CONNECTORS = re.compile(r"(转换成|转换为|兑换成|兑换|换成|转成|变成|改成|换为|转为|比|到|至)")


def negation_of(text: str, words: Sequence[str]) -> Negation:
    """Return how often a text negates; questions in a negative form ("can't I ...?", 能不能) do not.

    Args:
        text: without ids, dates and numbers.
        words: its tokens.
    """
    lists = lexicon()
    if HAN.search(text):
        words = tokens(lists.not_negation_chinese.sub(" ", text))
    joined = " ".join(words)
    for pattern in lists.not_negation:
        joined = pattern.sub(" ", joined)
    left = joined.split()
    return Negation(
        sum(word in lists.hard_negation for word in left), sum(word in lists.soft_negation for word in left)
    )


def scope_of(words: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Return the quantifiers, bounds, superlatives and beneficiaries, as (dimension, value)."""
    found = lexicon().scope
    return frozenset(
        place for form in (words, based(words)) for _, _, places in found.find(form) for place in places
    )


def opposites_of(words: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Return the (pair, side) of each word or phrase in the list of opposites that is not negated itself."""
    hard = lexicon().hard_negation
    return frozenset(
        place
        for form in (words, based(words))
        for start, _, places in lexicon().opposites.find(form)
        if not (start and words[start - 1] in hard)
        for place in places
    )


def kind_of(text: str, words: Sequence[str]) -> str:
    """Return what is asked, as one of the list's kinds; empty if nothing is."""
    lists = lexicon()
    if HAN.search(text):
        patterns, where = lists.kinds_chinese, text
    else:
        patterns, where = lists.kinds, " ".join(words)
    return next((kind for kind, pattern in patterns if pattern.search(where)), "")


def persons_of(words: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Return whose or whom words are about: "your name", "call me", 我的名字."""
    found = set()
    stop = lexicon().stop
    for at, word in enumerate(words):
        if word in _WHOSE:
            owned = next((w for w in words[at + 1 : at + 4] if w not in stop), None)
            if owned:
                found.add((base_form(owned), _WHOSE[word]))
        elif word in _WHOM:
            done = next((w for w in reversed(words[max(0, at - 2) : at]) if w not in stop), None)
            if done:
                found.add((base_form(done), _WHOM[word]))
    return frozenset(found)


def directions_of(text: str, words: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Return what stands left and right of "to", "into", "than", 到, 换成 and the like."""
    found = set()
    stop = lexicon().stop - {"from"}
    if "from" in words and "to" in words:
        ends = [
            next((w for w in words[at + 1 : at + 5] if w not in stop), "")
            for at in map(words.index, ("from", "to"))
        ]
        return frozenset({(ends[0], ends[1])} if all(ends) else ())
    for at, word in enumerate(words):
        if word in _CONNECTORS:
            left = next((w for w in reversed(words[max(0, at - 3) : at]) if w not in stop), None)
            right = next((w for w in words[at + 1 : at + 4] if w not in stop), None)
            if left and right and left != right:
                found.add((left, right))
    for match in _CHINESE_CONNECTORS.finditer(text):
        before, after = tokens(text[: match.start()]), tokens(text[match.end() :])
        if before and after:
            found.add((before[-1], after[0]))
    return frozenset(found)


def content_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the base forms of the words that carry meaning, in order, without politeness and framing."""
    lists = lexicon()
    return tuple(
        base_form(word)
        for word in _without(lists.fillers, words)
        if word not in lists.stop and word not in lists.hard_negation
    )


def plain_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return all words but greetings, thanks and "could you tell me"."""
    return tuple(_without(lexicon().politeness, words))


def _without(phrases: Phrases[bool], words: Sequence[str]) -> list[str]:
    drop: set[int] = set()
    for start, end, _ in phrases.find(words):
        drop.update(range(start, end))
    return [word for at, word in enumerate(words) if at not in drop]


def based(words: Sequence[str]) -> list[str]:
    """Return the base form of each word."""
    return [base_form(word) for word in words]


@lru_cache(maxsize=65536)
def base_form(word: str) -> str:
    """Return an English word's base form, by WordNet's irregular forms and the usual endings."""
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    net = wordnet()
    word = _american(word)
    if word in net.irregular:
        return net.irregular[word]
    for form in _regular(word):
        if net.known(form) or form in lexicon().synonyms:
            return form
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _american(word: str) -> str:
    """Return the American spelling, where that is a known word."""
    for british, american in (
        ("isation", "ization"),
        ("ise", "ize"),
        ("ising", "izing"),
        ("yse", "yze"),
        ("our", "or"),
    ):
        if word.endswith(british) and wordnet().known(word[: -len(british)] + american):
            return word[: -len(british)] + american
    return word


def _regular(word: str) -> Iterator[str]:
    """Yield what the word may be an ending on; the likeliest first."""
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        yield word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        yield word[:-1]
    if word.endswith("ly") and len(word) > 5:
        yield word[:-2]
        yield word[:-1] + "e"
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            if stem[-1] == stem[-2] and stem[-1] not in "lsz":
                yield stem[:-1]
            yield stem + "e"
            yield stem
            if stem[-1] == stem[-2]:
                yield stem[:-1]
            if ending == "ed" and stem.endswith("i"):
                yield stem[:-1] + "y"
