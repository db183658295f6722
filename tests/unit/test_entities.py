"""What is found in a text, where it stands, and in which form."""

import pytest

from axolotl_cache.entities import BUILT_IN, Entity, Extractor, OwnKind, extract

KEY = b"a key of the tests"


def found(text: str) -> list[str]:
    return [entity.canonical for entity in extract(text)]


@pytest.mark.parametrize(
    "text",
    [
        "#67890",
        "order 67890",
        "Order #67890",
        "order number 67890",
        "my order number is 67890.",
        "ORDER NO. 67890",
        "order id: 67890",
        "订单67890",
        "订单号：67890",
        "订单编号是67890",
        "訂單號67890",
        "订单（６７８９０）",
    ],
)
def test_an_order_has_one_form(text):
    assert found(text) == ["order 67890"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("tracking number 1Z999AA10123456784", "tracking 1Z999AA10123456784"),
        ("1z999aa10123456784 is lost", "tracking 1Z999AA10123456784"),
        ("快递单号SF1405872639017", "tracking SF1405872639017"),
        ("it is RB123456785GB, says the slip", "tracking RB123456785GB"),
        ("account 77120934", "account 77120934"),
        ("IBAN DE89 3704 0044 0532 0130 00", "account DE89370400440532013000"),
        ("账号：88201735", "account 88201735"),
        ("card ending in 8812", "card 8812"),
        ("尾号3321的卡", "card 3321"),
        ("my 7447 card", "card 7447"),
        ("(415) 555-0137", "phone +14155550137"),
        ("+1 415 555 0137", "phone +14155550137"),
        ("138 0013 8000", "phone +8613800138000"),
        ("电话：+86 138-0013-8000", "phone +8613800138000"),
        ("K.L@Example.ORG", "email k.l@example.org"),
        ("邮箱是a@example.com，谢谢", "email a@example.com"),
        ("May 20", "date 05-20"),
        ("the 20th of May", "date 05-20"),
        ("5月20号", "date 05-20"),
        ("五月二十日", "date 05-20"),
        ("May 20, 2024", "date 2024-05-20"),
        ("20 May 2024", "date 2024-05-20"),
        ("2024/5/20", "date 2024-05-20"),
        ("05/20/2024", "date 2024-05-20"),
        ("2024年5月20日", "date 2024-05-20"),
        ("$49.90", "amount 49.9 USD"),
        ("49.90 dollars", "amount 49.9 USD"),
        ("USD 1,200", "amount 1200 USD"),
        ("$2 million", "amount 2000000 USD"),
        ("￥300", "amount 300 CNY"),
        ("三百元", "amount 300 CNY"),
        ("SKU-4471-B", "product 4471-B"),
        ("item number 40355298", "product 40355298"),
        ("(see https://Example.com/A).", "url https://example.com/A"),
        ("www.example.com/faq!", "url https://www.example.com/faq"),
        ("链接https://example.com/a打不开", "url https://example.com/a"),
        ("reservation HXDQBJ", "reservation HXDQBJ"),
        ("proceed with M20IZO", "reservation M20IZO"),
        ("预订号8JX8OQ", "reservation 8JX8OQ"),
        ("flight BA 286", "flight BA286"),
        ("MU5101航班", "flight MU5101"),
        ("it's noah_brown_6181", "user noah_brown_6181"),
        ("会员号90018826", "user 90018826"),
    ],
)
def test_each_kind_has_one_form(text, canonical):
    assert found(text) == [canonical]


@pytest.mark.parametrize(
    "text",
    [
        "an order of magnitude",
        "I want to order 5000 flyers",
        "order 2 pizzas",
        "version 2.14.3 at 18:30",
        "about 45% of 350,000",
        "room #1204, ticket #48213",
        "订阅12个月",
        "订单量12000",
        "三块蛋糕",
        "一元二次方程",
        "3号楼502室",
        "you may 2 or 3 times",
        "lost 20 pounds",
        "February 30",
        "10/2 is 5",
        "",
        " \n",
    ],
)
def test_a_number_alone_is_no_entity(text):
    assert found(text) == []


def test_a_place_is_that_of_the_value_with_its_sign():
    text = "Refund $49.90 for order #67890 ，订单号：７７８"
    places = [text[entity.start : entity.end] for entity in extract(text)]
    assert places == ["$49.90", "#67890", "７７８"]


def test_several_after_one_word():
    assert found("reservations SI5UKW, K1NW8N and EHGLP3") == [
        "reservation SI5UKW",
        "reservation K1NW8N",
        "reservation EHGLP3",
    ]
    assert found("订单330127和330128") == ["order 330127", "order 330128"]
    assert found("会员号HY440918，预订3JA7XV") == ["user hy440918", "reservation 3JA7XV"]


