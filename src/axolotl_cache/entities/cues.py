"""The words that announce a code: "order", "booking reference", 快递单号. Written by hand."""

from __future__ import annotations

import re

from axolotl_cache.entities.found import any_of

_CUES = {
    "tracking": "tracking track waybill shipment parcel package consignment usps ups fedex dhl "
    "快递 快递单 快遞 快遞單 运单 運單 物流 物流单 包裹 包裹单 顺丰 顺丰快递 顺丰单 圆通 圆通快递 中通 "
    "中通快递 申通 韵达 京东快递 ems单",
    "user": "user users customer customers member members membership client loyalty passenger "
    "会员 会员卡 會員 用户 用戶 客户 客戶",
    "account": "account accounts acct acct. a/c "
    "账号 帐号 賬號 帳號 账户 帐户 賬戶 帳戶 账戶 银行账号 银行帐号 银行账户 银行帐户",
    "reservation": "reservation reservations booking bookings confirmation pnr record_locator itinerary "
    "预订 预定 预约 預訂 預定 預約 确认 確認 订座 订位 訂位",
    "flight": "flight flights 航班",
    "product": "sku upc ean asin product products item items article articles part parts model models "
    "商品 货 貨 产品 產品 型 款 料",
    "order": "order orders purchase_order purchase_orders po 订单 訂單 单 單",
}
KIND_OF = {word.replace("_", " "): kind for kind, words in _CUES.items() for word in words.split()}
"""A cue in small letters to the kind that it announces."""
CUE = re.compile("|".join(re.escape(word) for word in sorted(KIND_OF, key=len, reverse=True)))
"""On small letters. Whether it stands alone is for the caller to see."""
SURE = frozenset({"sku", "upc", "ean", "asin", "pnr", "confirmation"})
"""They need no "number" behind them."""
ONLY_WITH_NUMBER = frozenset({"user", "product"})
"""Kinds whose words say nothing unless "number", "ID" or the like follows."""
NOT_BEFORE_HAN_ORDER = frozenset("快运流訂運递裹货s下每这那")
NUMBER = re.compile(
    r",?[ -]?(?:(?:number|reference|code)s?|(?:num|no|nr|id|ref)s?\b\.?|[#№])"
    r"|\s?[(（]?(?:编?[号號]码?|編號|编码|代码|单号|單號|号码|名(?!称|字|单)|码)"
)
"""What makes a cue sure, right behind it."""
_VERBS = any_of("is was are were as of with being reads says should_be must_be would_be might_be will_be")
LINK = re.compile(
    r"(?:'s\s)?\s{0,2}"
    rf"(?:(?:{_VERBS})\s{{1,2}}(?:the |an? )?(?:number |id |code )?"
    r"|[:=(\[\"'「【]\s{0,2}|-\s|(?:是|为|為|叫|有)[:=]?\s{0,2}"
    r"|,\s{0,2}(?=#|[a-z]{0,6}\d{3}))?"
    r"\s{0,2}[\"'(「【\[]?#?\s?"
)
"""What may stand between a cue and its code."""
FAR_LINK = re.compile(r",?(?: [a-z']{1,12}){1,5} (?:is|was|:) #?(?=[a-z-]*\d)|, (?=[a-z]*\d|[a-z]{6}\b)")
"""The same behind a sure cue: "the article number on the box is"."""
NEXT = re.compile(
    r"\s{0,2}(?:,\s{0,2}(?:and|or|&)?|and|or|&|\+|/|、|和|与|與|及|以及|跟|或者?|还有)\s{0,2}#?"
)
"""Between two codes of a list."""
GOES_ON = re.compile(r"[.:/]\d|,\d{3}(?!\d)", re.ASCII)
"""Behind digits: they are part of a longer number or a time."""
_UNITS = any_of(
    "dollar dollars euro euros pound pounds usd eur gbp cny rmb times time day days week weeks month months",
    "year years hour hours minute minutes hrs mins km miles people persons pieces pcs unit units",
    "passengers points percent kg gb mb more or_more am pm",
)
QUANTITY = re.compile(
    r"\s{0,2}(?:%|个|件|元|块|份|笔|条|张|天|次(?!航)|人|年|月|岁|小时|分钟|多|万|米|公里|美元|箱|台|套|双|公斤|单"
    rf"|(?:{_UNITS})\b)"
)
"""Behind digits: they count something."""
_ASKS = any_of(
    "to can_i could_i may_i i we you they please would will shall must should want let_me let_us not never"
)
VERB_BEFORE = re.compile(rf"(?:\b(?:{_ASKS}|let's)|'ll|'d|n't)\s+(?:like to\s+|also\s+|just\s+)?$")
"""Before "order": it is a verb."""
_VERBS_IN_S = any_of("is was has this does its as plus always yes says shows ships arrives needs gets seems")
NOUN_BEHIND = re.compile(rf"\s+(?!(?:{_VERBS_IN_S})\b)[a-z]{{2,}}s\b")
"""Behind digits: a plural, which they may count."""
NO_LOCATOR = frozenset(
    {
        "please",
        "number",
        "status",
        "system",
        "office",
        "online",
        "agents",
        "thanks",
        "change",
        "cancel",
        "refund",
    }
    | {"ticket", "really", "should", "passed", "failed", "update"}
)
"""Words of six letters, in capitals as likely as any record locator."""
