"""What is left of two texts when all that corresponds has been taken away."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.lexicon import lexicon, wordnet
from axolotl_cache.response.semantic.text import HAN


@dataclass(frozen=True, slots=True)
class Residue:
    """Content words without a partner on the other side."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    partners: int
    """Pairs of words that are equal, near-equal in spelling, or of one meaning."""
    exact: int
    """... of which equal."""


@lru_cache(maxsize=4096)
def residue_of(left: tuple[str, ...], right: tuple[str, ...]) -> Residue:
    """Pair the content words of two texts. Cost: O(len(left) x len(right)) look-ups."""
    a = list(dict.fromkeys(left))
    b = list(dict.fromkeys(right))
    exact = [word for word in a if word in b]
    a, b = [w for w in a if w not in exact], [w for w in b if w not in exact]
    pairs = 0
    for same in (near_spelling, one_meaning):
        for word in list(a):
            other = next((w for w in b if same(word, w)), None)
            if other is not None:
                a.remove(word)
                b.remove(other)
                pairs += 1
    # A second word of one meaning may have found its partner taken: "sign up" and "register and join".
    a = [w for w in a if not any(one_meaning(w, other) for other in right)]
    b = [w for w in b if not any(one_meaning(w, other) for other in left)]
    return Residue(tuple(a), tuple(b), len(exact) + pairs, len(exact))


def similar_tokens(a: Facts, b: Facts) -> float:
    """Return the share of words, function words among them, that both texts have; 0 to 1."""
    left, right = set(a.plain), set(b.plain)
    return len(left & right) / max(1, len(left), len(right))


def same_words(a: Facts, b: Facts) -> bool:
    """Return whether the texts have the same words but for politeness and typing mistakes."""
    left, right = set(a.plain) - set(b.plain), set(b.plain) - set(a.plain)
    return len(left) == len(right) and all(any(near_spelling(x, y) for y in right) for x in left)


@lru_cache(maxsize=65536)
def one_meaning(word: str, other: str) -> bool:
    """Return whether two words may stand for each other, by our lists, by WordNet, or as one family."""
    ours = lexicon().synonyms
    if ours.get(word, frozenset()) & ours.get(other, frozenset()):
        return True
    net = wordnet()
    if net.synonyms.get(word, frozenset()) & net.synonyms.get(other, frozenset()):
        return True
    return other in net.related.get(word, ())


@lru_cache(maxsize=65536)
def near_spelling(word: str, other: str) -> bool:
    """Return whether the words, of five letters or more, differ by one typing mistake."""
    short, long = sorted((word, other), key=len)
    if len(short) < 5 or len(long) - len(short) > 1 or HAN.search(word):
        return False
    if wordnet().known(word) and wordnet().known(other):
        return False
    if len(short) == len(long):
        differing = [i for i, (x, y) in enumerate(zip(short, long, strict=True)) if x != y]
        if len(differing) == 2:
            i, j = differing
            return j == i + 1 and short[i] == long[j] and short[j] == long[i]
        return len(differing) == 1
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
