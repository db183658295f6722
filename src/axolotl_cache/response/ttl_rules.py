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
    moment = _REALTIME.search(facts.text)
    if moment:
        return REALTIME, f"the question says {_named(moment[0])!r}"
    if facts.tools:
        return DYNAMIC, "the request has tools"
    if facts.is_personal:
        return DYNAMIC, "it belongs to a session, a principal or an entity"
    passing = _DYNAMIC.search(facts.text)
    if passing:
        return DYNAMIC, f"the question says {_named(passing[0])!r}"
    return "", ""


def _named(words: str) -> str:
    """Return the words that were found; of several, the first and the last: what is between is the user's."""
    first, *others = words.lower().split()
    return f"{first} ... {others[-1]}" if len(others) > 1 else words.lower()


_MEASURED: Final = (
    r"prices?|rates?|weather|temperature|scores?|status|time|traffic|balance|availability|version|events?|news|"
    r"exchange rates?|stock|standings|results?"
)
_REALTIME: Final = re.compile(
    "|".join(
        [
            r"\b(?:right now|at the moment|at present|currently|as of (?:now|today)|just now|so far today)\b",
            r"\b(?:latest|today(?:['’]s)?|tonight(?:['’]s)?|this (?:morning|afternoon|evening))\b",
            rf"\bcurrent (?:\w+ )?(?:{_MEASURED})\b",
            # Not "where do you live": what is live must be something that is shown or measured.
            rf"\blive (?:{_MEASURED}|data|feeds?|streams?|updates?|coverage|quotes?)\b",
            r"\b(?:what time is it|what(?:['’]s| is) the time|what day is it|breaking news)\b",
            rf"\b(?:{_MEASURED})\b[^.?!]{{0,40}}\bnow\b",
            # 现在完成时 and 现在进行时 are tenses, 当前目录 is a folder.
            r"现在(?!完成|进行|分词|时态)|現在(?!完成|進行|分詞|時態)|目前|此刻|实时|實時|即时|最新|刚刚|剛剛|眼下",
            r"当前(?!目录|文件|行|页|用户|窗口)|當前(?!目錄|文件|檔案|行|頁|用戶|視窗)",
            r"今天|今日|今晚|今早|今晨|几点了|幾點了|几点钟了|今儿",
        ]
    ),
    re.IGNORECASE,
)
_DYNAMIC: Final = re.compile(
    "|".join(
        [
            r"\b(?:schedules?|timetables?|opening hours|business hours|in stock|out of stock|availability)\b",
            r"\bmy (?:balance|account|orders?|parcel|package|delivery|shipment|invoice|bill|appointment)\b",
            r"\b(?:this|next) (?:week|month|weekend)\b|\b(?:tomorrow|yesterday)\b",
            r"有货|有貨|库存|庫存|营业时间|營業時間|余额|餘額|我的(?:订单|訂單|账户|帳戶|快递|包裹)|订单状态|訂單狀態",
            r"时刻表|時刻表|排期|本周|本月|下周|下个月|明天|昨天",
        ]
    ),
    re.IGNORECASE,
)
