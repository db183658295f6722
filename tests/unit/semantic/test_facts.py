"""What is found in a text, in both languages."""

import pytest

from axolotl_cache.language.numerals import chinese_value
from axolotl_cache.response.semantic.facts.extract import extract
from axolotl_cache.response.semantic.text import language_of, normalise, tokens


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a flat with 2 rooms", {"2"}),
        ("a two-bed flat", {"2"}),
        ("twenty-five users", {"25"}),
        ("three hundred guests", {"300"}),
        ("1,500 users", {"1500"}),
        ("1,5 litres of something else 1,5", {"1.5"}),
        ("a dozen eggs", {"12"}),
        ("no one can tell me which one, one day", set()),
        ("room 3 of house 4", {"3", "4"}),
        ("a couple of users", set()),
        ("open 24/7", set()),
        ("World War II", {"2"}),
        ("１２ 人", {"12"}),
        ("三个房间", {"3"}),
        ("一百二十五人", {"125"}),
        ("两万个用户", {"20000"}),
        ("我十分喜欢这个三明治，千万别删", set()),
        ("一下 一些 一样 一直 万一", set()),
        ("第三章", {"3"}),
    ],
)
def test_numbers(text: str, numbers: set[str]) -> None:
    assert extract(text).numbers == numbers


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("二零二四", 2024),
        ("十", 10),
        ("二十三", 23),
        ("一百零五", 105),
        ("三千二百万", 32_000_000),
        ("一亿两千万", 120_000_000),
        ("二十万亿", 20 * 10**12),
        ("廿五", 25),
    ],
)
def test_chinese_numerals(numeral: str, value: int) -> None:
    assert chinese_value(numeral) == value


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("$50", {"50 $"}),
        ("50 dollars", {"50 $"}),
        ("€1,200.50", {"1200.5 EUR"}),
        ("5k euros", {"5000 EUR"}),
        ("24 hours", {"86400 time"}),
        ("1 day", {"86400 time"}),
        ("a fortnight of 2 weeks", {"1209600 time"}),
        ("12 months", {"12 months"}),
        ("1 kg", {"1000 mass"}),
        ("1000 grams", {"1000 mass"}),
        ("20 percent", {"20 percent"}),
        ("20%", {"20 percent"}),
        ("half an hour", {"1800 time"}),
        ("16GB", {"16000000000 data"}),
        ("五百元", {"500 CNY"}),
        ("500块", {"500 CNY"}),
        ("三个月", {"3 months"}),
        ("两斤", {"1000 mass"}),
        ("百分之二十", {"20 percent"}),
        ("三成", {"30 percent"}),
        ("半小时", {"1800 time"}),
        ("一个半小时", {"5400 time"}),
    ],
)
def test_amounts(text: str, amounts: set[str]) -> None:
    assert extract(text).amounts == amounts


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("on 3 Jan 2024", {"day:1-3", "year:2024"}),
        ("January 3rd", {"day:1-3"}),
        ("2024-01-03", {"day:1-3", "year:2024"}),
        ("on 3/1", {"slashed:3/1"}),
        ("at 3pm", {"time:15:00"}),
        ("at 15:00", {"time:15:00"}),
        ("at 3:30 p.m.", {"time:15:30"}),
        ("at noon", {"time:12:00"}),
        ("on Friday", {"weekday:5"}),
        ("may I march to the sun and sat there a second", set()),
        ("in May", {"month:5"}),
        ("in 1999", {"year:1999"}),
        ("2000 dollars", set()),
        ("next month", {"relative:month+1"}),
        ("the day after tomorrow", {"relative:day+2"}),
        ("in Q3", {"quarter:3"}),
        ("2024年3月5日", {"day:3-5", "year:2024"}),
        ("六月", {"month:6"}),
        ("六个月", set()),
        ("周日", {"weekday:7"}),
        ("星期天", {"weekday:7"}),
        ("下午三点", {"time:15:00"}),
        ("下午三点半", {"time:15:30"}),
        ("大后天", {"relative:day+3"}),
        ("后天", {"relative:day+2"}),
        ("下周三", {"weekday:3 week+1"}),
        ("上个月", {"relative:month-1"}),
    ],
)
def test_dates(text: str, dates: set[str]) -> None:
    assert extract(text).dates == dates


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("order AB-48213.", {"ab-48213"}),
        ("order ab-48213", {"ab-48213"}),
        ("key aB3x9Q", {"aB3x9Q"}),
        ("mail Bob.Smith@Example.com", {"bob.smith@example.com"}),
        ("see https://example.com/A?b=1.", {"https://example.com/a?b=1"}),
        ("run `git log`", {"git log"}),
        ("Python 3.11.2", {"v3.11.2"}),
        ("call +49 30 1234567", {"49301234567"}),
        ("3rd place, 5kg, 10am, 4x4", set()),
        ("GPT-4", set()),
    ],
)
def test_ids(text: str, ids: set[str]) -> None:
    assert extract(text).ids == ids


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("a visa for paris", {"paris"}),
        ("Is it true about Marie Curie?", {"marie", "curie"}),
        ("How does the UK differ from the United Kingdom?", {"united kingdom"}),
        ("Please help", set()),
        ('who wrote "War and Peace"?', {"war and peace"}),
        ("去中国要签证吗", {"china"}),
        ("《三体》的作者是谁", {"三体"}),
        ("王先生在吗", {"王"}),
        ("iPhone or android", {"iphone", "android"}),
    ],
)
def test_entities(text: str, entities: set[str]) -> None:
    assert entities <= extract(text).entities
    assert bool(entities) == bool(extract(text).entities)


