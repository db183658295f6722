"""For how long: the request, then a written rule, then what is recognised, then entry_timeout."""

import math

import pytest

from axolotl_cache.config import TtlRule, TtlRules
from axolotl_cache.request import TtlDecision
from axolotl_cache.response.ttl_rules import Facts, TtlPolicy, recognise

HOUR = 3600.0
WEATHER = Facts("Right now, what is the weather?")


def decide(facts, *rules, ttl=None, **kinds):
    block = TtlRules(rules=tuple(TtlRule(**rule) for rule in rules), **kinds)
    return TtlPolicy(block, 1800).decide(facts, ttl)


def test_without_a_block_everything_is_kept_for_the_entry_timeout():
    assert TtlPolicy(None, 1800).decide(WEATHER) == TtlDecision(1800, "", "entry_timeout")
    assert TtlPolicy(None, None).decide(WEATHER).ttl_seconds is None


def test_the_kinds_have_their_times():
    assert decide(Facts("q", tags=("faq",)), {"tag": "faq", "kind": "static"}).ttl_seconds == 48 * HOUR
    assert decide(Facts("q"), {"pattern": "q", "kind": "dynamic"}).ttl_seconds == 3 * HOUR
    assert decide(WEATHER) == TtlDecision(0.0, "realtime", "recognised: the question says 'right now'")
    assert decide(WEATHER, realtime=30.0).ttl_seconds == 30
    assert decide(Facts("What is a loan?")) == TtlDecision(1800, "", "entry_timeout")


def test_who_wins():
    rule = {"pattern": "weather", "ttl": 60.0}
    assert decide(WEATHER, rule, ttl=5.0) == TtlDecision(5, "", "the request's own ttl")
    assert decide(WEATHER, rule, ttl=math.inf).ttl_seconds is None
    assert decide(WEATHER, rule) == TtlDecision(60.0, "", "rule 1 of ttl_rules: pattern 'weather'")
    assert decide(WEATHER, {"pattern": "rain", "ttl": 60.0}).kind == "realtime"
    assert decide(WEATHER, rule, {"pattern": "weather", "kind": "static"}).ttl_seconds == 60, (
        "the first that fits"
    )


@pytest.mark.parametrize(
    ("rule", "fits", "fits_not"),
    [
        ({"tag": "faq"}, Facts("", tags=("a", "faq")), Facts("faq", tags=("faqs",))),
        ({"route": "/v1/x"}, Facts("", route="/v1/x"), Facts("", route="/v1/x/y")),
        ({"pattern": "rate|价格"}, Facts("现在价格"), Facts("Rate")),
        ({"tool": "search"}, Facts("", tools=("search", "b")), Facts("search", tools=("b",))),
        ({"tool": "*"}, Facts("", tools=("b",)), Facts("")),
        ({"tag": "a", "pattern": "b"}, Facts("b", tags=("a",)), Facts("b")),
    ],
)
def test_a_rule_fits_when_all_that_it_has_is_met(rule, fits, fits_not):
    assert decide(fits, {**rule, "ttl": 7.0}).ttl_seconds == 7
    assert decide(fits_not, {**rule, "ttl": 7.0}).ttl_seconds != 7


@pytest.mark.parametrize(
    "text",
    [
        "What's the weather right now?",
        "Who is currently the mayor?",
        "What is today's menu?",
        "the latest news on rates",
        "What time is it in Tokyo?",
        "Give me the current exchange rate of the euro",
        "live score of the match",
        "What is the price of gold now?",
        "as of now, how many are there",
        "What happened this morning?",
        "whats the weather like in Oslo",
        "What's the date?",
        "现在几点了？",
        "今天天气怎么样？",
        "目前的汇率是多少？",
        "当前价格是多少",
        "最新的新闻",
        "實時匯率",
        "他刚刚说了什么",
    ],
)
def test_what_holds_for_the_moment_only_is_recognised(text):
    assert recognise(Facts(text))[0] == "realtime"


@pytest.mark.parametrize(
    "text",
    [
        "Where do you live?",
        "What is alternating current?",
        "What is the current directory for?",
        "Now explain the Pythagorean theorem.",
        "How do I write a livestream title",
        "The present perfect tense",
        "什么是现在完成时？",
        "当前目录是什么意思？",
        "解释勾股定理",
        "",
    ],
)
def test_what_holds_for_longer_is_not_taken_for_it(text):
    assert recognise(Facts(text)) == ("", "")


@pytest.mark.parametrize(
    "facts",
    [
        Facts("What are your opening hours?"),
        Facts("Is the lamp in stock?"),
        Facts("Where is my parcel?"),
        Facts("营业时间是几点到几点？"),
        Facts("这个有货吗"),
        Facts("我的订单到哪里了"),
        Facts("Explain this.", tools=("search",)),
        Facts("Explain this.", is_personal=True),
    ],
)
def test_what_changes_within_hours_is_recognised(facts):
    assert decide(facts).kind == "dynamic"
    assert decide(facts).ttl_seconds == 3 * HOUR


def test_the_reason_has_no_more_of_the_question_than_the_words_that_were_found():
    why = decide(Facts("What is the price of the ring for my secret love now?")).why
    assert why == "recognised: the question says 'price ... now'"
