"""Text made comparable: one form of each character, words, and the language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from axolotl_cache.response.semantic.lexicon import lexicon

_SAME = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "−": "-", "…": " ", "、": ","}
)
_TOKEN = re.compile(r"\b[A-Za-z]\+\+|\b[A-Za-z]#|[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*%?")
HAN = re.compile(r"[㐀-鿿豈-﫿]")
_HAN_RUN = re.compile(r"[㐀-鿿豈-﫿]+")
_SCRIPTS = (
    ("ja", re.compile(r"[぀-ヿ]")),
    ("ko", re.compile(r"[가-힯]")),
    ("zh", HAN),
    ("ru", re.compile(r"[Ѐ-ӿ]")),
    ("ar", re.compile(r"[؀-ۿ]")),
    ("he", re.compile(r"[֐-׿]")),
    ("hi", re.compile(r"[ऀ-ॿ]")),
    ("th", re.compile(r"[฀-๿]")),
    ("el", re.compile(r"[Ͱ-Ͽ]")),
)
_LATIN = {
    "en": "the is are how what do does can my i to of and for in on with you where when why it this was not",
    "de": "der das ist sind wie was ich mein meine und für mit nicht ein eine kann wo wann warum wird auf",
    "fr": "le la les est sont comment que quoi je mon ma mes pour avec pas un une peut où quand pourquoi du",
    "es": "el la los las es son cómo como qué que yo mi mis para con un una puedo dónde cuándo por del de se",
    "pt": "os é são como que eu meu minha para com não um uma posso onde quando por da dos está",
    "it": "il lo la gli è sono che cosa io mio mia per con non un una posso dove quando perché del della si",
    "nl": "het een zijn hoe wat ik mijn en voor met niet kan waar wanneer waarom van op dat",
    "pl": "jest są jak czy nie się mój moja dla gdzie kiedy dlaczego od",
}
_PROFILES = {language: frozenset(words.split()) for language, words in _LATIN.items()}


def normalise(text: str) -> str:
    """Return `text` in one form: width, quotes, traditional characters, abbreviations, white space.

    Case stays, as names are told by it. Cost: about 10 us for a sentence.
    """
    text = unicodedata.normalize("NFKC", text).translate(_SAME)
    if HAN.search(text):
        text = text.translate(lexicon().traditional)
    text = lexicon().aliases.sub(lambda match: lexicon().alias_of[match.group().lower()], text)
    return " ".join(text.split())


def language_of(text: str) -> str:
    """Return the language's two letters, or "" where it can't be told.

    A script tells at once; Latin text needs four words, two of them among the commonest of one
    language, and more of them than of any other.
    """
    letters = sum(character.isalpha() for character in text)
    for language, script in _SCRIPTS:
        found = len(script.findall(text))
        if found and (found * 4 >= letters or (language == "ja" and found > 1)):
            return language
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < 4:
        return ""
    counts = sorted(
        ((sum(w in known for w in words), name) for name, known in _PROFILES.items()), reverse=True
    )
    (most, language), (second, _) = counts[:2]
    return language if most >= 2 and most > second else ""


def tokens(text: str) -> list[str]:
    """Return the words of a normalised text in lower case.

    Contractions are written out ("can't" is "can", "not"), and Chinese is cut into the longest words that the
    lexicon has, other characters standing alone. Cost: about 1 us a word.
    """
    return [token for word in _TOKEN.findall(text) for token in _split(word.lower())]


def _split(word: str) -> Iterator[str]:
    if HAN.search(word):
        at = 0
        for run in _HAN_RUN.finditer(word):
            if word[at : run.start()]:
                yield word[at : run.start()]
            yield from segment(run.group())
            at = run.end()
        if word[at:]:
            yield word[at:]
        return
    known = lexicon().contractions.get(word)
    if known:
        yield from known
    elif word.endswith("n't"):
        yield from (word[:-3], "not")
    else:
        yield word.partition("'")[0]


def segment(run: str) -> Iterator[str]:
    """Cut Chinese characters into words of the lexicon, longest first, from the left."""
    words, longest = lexicon().chinese, lexicon().longest_chinese
    at = 0
    while at < len(run):
        size = next(
            (n for n in range(min(longest, len(run) - at), 1, -1) if run[at : at + n] in words),
            1,
        )
        yield run[at : at + size]
        at += size
