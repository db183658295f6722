"""What a noun may name: "package" a tracking number, or else the order that is in it."""

from __future__ import annotations

from collections.abc import Mapping

_ANY_NUMBER = ("phone", "tracking", "order", "reservation", "account", "card")

ENGLISH: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("order", "purchase"), ("order",)),
    **dict.fromkeys(("package", "parcel", "shipment"), ("tracking", "order")),
    **dict.fromkeys(("tracking number", "tracking"), ("tracking",)),
    **dict.fromkeys(("reservation", "booking", "itinerary"), ("reservation",)),
    "trip": ("reservation", "flight"),
    "flight": ("flight", "reservation"),
    **dict.fromkeys(("card", "credit card", "debit card"), ("card",)),
    "account": ("account",),
    **dict.fromkeys(("user id", "username"), ("user",)),
    **dict.fromkeys(("product", "item", "article", "model"), ("product",)),
    **dict.fromkeys(("link", "website", "page", "url"), ("url",)),
    **dict.fromkeys(("email", "e-mail", "email address", "address"), ("email",)),
    **dict.fromkeys(("phone", "phone number"), ("phone",)),
    "number": _ANY_NUMBER,
    **dict.fromkeys(("date", "day"), ("date",)),
    **dict.fromkeys(("amount", "sum", "charge"), ("amount",)),
}
"""Noun to kinds, the likeliest first."""

CHINESE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("订单", "訂單", "单", "单子"), ("order",)),
    **dict.fromkeys(("包裹", "快递", "货"), ("tracking", "order")),
    **dict.fromkeys(("运单", "快递单"), ("tracking",)),
    **dict.fromkeys(("预订", "预定", "预约"), ("reservation",)),
    "行程": ("reservation", "flight"),
    **dict.fromkeys(("航班", "飞机"), ("flight", "reservation")),
    **dict.fromkeys(("信用卡", "银行卡", "储蓄卡", "卡"), ("card",)),
    **dict.fromkeys(("账号", "账户", "帐号", "帐户"), ("account",)),
    "会员号": ("user",),
    **dict.fromkeys(("商品", "产品"), ("product",)),
    "东西": ("product", "order"),
    **dict.fromkeys(("链接", "网址", "网页", "页面"), ("url",)),
    "邮箱": ("email",),
    **dict.fromkeys(("电话", "手机号"), ("phone",)),
    "号码": _ANY_NUMBER,
    "日期": ("date",),
    **dict.fromkeys(("金额", "钱", "费用", "款项"), ("amount",)),
}

DEFINITE_ALONE = frozenset(
    {
        *("订单", "訂單", "包裹", "运单", "快递单", "预订", "预定", "预约", "行程", "航班"),
        *("信用卡", "银行卡", "账号", "账户", "帐号", "帐户", "商品", "产品", "链接", "网址"),
    }
)
"""Chinese has no article: these mean the known one where nothing says otherwise (订单呢?)."""
