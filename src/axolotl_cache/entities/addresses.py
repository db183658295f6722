"""URLs, e-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from axolotl_cache.entities.found import Found

_URL = re.compile(
    r"(?<![A-Za-z0-9@.])(?P<scheme>https?://|(?=www\.[A-Za-z0-9]))(?P<host>[A-Za-z0-9.-]{1,253}(?::\d{1,5})?)"
    r"(?P<path>[/?#][\w\-./?%&=+#~:@!$*',;()\[\]|]*+)?",
    re.IGNORECASE | re.ASCII,
)
# It begins where no character of it stands before, so that no run is read twice.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.+%-])[A-Za-z0-9_.+%-]{1,64}+@(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
_NANP = r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}"
_PHONE = re.compile(
    r"(?<![\w.,#/$+-])(?:"
    rf"(?P<us>{_NANP})"
    r"|(?P<mobile>(?:(?:\+|00)?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4})"
    r"|(?P<abroad>(?:\+|00)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6})"
    r"|(?P<line>\(?0\d{2,3}\)?[ -]\d{7,8}|[48]00[ -]\d{3}[ -]\d{4}|[48]00[ -]\d{4}[ -]\d{3})"
    r")(?!\w|[.,]\d|-\d)",
    re.ASCII,
)
_CUE = re.compile(
    r"(?:\b(?:phone|telephone|tel|mobile|cell|cellphone|fax|hotline|whatsapp|landline)(?: ?(?:number|no\.?|nr\.?|#))?"
    r"|\b(?:call|dial|text|ring|reach) (?:me|us|you|him|her|them)?(?: back)? ?(?:at|on)?"
    r"|电话(?:号码)?|電話(?:號碼)?|手机(?:号码?)?|手機(?:號碼?)?|座机|热线|传真|拨打|联系方式|致电)"
    r"\s*(?:is|was|are|:|=|为|是|改成|换成|到)?\s*",
    re.IGNORECASE,
)
_CUED = re.compile(r"\+?\(?\d(?:[ .()-]{0,2}\d){5,14}(?![\w-])", re.ASCII)


def urls(text: str) -> Iterator[Found]:
    """Yield URLs; scheme and host in small letters, what ends a sentence is not part of them."""
    if "://" not in text and "www." not in text.lower():
        return
    for match in _URL.finditer(text):
        host, path = match["host"].rstrip(".-"), match["path"] or ""
        if not match["path"] or host != match["host"]:
            path = ""
        kept = path.rstrip(".,;:!?'")
        while kept.endswith((")", "]")) and kept.count("(") + kept.count("[") < kept.count(")") + kept.count(
            "]"
        ):
            kept = kept[:-1].rstrip(".,;:!?'")
        if not host.strip(".-"):
            continue
        end = match.end("host") - (len(match["host"]) - len(host)) + len(kept)
        scheme = match["scheme"].lower() or "https://"
        yield Found("url", scheme + host.lower() + (kept if kept != "/" else ""), match.start(), end)


def emails(text: str) -> Iterator[Found]:
    """Yield e-mail addresses in small letters."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        whole = match.group()
        start = match.start() + len(whole) - len(whole.lstrip(".+%-"))
        if text[start] != "@":
            yield Found("email", text[start : match.end()].lower(), start, match.end())


def phones(text: str) -> Iterator[Found]:
    """Yield telephone numbers: a `+` and digits where the country is known, else digits."""
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if 7 <= len(digits) <= 15:
            yield Found("phone", _number(match, digits), match.start(), match.end())
    for cue in _CUE.finditer(text):
        cued = _CUED.match(text, cue.end())
        if cued:
            digits = re.sub(r"\D", "", cued.group())
            plus = "+" if cued.group().startswith("+") else ""
            yield Found("phone", plus + digits, cued.start(), cued.end())


def _number(match: re.Match[str], digits: str) -> str:
    if match["mobile"]:
        return "+86" + digits[-11:]
    if match["us"]:
        # 400 is no area of North America, and the hotlines of China begin with it.
        return digits if digits.startswith("400") else "+1" + digits[-10:]
    if match["abroad"]:
        return "+" + (digits[2:] if match.group().startswith("00") else digits)
    return digits
