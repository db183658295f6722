"""Which kinds a sentence can be about, by its verbs and attributes: only parcels and flights arrive."""

from __future__ import annotations

import re

from axolotl_cache.entities.found import any_of

_HINTS = tuple(
    (re.compile(rf"\b(?:{english})|{chinese}"), frozenset(kinds.split()))
    for english, chinese, kinds in (
        (
            any_of(
                "arriv deliver ships shipped shipping dispatch sent courier in_transit",
                "on_its_way signed eta\\b",
            ),
            r"到货|送到|送达|到哪|发货|发出|签收|派送|物流|配送|到了吗|催|(?:什么时候|何时|几时|多久|几号|哪天)[^，。,.]{0,4}到",
            "order tracking product flight card",
        ),
        (
            any_of("cancel chang modif rebook confirm"),
            "取消|更改|改签|改到|改成|修改",
            "order reservation flight",
        ),
        (
            any_of("refund return exchange replac invoice receipt"),
            "退款|退货|退了|退掉|换货|发票|补发",
            "order reservation amount product",
        ),
        (
            any_of("block freez unlock unblock activat log_in login password balance expir"),
            "冻结|解锁|解冻|挂失|激活|登录|密码|余额|额度",
            "card account user",
        ),
        (
            any_of("bag luggage passenger seat upgrad business_class economy check_in night guest breakfast"),
            "行李|升舱|座位|乘客|入住|退房|早餐|值机",
            "reservation flight",
        ),
        (
            any_of("in_stock available restock batter size colo warranty include"),
            "有货|补货|尺码|颜色|保修|电池|库存",
            "product order",
        ),
        (any_of("call\\b dial text\\b ring\\b"), "打给|拨打", "phone"),
        (any_of("open\\b click load\\b"), "打开|点开", "url"),
    )
)
_ATTRIBUTES = re.compile(
    r"\b(?:(?:delivery|shipping|order|tracking|current|latest) status|the status|eta|when will (?:you|i)"
    r"|(?:delivery|arrival) (?:date|time))\b"
    r"|(?:什么时候|何时|几时|多久|几号|哪天|能不能|可以|怎么)[^，。,.]{0,8}(?:到|发货|送达|退款|取消|签收|补发|发出|起飞)"
    r"|到哪里?了|物流|状态"
)


def kinds_hinted(low: str) -> frozenset[str]:
    """Return the kinds that the words of a text in small letters go with; empty if they say nothing."""
    found: frozenset[str] | None = None
    for pattern, kinds in _HINTS:
        if pattern.search(low):
            found = kinds if found is None else (found & kinds or found | kinds)
    return found or frozenset()


def implies(low: str) -> bool:
    """Return whether a short text asks for what only a thing can have, as "the delivery status"."""
    return len(low) <= 80 and bool(_ATTRIBUTES.search(low))
