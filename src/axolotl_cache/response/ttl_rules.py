"""For how long an answer may be served: decided by what was asked, by rule, and with its reason.

    the request's own ttl  >  the first written rule that fits  >  what is recognised  >  entry_timeout

Nothing here computes or guesses with a model. What is recognised wrongly as fleeting costs a hit; what is not
recognised is kept as long as any other answer, so that a rule is the way to be sure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final

from axolotl_cache.request import TtlDecision

if TYPE_CHECKING:
    from axolotl_cache.config import TtlRule, TtlRules

STATIC: Final = "static"
DYNAMIC: Final = "dynamic"
REALTIME: Final = "realtime"

ANY_TOOL: Final = "*"
"""In a rule: a request with any tool at all."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at."""

    text: str
    """The last message of the user, or the plain prompt."""
    tags: tuple[str, ...] = ()
    route: str = ""
    tools: tuple[str, ...] = ()
    """Names of the tools that the request offers, or that the answer calls."""
    is_personal: bool = False
    """Whether the request belongs to a session or a principal, or is about entities."""


class TtlPolicy:
    """Decides by the rules of one configuration.

    Args:
        rules: the `ttl_rules` block; None if there is none: then nothing is recognised, either.
        entry_timeout: seconds for whatever no rule is about; None is for ever.
    """

    def __init__(self, rules: TtlRules | None, entry_timeout: float | None) -> None:
        self._rules = rules
        self._default = TtlDecision(entry_timeout, "", "entry_timeout")
        self._patterns = [
            None if rule.pattern is None else re.compile(rule.pattern)
            for rule in (rules.rules if rules else ())
        ]

    def decide(self, facts: Facts, request_ttl: float | None = None) -> TtlDecision:
        """Return for how long an answer may be served. Cost: O(rules + text).

        Args:
            facts: of the request.
            request_ttl: the request's own TTL, in seconds.
        """
        if request_ttl is not None:
            return TtlDecision(request_ttl if isfinite(request_ttl) else None, "", "the request's own ttl")
        if self._rules is None:
            return self._default
        for number, rule in enumerate(self._rules.rules, 1):
            if self._fits(rule, self._patterns[number - 1], facts):
                return self._of_rule(rule, number)
        kind, why = recognise(facts)
        if not kind:
            return self._default
        return TtlDecision(self._of_kind(kind), kind, f"recognised: {why}")

    def _of_rule(self, rule: TtlRule, number: int) -> TtlDecision:
        given = {"tag": rule.tag, "route": rule.route, "pattern": rule.pattern, "tool": rule.tool}
        fits = ", ".join(f"{name} {value!r}" for name, value in given.items() if value is not None)
        ttl = rule.ttl if rule.kind is None else self._of_kind(rule.kind)
        return TtlDecision(ttl, rule.kind or "", f"rule {number} of ttl_rules: {fits}")

    def _of_kind(self, kind: str) -> float:
        if self._rules is None:
            raise ValueError("without ttl_rules there are no kinds")
        return {STATIC: self._rules.static, DYNAMIC: self._rules.dynamic, REALTIME: self._rules.realtime}[
            kind
        ]

    @staticmethod
    def _fits(rule: TtlRule, pattern: re.Pattern[str] | None, facts: Facts) -> bool:
        return (
            (rule.tag is None or rule.tag in facts.tags)
            and (rule.route is None or rule.route == facts.route)
            and (
                rule.tool is None or rule.tool in facts.tools or (rule.tool == ANY_TOOL and bool(facts.tools))
            )
            and (pattern is None or pattern.search(facts.text) is not None)
        )


def recognise(facts: Facts) -> tuple[str, str]:
    """Return a kind and why, or two empty texts. English and Chinese; `static` is never recognised."""
    text = facts.text.lower()
    moment = _found(text, _REALTIME, _REALTIME_ZH)
    if moment:
        return REALTIME, f"the question says {moment!r}"
    if facts.tools:
        return DYNAMIC, "the request has tools"
    if facts.is_personal:
        return DYNAMIC, "it belongs to a session, a principal or an entity"
    passing = _found(text, _DYNAMIC, _DYNAMIC_ZH)
    if passing:
        return DYNAMIC, f"the question says {passing!r}"
    return "", ""


def _found(text: str, english: re.Pattern[str], chinese: re.Pattern[str]) -> str:
    """Return the words that were found; of several, the first and the last: what is between is the user's."""
    match = english.search(text) or (None if text.isascii() else chinese.search(text))
    words = match[0].split() if match else []
    return f"{words[0]} ... {words[-1]}" if len(words) > 2 else " ".join(words)


# All alternatives of a language begin at one word boundary: several times as quick as one for each.
_MEASURED: Final = (
    r"(?:prices?|(?:exchange )?rates?|weather|temperature|scores?|status|time|traffic|balance|availability|"
    r"version|events?|news|stock|standings|results?)"
)
_REALTIME: Final = re.compile(
    r"\b(?:"
    r"right now|at the moment|at present|currently|as of (?:now|today)|just now|so far today"
    r"|latest|today|tonight|this (?:morning|afternoon|evening)"
    rf"|current (?:\w+ )?{_MEASURED}"
    # Not "where do you live": what is live must be something that is shown or measured.
    rf"|live (?:{_MEASURED}|data|feeds?|streams?|updates?|coverage|quotes?)"
    r"|what (?:time|day) is it|breaking news|weather (?:in|at|for|like|forecast|outside)"
    r"|(?:what|how)(?:['’]?s| is) the (?:weather|temperature|traffic|time|date)"
    rf"|{_MEASURED}\b[^.?!]{{0,40}}\bnow"
    r")\b"
)
# 现在完成时 and 现在进行时 are tenses, 当前目录 is a folder.
_REALTIME_ZH: Final = re.compile(
    r"现在(?!完成|进行|分词|时态)|現在(?!完成|進行|分詞|時態)|目前|此刻|实时|實時|即时|最新|刚刚|剛剛|眼下"
    r"|当前(?!目录|文件|行|页|用户|窗口)|當前(?!目錄|文件|檔案|行|頁|用戶|視窗)"
    r"|今天|今日|今晚|今早|今晨|今儿|几点了|幾點了|几点钟了"
)
_DYNAMIC: Final = re.compile(
    r"\b(?:"
    r"schedules?|timetables?|opening hours|business hours|in stock|out of stock|availability"
    r"|my (?:balance|orders?|parcel|package|delivery|shipment|invoice|bill|appointment)"
    r"|(?:this|next) (?:week|month|weekend)|tomorrow|yesterday"
    r")\b"
)
_DYNAMIC_ZH: Final = re.compile(
    r"有货|有貨|库存|庫存|营业时间|營業時間|余额|餘額|我的(?:订单|訂單|账户|帳戶|快递|包裹)|订单状态|訂單狀態"
    r"|时刻表|時刻表|排期|本周|本月|下周|下个月|明天|昨天"
)
