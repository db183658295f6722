"""Payment cards: never in the clear."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from hashlib import sha256

from axolotl_cache.entities.found import Found, Text, any_of

_NUMBER = re.compile(r"\d(?<![A-Za-z0-9.,_#-].)(?:[ -]?\d){12,18}(?![A-Za-z0-9_]|[ -]?\d)", re.ASCII)
_CARDS = any_of(
    "card cards visa visas mastercard master_card amex american_express maestro discover unionpay"
)
_CUE = re.compile(
    rf"(?:(?:{_CARDS})(?![a-z])(?: ?(?:number|no\.?|nr\.?|#))?"
    r"|(?:卡号|卡號|银行卡|信用卡|储蓄卡|借记卡|银联卡)(?:号码?)?)"
    r"\s*(?:is|was|是|为|:|=|\()?\s*"
)
_LAST = re.compile(
    r"(?:(?:ending|ends|ended|end)(?: (?:in|with|on))?(?: the)?(?: digits| numbers?)?:?\s?"
    r"|last (?:four|4)(?: digits| numbers?)?(?: (?:of|on|for) (?:my|the|this|that)(?: \w{1,12}){0,3})?"
    r"(?: (?:are|is|being)|:)?\s?"
    r"|(?:尾号|尾號|(?:后|末|最后)(?:四|4)位(?:数字?|号码)?)\s?(?:为|是|:)?\s?"
    r"|[*•·]{2,16}[ -]?|x{2,16}[ -]?)"
    r"(?P<four>\d{4})(?![\w%]|[.,]\d|-\d)",
    re.ASCII,
)
_BEFORE_CARD = re.compile(rf"(?<=my )(?P<four>\d{{4}})(?= (?:{_CARDS})(?![a-z]))", re.ASCII)
_FOUR = re.compile(r"\d{4}(?:-[0-9a-f]{16})?(?![\w%-]|[.,]\d| \d)", re.ASCII)
_COUNTED = re.compile(rf"\s?(?:(?:{any_of('dollar dollars euro euros usd eur times points')})|元|块)")
_OTHER = re.compile(
    r"(?:phone|mobile|tel|account|ssn|passport|order|手机|电话|账号|账户|订单|身份证)[^.,;。]{0,24}$"
)


class Cards:
    """Finds cards, and gives them a form from which nobody can get the number.

    The last four digits are what anybody may see. Many cards share them, so with a key the value also has a
    digest that tells these apart. A digest without a key would give the number away: the issuer's digits are
    public, the last four stand beside it, and one more is a check digit, so that some 100,000 guesses do.

    Args:
        key: a secret of at least 16 bytes, the same in every process that is to know a card again; None
            leaves the digest out.
    """

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) < 16:
            raise ValueError("the key for cards must have 16 bytes or more, from secrets.token_bytes for one")
        self._key = key

    def announced(self, text: Text) -> Iterator[Found]:
        """Yield whole card numbers that a word like "card" announces, whatever their check digit."""
        for cue in _CUE.finditer(text.low):
            match = _NUMBER.match(text.low, cue.end())
            if match:
                yield self._found(match)

    def numbers(self, text: Text) -> Iterator[Found]:
        """Yield whole card numbers that nothing announces, and whose check digit is right."""
        for match in _NUMBER.finditer(text.low):
            if match.group()[0] in "23456" and passes_luhn(_digits(match)):
                yield self._found(match)

    def endings(self, text: Text) -> Iterator[Found]:
        """Yield cards of which only the last four digits are said."""
        low = text.low
        for match in (*_LAST.finditer(low), *_BEFORE_CARD.finditer(low)):
            if not _OTHER.search(low, max(0, match.start() - 40), match.start()):
                yield Found("card", match["four"], match.start("four"), match.end("four"))
        for cue in _CUE.finditer(low):
            four = _FOUR.match(low, cue.end())
            if four and not _COUNTED.match(low, four.end()):
                yield Found("card", four.group(), four.start(), four.end())

    def _found(self, match: re.Match[str]) -> Found:
        digits = _digits(match)
        value = digits[-4:]
        if self._key is not None:
            value += f"-{hmac.digest(self._key, b'card ' + digits.encode(), sha256).hex()[:16]}"
        return Found("card", value, match.start(), match.end())


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match.group())


def passes_luhn(digits: str) -> bool:
    """Return whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
