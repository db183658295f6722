"""What a hit saves: tokens, seconds, and money at the prices given."""

from decimal import Decimal

import pytest

from axolotl_cache.request import Saved
from axolotl_cache.response.prices import NO_PRICES, Cost, PriceTable

TABLE = PriceTable.from_mapping(
    {
        "small": {
            "input_per_million": "0.15",
            "output_per_million": 0.6,
            "cached_input_per_million": "0.075",
        },
        "*": {"input_per_million": 2, "output_per_million": "10"},
    },
    "EUR",
)
COST = Cost(prompt_tokens=1_000, completion_tokens=200, seconds=3.5, cached_tokens=400, model="small")


def test_a_stored_answer_saves_what_computing_it_cost():
    # 600 x 0.15 + 400 x 0.075 + 200 x 0.6, a millionth of that
    assert TABLE.saved_by_answer(COST, 0.5) == Saved(1_200, 3.0, Decimal("0.00024"), "EUR")


def test_a_price_is_as_exact_as_it_was_written():
    table = PriceTable.from_mapping({"m": {"input_per_million": 0.1, "output_per_million": 0}})
    cost = Cost(3, 0, 1.0, model="m")
    assert table.saved_by_answer(cost, 0).money == Decimal("3E-7")
    assert sum([table.saved_by_answer(cost, 0).money] * 10) == Decimal("0.000003"), "ten binary 0.1 are not 1"


def test_serving_can_not_save_less_than_nothing():
    assert TABLE.saved_by_answer(COST, 9.0).seconds == 0


def test_a_cached_prefix_saves_the_discount():
    assert TABLE.saved_by_prefix(400, 0.2, "small") == Saved(400, 0.2, Decimal("0.00003"), "EUR")
    assert TABLE.saved_by_prefix(400, 0.2, "another").money == 0, "a provider without a discount"


def test_models_without_a_price_of_their_own():
    assert TABLE.price("another") is TABLE.prices["*"]
    only = PriceTable({"small": TABLE.prices["small"]})
    assert only.saved_by_answer(Cost(1, 1, 1.0, model="another"), 0) == Saved(2, 1.0, None, "")
    assert NO_PRICES.saved_by_answer(COST, 0.5) == Saved(1_200, 3.0, None, "")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # OpenAI, chat completions and responses
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}},
            (10, 5, 8),
        ),
        ({"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 8}}, (10, 5, 8)),
        # Anthropic, whose input_tokens are those that no cache had
        (
            {
                "input_tokens": 2,
                "output_tokens": 5,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 1,
            },
            (11, 5, 8),
        ),
        ({}, (0, 0, 0)),
        ({"prompt_tokens": None, "completion_tokens": "5", "prompt_tokens_details": None}, (0, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, (3, 0, 3)),
    ],
)
def test_the_usage_that_apis_report(usage, expected):
    cost = Cost.from_usage(usage, seconds=1.5, model="m")
    assert (cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens) == expected
    assert (cost.seconds, cost.model) == (1.5, "m")


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ({"input_per_million": 1}, "output_per_million is missing"),
        ({"input_per_million": -1, "output_per_million": 1}, "not a price"),
        ({"input_per_million": "cheap", "output_per_million": 1}, "not a price"),
        ({"input_per_million": True, "output_per_million": 1}, "not a price"),
        ({"input_per_million": float("nan"), "output_per_million": 1}, "not a price"),
        ({"input_per_million": 1, "output_per_million": 1, "in": 1}, "there is no 'in'"),
    ],
)
def test_what_is_no_price_is_refused(prices, says):
    with pytest.raises(ValueError, match=says):
        PriceTable.from_mapping({"m": prices})
