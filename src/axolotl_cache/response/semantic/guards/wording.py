"""Guards over what words say: negation, polarity, scope, order, what is asked."""

from __future__ import annotations

from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.facts.residue import residue_of
from axolotl_cache.response.semantic.guards.veto import Veto, veto
from axolotl_cache.response.semantic.lexicon import lexicon, wordnet

_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "de", "mis", "anti")


def negation(a: Facts, b: Facts) -> Veto | None:
    """Veto if one negates and the other does not, and no word of the other can stand for the negation."""
    if a.negation.hard % 2 == b.negation.hard % 2:
        return None
    less = a if a.negation.hard % 2 == 0 else b
    more = b if less is a else a
    if less.negation.soft > more.negation.soft:
        return None
    return Veto("negation", f"{a.negation.hard} x", f"{b.negation.hard} x")


def polarity(a: Facts, b: Facts) -> Veto | None:
    """Veto if one has a word or phrase, the other its opposite, and neither has both."""
    for pair in {pair for pair, _ in a.opposites} & {pair for pair, _ in b.opposites}:
        left = {side for p, side in a.opposites if p == pair}
        right = {side for p, side in b.opposites if p == pair}
        if len(left) == len(right) == 1 and left != right:
            return Veto("polarity", f"opposite {pair}.{left.pop()}", f"opposite {pair}.{right.pop()}")
    left_words, right_words = set(a.content), set(b.content)
    for word in sorted(left_words - right_words):
        for other in sorted(right_words - left_words):
            if opposite(word, other):
                return Veto("polarity", word, other)
    left_over = residue_of(a.content, b.content)
    for word in left_over.a:
        for other in left_over.b:
            if nearly_opposite(word, other):
                return Veto("polarity", word, other)
    return _characters(a, b)


def nearly_opposite(word: str, other: str) -> bool:
    """Return whether a synonym of one English word is an opposite of the other: unpaid, settled."""
    net, skip = wordnet(), lexicon().not_opposite
    for one, two in ((word, other), (other, word)):
        for antonym in net.antonyms.get(one, ()):
            if antonym not in skip and net.synonyms.get(antonym, frozenset()) & net.synonyms.get(
                two, frozenset()
            ):
                return True
    return False


def opposite(word: str, other: str) -> bool:
    """Return whether two English words are opposites, by WordNet or by a negating prefix."""
    skip = lexicon().not_opposite
    if word in skip and other in skip:
        return False
    if other in wordnet().antonyms.get(word, ()):
        return True
    short, long = sorted((word, other), key=len)
    return len(short) > 3 and long.endswith(short) and long[: -len(short)] in _PREFIXES


def _characters(a: Facts, b: Facts) -> Veto | None:
    """Veto if two Chinese texts are the same but for one character and its opposite."""
    if a.language != "zh" or b.language != "zh" or len(a.text) != len(b.text):
        return None
    differing = [(x, y) for x, y in zip(a.text, b.text, strict=True) if x != y]
    if len(differing) == 1 and differing[0][1] in lexicon().opposite_characters.get(differing[0][0], ""):
        return Veto("polarity", *differing[0])
    return None


def scope(a: Facts, b: Facts) -> Veto | None:
    """Veto if both speak of a dimension (quantity, bound, superlative, for whom) with no value in common.

    "only" and "except" veto alone: they change what is asked even where the other text is silent.
    """
    for dimension in sorted({d for d, _ in a.scope} | {d for d, _ in b.scope}):
        left = {value for d, value in a.scope if d == dimension}
        right = {value for d, value in b.scope if d == dimension}
        if dimension in lexicon().one_sided_scope:
            if left != right:
                return veto(f"scope: {dimension}", left, right)
        elif left and right and not left & right:
            return veto(f"scope: {dimension}", left, right)
    return None


def direction(a: Facts, b: Facts) -> Veto | None:
    """Veto if something goes from x to y in one text and back in the other, or words changed places."""
    turned = {
        (x, y)
        for x, y in a.directions
        if (y, x) in b.directions and not ((x, y) in b.directions and (y, x) in a.directions)
    }
    if turned:
        return veto("direction", (f"{x} to {y}" for x, y in turned), (f"{y} to {x}" for x, y in turned))
    if a.directions and a.directions == b.directions:
        return None
    if set(a.tokens) == set(b.tokens) and sorted(a.content) == sorted(b.content) and a.content != b.content:
        double = a.content + a.content
        turned_round = any(double[i : i + len(a.content)] == b.content for i in range(len(a.content)))
        if not _neighbours_swapped(a.plain, b.plain) and (len(a.content) == 2 or not turned_round):
            return Veto("direction", " ".join(a.content), " ".join(b.content))
    return None


def _neighbours_swapped(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Return whether only two words side by side changed places, as adverbs do: "open always"."""
    if len(a) != len(b):
        return False
    differing = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    return len(differing) == 2 and differing[1] == differing[0] + 1


def persons(a: Facts, b: Facts) -> Veto | None:
    """Veto if the same thing is mine in one text and yours in the other: "my name", "your name"."""
    for word in sorted({w for w, _ in a.persons} & {w for w, _ in b.persons}):
        left = {person for w, person in a.persons if w == word}
        right = {person for w, person in b.persons if w == word}
        if not left & right:
            return veto("persons", (f"{word} of {p}" for p in left), (f"{word} of {p}" for p in right))
    return None


def kind(a: Facts, b: Facts) -> Veto | None:
    """Veto if two kinds of question are asked that no wording makes one, as who and when."""
    if a.kind and b.kind and frozenset((a.kind, b.kind)) in lexicon().kinds_apart:
        return Veto("question kind", a.kind, b.kind)
    return None