def test_flights_of_a_named_airline_need_no_word():
    assert found("flight HAT201 or HAT136; HAT045 is full, ABC123 is not") == [
        "flight HAT201",
        "flight HAT136",
        "flight HAT045",
    ]


class TestCards:
    NUMBER = "4111 1111 1111 1111"

    @pytest.mark.parametrize(
        "text", ["4111 1111 1111 1111", "my card is 4111-1111-1111-1111", "卡号4111111111111111"]
    )
    @pytest.mark.parametrize("key", [None, KEY])
    def test_never_in_the_clear(self, text, key):
        (entity,) = Extractor(card_key=key).extract(text)
        assert entity.kind == "card"
        assert entity.value.startswith("1111")
        assert "411111" not in repr(entity)

    def test_a_key_tells_two_with_the_same_end_apart(self):
        one, other = "4111111111111111", "5555444433331111"
        without = [extract(f"card {number}") for number in (one, other)]
        keyed = [Extractor(card_key=KEY).extract(f"card {number}") for number in (one, other)]
        assert without[0] == without[1]
        assert keyed[0] != keyed[1]
        assert keyed[0] == Extractor(card_key=KEY).extract("my card: 4111 1111 1111 1111")
        assert keyed[0] != Extractor(card_key=KEY[::-1]).extract(f"card {one}")

    def test_a_number_with_a_wrong_check_digit_needs_a_word(self):
        assert found("4111111111111112") == []
        assert found("card number 4111111111111112") == ["card 1112"]

    def test_a_short_key_is_refused(self):
        with pytest.raises(ValueError, match="16 bytes"):
            Extractor(card_key=b"short")


def test_equality_is_of_kind_and_value():
    assert Entity("order", "1", 0, 3) == Entity("order", "1", 5, 8)
    assert len({Entity("order", "1", 0, 3), Entity("order", "1", 5, 8), Entity("card", "1")}) == 2


class TestOwnKinds:
    def test_is_found_and_comes_first(self):
        extractor = Extractor([OwnKind("ticket", r"TCK-\d+"), OwnKind("policy", r"policy (\d{6})")])
        text = "ticket tck-4711 about policy 123456 and order 67890"
        assert [entity.canonical for entity in extractor.extract(text)] == [
            "ticket TCK-4711",
            "policy 123456",
            "order 67890",
        ]

    def test_touches_no_word(self):
        assert Extractor([OwnKind("part", r"AB\d\d")]).extract("XAB12 AB123 AB12_") == ()
        assert Extractor([OwnKind("part", r"AB\d\d")]).extract("零件AB12的价格") == (Entity("part", "AB12"),)

    def test_case(self):
        assert Extractor([OwnKind("x", "ab1", case_sensitive=True)]).extract("AB1 ab1") == (
            Entity("x", "ab1"),
        )

    @pytest.mark.parametrize("name", ["", "Ticket", "1st", "a-b", "x" * 33, None])
    def test_a_bad_name(self, name):
        with pytest.raises(ValueError, match="can't name a kind"):
            OwnKind(name, "x")

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_a_built_in_name(self, name):
        with pytest.raises(ValueError, match="built in"):
            OwnKind(name, "x")

    def test_two_of_one_name(self):
        with pytest.raises(ValueError, match="two kinds"):
            Extractor([OwnKind("x", "a"), OwnKind("x", "b")])

    @pytest.mark.parametrize(
        ("pattern", "why"),
        [
            ("(", "no regular expression"),
            ("[", "no regular expression"),
            ("a{3,2}", "no regular expression"),
            ("(?x) a", "no regular expression"),
            ("", "needs a regular expression"),
            (None, "needs a regular expression"),
            ("a*", "matches nothing at all"),
            ("x" * 501, "longer than"),
            ("(a+)+b", "ways"),
            ("(?:a|a)*b", "ways"),
            ("(?:ab|AC)*d", "ways"),
            (r"(?:\d|xy){20}", "ways"),
            (r"\w+\d+\w+-", "ways"),
            (r"(?=(?:a+)+)a", "ways"),
            (r"(.+)+\1", "ways"),
            (r"(a)?(?(1)b|c)", "ways"),
        ],
    )
    def test_a_bad_pattern(self, pattern, why):
        with pytest.raises(ValueError, match=why):
            OwnKind("ticket", pattern)

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            (r"TCK-\d+", "TCK-1"),
            (r"\w+-\w+", "ab-cd"),
            (r"[A-Z]{2,4}\d{4,}", "AB1234"),
            (r"(?:case|incident) #?(\d+)", "case #12"),
            (r"a\+b+", "A+BB"),
            (r"[+*]\d", "+1"),
            (r"\d++-x", "12-x"),
            (r"x.+?y", "xaay"),
            ("[]+]a", "+a"),
        ],
    )
    def test_a_good_pattern(self, pattern, text):
        assert len(Extractor([OwnKind("thing", pattern)]).extract(text)) == 1