@pytest.mark.parametrize(
    ("text", "hard"),
    [
        ("I can't pay", 1),
        ("I cannot pay", 1),
        ("can't I pay by card?", 0),
        ("why don't you accept cards", 0),
        ("not only cash", 0),
        ("no problem, not bad", 0),
        ("it is not that I do not want it", 2),
        ("without a card", 1),
        ("我不能付款", 1),
        ("能不能付款", 0),
        ("有没有折扣", 0),
        ("是不是这样", 0),
        ("不仅如此，差不多，不过没关系，非常好，无论如何，别人特别", 0),
        ("没有收到", 1),
        ("禁止吸烟", 1),
    ],
)
def test_negation(text: str, hard: int) -> None:
    assert extract(text).negation.hard == hard


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How much is it?", "how_much"),
        ("What is the price of it?", "how_much"),
        ("how long will it take", "how_long"),
        ("When will it come?", "when"),
        ("What time do you open?", "when"),
        ("Where is it?", "where"),
        ("How come it is late?", "why"),
        ("Can I pay?", "yes_no"),
        ("Tell me the rules", ""),
        ("为什么迟到", "why"),
        ("多少钱", "how_much"),
        ("什么时候到", "when"),
        ("可以付款吗", "yes_no"),
    ],
)
def test_kind(text: str, kind: str) -> None:
    assert extract(text).kind == kind


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What are the opening hours of the shop?", "en"),
        ("Wie kann ich mein Konto löschen und was ist mit dem Geld?", "de"),
        ("Comment est-ce que je peux fermer mon compte pour toujours?", "fr"),
        ("如何重置密码", "zh"),
        ("パスワードを忘れた", "ja"),
        ("비밀번호를 잊었어요", "ko"),
        ("Где мой заказ", "ru"),
        ("hotel paris", ""),
        ("Do I need a visa to visit Vietnam as a Canadian?", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_traditional_and_simplified_are_one_text() -> None:
    assert normalise("請問銀行幾點關門") == normalise("请问银行几点关门")


def test_words_are_cut_and_contractions_written_out() -> None:
    assert tokens("I can't log in, what's wrong with C++?") == [
        "i", "can", "not", "log", "in", "what", "is", "wrong", "with", "c++",
    ]  # fmt: skip
    assert tokens("上海的手机号") == ["上海", "的", "手机", "号"]


def test_politeness_leaves_no_trace() -> None:
    polite = extract("Hi there! Could you please tell me how to reset my PIN? Thanks in advance")
    assert polite.content == extract("How do I reset my PIN?").content == ("reset", "pin")
