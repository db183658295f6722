"""Which kinds a sentence can be about, by its verbs and attributes: only parcels and flights arrive."""

from __future__ import annotations

import re

_HINTS = tuple(
    (re.compile(pattern, re.IGNORECASE), frozenset(kinds.split()))
    for pattern, kinds in (
        (
            r"\b(?:arriv\w*|deliver\w*|ship(?:s|ped|ping)?|dispatch\w*|sent|courier|in transit|on its way|signed|eta)\b"
            r"|到货|送到|送达|到哪|发货|发出|签收|派送|物流|配送|什么时候到|何时到|几时到|到了吗|催",
            "order tracking product flight card",
        ),
        (
            r"\b(?:cancel\w*|chang\w*|modif\w*|rebook\w*|confirm\w*)\b|取消|更改|改签|改到|改成|修改",
            "order reservation flight",
        ),
        (
            r"\b(?:refund\w*|return(?:ed|ing)?|exchange|replace\w*|invoice|receipt)\b|退款|退货|退了|退掉|换货|发票|补发",
            "order reservation amount product",
        ),
        (
            r"\b(?:block\w*|freez\w*|unlock\w*|unblock\w*|activat\w*|log ?in|password|balance|expir\w*)\b|冻结|解锁|解冻|挂失|激活|登录|密码|余额|额度",
            "card account user",
        ),
        (
            r"\b(?:bags?|luggage|passengers?|seats?|upgrade\w*|business class|economy|check ?in|nights?|guests?|breakfast)\b|行李|升舱|座位|乘客|入住|退房|早餐|值机",
            "reservation flight",
        ),
        (
            r"\b(?:in stock|available|restock\w*|batter(?:y|ies)|size|colou?r|warranty|include)\b|有货|补货|尺码|颜色|保修|电池|库存",
            "product order",
        ),
        (r"\b(?:call|dial|text|ring)\b|打给|拨打", "phone"),
        (r"\b(?:open|click|load)\b|打开|点开", "url"),
    )
)
_ATTRIBUTES = re.compile(
    r"\b(?:delivery|shipping|order|tracking|current|latest)? ?status\b|\bwhen will (?:you|i)\b|\b(?:delivery|arrival) (?:date|time)\b|\beta\b"
    r"|^(?:什么时候|何时|几时|现在|那|那么|请问|多久)?(?:什么时候|何时|多久|能|可以|到哪|怎么)[^，。]{0,8}(?:到|发货|送达|退款|取消|签收|补发|发出|起飞)"
    r"|到哪里?了|物流(?:状态|信息)?(?:呢|怎么样|如何)|状态",
    re.IGNORECASE,
)


def kinds_hinted(text: str) -> frozenset[str]:
    """Return the kinds that the words of a text go with; empty if they say nothing."""
    found: frozenset[str] | None = None
    for pattern, kinds in _HINTS:
        if pattern.search(text):
            found = kinds if found is None else (found & kinds or found | kinds)
    return found or frozenset()


def implies(text: str) -> bool:
    """Return whether a text asks for something that only something can have, as "the delivery status"."""
    return len(text) <= 80 and bool(_ATTRIBUTES.search(text))
