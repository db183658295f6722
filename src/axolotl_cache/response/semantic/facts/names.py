"""What is named: ids, addresses, people, places, products, languages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from axolotl_cache.response.semantic.facts.numbers import TAKEN
from axolotl_cache.response.semantic.lexicon import lexicon

_CODE = re.compile(r"`([^`\n]+)`")
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\"'，。]+", re.IGNORECASE)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PATH = re.compile(r"(?<![\w/])(?:~|\.{1,2})?/(?:[\w.-]+/)*[\w.-]+")
_PHONE = re.compile(r"(?<!\w)\+\d[\d ()-]{6,}\d|(?<!\w)\d{3,4}[- ]\d{3,4}[- ]\d{3,4}(?: \d{4})?(?!\w)")
_VERSION = re.compile(r"(?<![\w.])v?(\d+(?:\.\d+){2,}|(?<=v)\d+(?:\.\d+)*)(?![\w])", re.IGNORECASE)
_MIXED = re.compile(
    r"(?<![\w.])#?(?=[\w-]*[A-Za-z])(?=[\w-]*\d)[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?(?![\w])", re.ASCII
)
_ORDINARY = re.compile(
    r"\d+(?:st|nd|rd|th|s|k|m|bn|x|am|pm|h|hr|hrs|min|mins|sec|g|kg|mg|lb|lbs|oz|km|cm|mm|ft|mi|ml|l|gb|mb|kb|tb|w|kw"
    r"|kwh|v|px|mph|usd|eur|gbp|mbps|gbps)|q[1-4]|\d+-[a-z]+(?:-[a-z]+)*|[a-z]{2,}-?\d{1,2}|\d+x\d+|(?:19|20)\d\ds",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"([^\"]{2,60})\"|「([^」]{1,40})」|《([^》]{1,40})》|『([^』]{1,40})』")
_CAPITALISED = re.compile(r"(?<![\w'])(?:[A-Z][\w&]*|[a-z]+[A-Z]\w*)(?:[ -](?:[A-Z][\w&]*|of(?= [A-Z])))*")
_ANSWER_LANGUAGE = re.compile(r"\b(?:in|into|to) ([a-z]+)\b")
_ANSWER_LANGUAGE_ZH = re.compile(
    r"(?:用|翻译成|译成|成)(英文|英语|中文|汉语|法语|法文|德语|德文|日语|日文|韩语|韩文|西班牙语|俄语|俄文)"
)


def take_ids(text: str) -> tuple[frozenset[str], str]:
    """Return identifiers, addresses, paths, phone numbers and versions, and the text without them.

    Case counts where it is mixed ("aB3x9"), and not where a user may have typed all of it in one.
    """
    found = set()

    def put(match: re.Match[str]) -> str:
        whole = match.group().strip("` ").rstrip(".,;:!?")
        found.add(whole.lower() if whole.islower() or whole.isupper() else whole)
        return TAKEN

    def lower(match: re.Match[str]) -> str:
        found.add(match.group().lower().rstrip("/.,;:!?"))
        return TAKEN

    def digits(match: re.Match[str]) -> str:
        found.add(re.sub(r"\D", "", match.group()))
        return TAKEN

    def version(match: re.Match[str]) -> str:
        found.add("v" + match[1])
        return TAKEN

    def mixed(match: re.Match[str]) -> str:
        whole = match.group().lstrip("#")
        if _ORDINARY.fullmatch(whole):
            return match.group()
        found.add(whole.lower() if not (re.search("[a-z]", whole) and re.search("[A-Z]", whole)) else whole)
        return TAKEN

    for pattern, action in ((_CODE, put), (_URL, lower), (_EMAIL, lower)):
        text = pattern.sub(action, text)
    if any(character.isdigit() for character in text):
        for pattern, action in ((_PHONE, digits), (_VERSION, version), (_MIXED, mixed)):
            text = pattern.sub(action, text)
        text = re.sub(r"#(?=\d)", " ", text)
        text = re.sub(r"\b([A-Za-z]{2,})-?(\d{1,2})\b", r"\1 \2", text)
    text = _PATH.sub(put, text)
    return frozenset(found), text


def entities_of(text: str, tokens: Sequence[str]) -> frozenset[str]:
    """Return the names in a text: known ones, quoted ones, and capitalised words inside sentences.

    Args:
        text: with its capitals, without ids, dates and numbers.
        tokens: its words in lower case.
    """
    lists = lexicon()
    found = {name for _, _, name in lists.entities.find(tokens)}
    gazetteer = {token for start, end, _ in lists.entities.find(tokens) for token in tokens[start:end]}
    for match in _QUOTED.finditer(text):
        found.add(" ".join(next(group for group in match.groups() if group).lower().split()))
    words = re.findall(r"[^\W\d_]+", text)
    capitals = sum(word[0].isupper() for word in words)
    if words and capitals <= 0.6 * len(words):
        for match in _CAPITALISED.finditer(text):
            found |= _names(match, text, gazetteer)
    if any("一" <= character <= "鿿" for character in text):
        found |= _chinese_names(text)
    return frozenset(found)


def _names(match: re.Match[str], text: str, known: set[str]) -> set[str]:
    """Return the names in a run of capitalised words; a sentence's first word is capital anyway."""
    lists = lexicon()
    run = [
        w
        for w in re.findall(r"[\w&]+", match.group())
        if w.lower() not in lists.capitalised_words and w != "of"
    ]
    before = text[: match.start()].rstrip()
    starts = not before or before[-1] in ".?!:\n"
    if starts and run and not (run[0].isupper() and len(run[0]) > 1) and not re.search(r"[a-z][A-Z]", run[0]):
        first = match.group().split()[0].lower()
        if run[0].lower() == first:
            run = run[1:]
    return {word.lower() for word in run if word.lower() not in known and len(word) > 1}


def _chinese_names(text: str) -> set[str]:
    zh = lexicon().chinese_data
    people = rf"([{zh['surname']}][一-鿿]{{0,2}}?)(?:{'|'.join(zh['titles'])})"
    found = {match[1] for match in re.finditer(people, text)}
    places = r"([一-鿿]{2,3}(?:省|市|县|大学|医院|机场))"
    found |= {m[1] for m in re.finditer(places, text) if not re.search(r"[的在去到哪那这个了吗是有一]", m[1])}
    return found


def answer_languages(tokens: Sequence[str], text: str) -> frozenset[str]:
    """Return the languages in which an answer, or a translation, is asked for."""
    lists = lexicon()
    joined = " ".join(tokens)
    found = {m[1] for m in _ANSWER_LANGUAGE.finditer(joined) if m[1] in lists.languages}
    found |= {name for m in _ANSWER_LANGUAGE_ZH.finditer(text) for _, _, name in lists.entities.find([m[1]])}
    return frozenset(found)
