"""URLs, e-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from axolotl_cache.entities.found import Found, Text, any_of

_URL = re.compile(
    r"(?P<scheme>https?://|www\.(?=[a-z0-9]))(?P<host>[a-z0-9.-]{1,253}(?::\d{1,5})?)"
    r"(?P<path>[/?#][\w\-./?%&=+#~:@!$*',;()\[\]|]*+)?",
    re.ASCII,
)
_EMAIL = re.compile(
    r"(?<![a-z0-9_.+%-])[a-z0-9_.+%-]{1,64}+@(?:[a-z0-9-]{1,63}+\.){1,8}[a-z]{2,24}(?![a-z0-9_-])"
)
_SENTENCE_ENDS = ".,;:!?'"
_AMERICAN = r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}"
_START = re.compile(r"[(+]{0,2}\d+", re.ASCII)
_NOT_BEFORE = frozenset("_.,#/$+-")
_PHONE = re.compile(
    rf"(?:(?P<american>{_AMERICAN})"
    r"|(?P<mobile>(?:(?:\+|00)?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4})"
    r"|(?P<abroad>(?:\+|00)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6})"
    r"|(?P<line>\(?0\d{2,3}\)?[ -]\d{7,8}|[48]00[ -]\d{3}[ -]\d{4}|[48]00[ -]\d{4}[ -]\d{3})"
    r")(?!\w|[.,]\d|-\d)",
    re.ASCII,
)
_PHONES = any_of("phone telephone tel mobile cell cellphone fax hotline whatsapp landline")
_CUE = re.compile(
    rf"(?:(?:{_PHONES})(?: ?(?:number|no\.?|nr\.?|#))?"
    r"|(?:call|dial|text|ring|reach)(?: (?:me|us|you|him|her|them))?(?: back)?(?: (?:at|on))?"
    r"|电话|電話|手机|手機|座机|热线|传真|拨打|联系方式|致电)(?:号码?|號碼?)?"
    r"\s*(?:is|was|are|:|=|为|是|改成|换成|到)?\s*"
)
_CUED = re.compile(r"\+?\(?\d(?:[ .()-]{0,2}\d){5,14}(?![\w-])", re.ASCII)


def urls(text: Text) -> Iterator[Found]:
    """Yield URLs; scheme and host in small letters, what ends a sentence is not part of them."""
    if "://" not in text.low and "www." not in text.low:
        return
    for match in _URL.finditer(text.low):
        before = text.low[match.start() - 1 : match.start()] if match.start() else " "
        host = match["host"].rstrip(".-")
        if not host or before in {"@", "."} or (before.isascii() and before.isalnum()):
            continue
        scheme = match["scheme"] if match["scheme"] != "www." else "https://www."
        path = _kept(text.whole[match.start("path") : match.end("path")]) if host == match["host"] else ""
        end = match.start("host") + len(host) + len(path)
        yield Found("url", scheme + host + ("" if path == "/" else path), match.start(), end)


def _kept(path: str) -> str:
    """Return the path without what ends the sentence or closes the bracket around it."""
    kept = path.rstrip(_SENTENCE_ENDS)
    for opened, closed in ("()", "[]"):
        # Once for each, so that a wall of brackets takes no longer than its length.
        excess = kept.count(closed) - kept.count(opened)
        if excess > 0 and kept.endswith(closed):
            ending = len(kept) - len(kept.rstrip(closed))
            kept = kept[: len(kept) - min(excess, ending)].rstrip(_SENTENCE_ENDS)
    return kept


def emails(text: Text) -> Iterator[Found]:
    """Yield e-mail addresses in small letters."""
    if "@" not in text.low:
        return
    for match in _EMAIL.finditer(text.low):
        whole = match.group().lstrip(".+%-")
        if not whole.startswith("@"):
            yield Found("email", whole, match.end() - len(whole), match.end())


def phones(text: Text) -> Iterator[Found]:
    """Yield telephone numbers: a `+` and digits where the country is known, else digits."""
    for start in _START.finditer(text.whole):
        before = text.whole[start.start() - 1 : start.start()]
        if before in _NOT_BEFORE or (before.isascii() and before.isalnum()):
            continue
        match = _PHONE.match(text.whole, start.start())
        if match:
            digits = re.sub(r"\D", "", match.group())
            if 7 <= len(digits) <= 15:
                yield Found("phone", _number(match, digits), match.start(), match.end())
    for cue in _CUE.finditer(text.low):
        cued = _CUED.match(text.whole, cue.end())
        if cued and not _is_inside_a_word(text.low, cue):
            plus = "+" if cued.group().startswith("+") else ""
            yield Found("phone", plus + re.sub(r"\D", "", cued.group()), cued.start(), cued.end())


def _is_inside_a_word(low: str, cue: re.Match[str]) -> bool:
    before = low[cue.start() - 1 : cue.start()]
    return before.isascii() and before.isalnum() and cue.group()[0].isascii()


def _number(match: re.Match[str], digits: str) -> str:
    if match["mobile"]:
        return "+86" + digits[-11:]
    if match["american"]:
        # 400 is no area of North America, and the hotlines of China begin with it.
        return digits if digits.startswith("400") else "+1" + digits[-10:]
    if match["abroad"]:
        return "+" + (digits[2:] if match.group().startswith("00") else digits)
    return digits
