"""What answers cost, and what a hit saves: tokens, seconds, and money at the prices that the user gives.

No price is built in: prices change, and a wrong one looks like a right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from axolotl_cache.request import Saved

ANY_MODEL: Final = "*"
"""In a table: the price of every model that has none of its own."""

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to compute one answer."""

    prompt_tokens: int
    """Tokens of the prompt, those among them that were cached included."""
    completion_tokens: int
    seconds: float
    cached_tokens: int = 0
    """Of the prompt's tokens, those that a prefix cache had when it was computed."""
    model: str = ""

    @classmethod
    def from_usage(cls, usage: Mapping[str, Any], *, seconds: float, model: str = "") -> Cost:
        """Return the cost that an API reports, as OpenAI (chat, responses) or Anthropic writes `usage`.

        What is missing, or no number, counts as 0. Anthropic's `input_tokens` leaves out what came from its
        cache, or went into it; OpenAI's does not.
        """
        prompt = _count(usage, "prompt_tokens") or _count(usage, "input_tokens")
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
        read = _count(usage, "cache_read_input_tokens")
        prompt += read + _count(usage, "cache_creation_input_tokens")
        completion = _count(usage, "completion_tokens") or _count(usage, "output_tokens")
        return cls(prompt, completion, seconds, min(cached + read, prompt), model)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in one currency."""

    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal | None = None
    """Of prompt tokens that a prefix cache had; None is no discount."""

    def of(self, cost: Cost) -> Decimal:
        """Return what computing that answer costs."""
        fresh = cost.prompt_tokens - cost.cached_tokens
        total = fresh * self.input_per_million + cost.cached_tokens * self._cached
        return (total + cost.completion_tokens * self.output_per_million) / _MILLION

    def of_discount(self, cached_tokens: int) -> Decimal:
        """Return by how much less a prompt costs because so many of its tokens were cached."""
        return cached_tokens * (self.input_per_million - self._cached) / _MILLION

    @property
    def _cached(self) -> Decimal:
        own = self.cached_input_per_million
        return self.input_per_million if own is None else own


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model, in one currency."""

    prices: Mapping[str, Price]
    currency: str = "USD"

    @classmethod
    def from_mapping(cls, models: Mapping[str, Mapping[str, Any]], currency: str = "USD") -> PriceTable:
        """Return the table for `{"a-model": {"input_per_million": "0.15", "output_per_million": "0.60"}}`.

        Args:
            models: by name, "*" for all others: `input_per_million`, `output_per_million` and, if it is
                another price, `cached_input_per_million`. Texts and numbers, taken as they are written.
            currency: of all of them.

        Raises:
            ValueError: a price is missing, unknown, negative or no number.
        """
        return cls({name: _price(name, prices) for name, prices in models.items()}, currency)

    def price(self, model: str) -> Price | None:
        """Return the model's price, else that of all others, else None."""
        return self.prices.get(model) or self.prices.get(ANY_MODEL)

    def saved_by_answer(self, cost: Cost, took_seconds: float) -> Saved:
        """Return what serving a stored answer in `took_seconds` saved against computing it again."""
        price = self.price(cost.model)
        return Saved(
            tokens=cost.prompt_tokens + cost.completion_tokens,
            seconds=max(cost.seconds - took_seconds, 0.0),
            money=None if price is None else price.of(cost),
            currency="" if price is None else self.currency,
        )

    def saved_by_prefix(self, cached_tokens: int, seconds: float, model: str) -> Saved:
        """Return what `cached_tokens` of a prompt that were not computed saved; `seconds` of computing."""
        price = self.price(model)
        return Saved(
            tokens=cached_tokens,
            seconds=seconds,
            money=None if price is None else price.of_discount(cached_tokens),
            currency="" if price is None else self.currency,
        )


NO_PRICES: Final = PriceTable({}, "")
"""Knows tokens and seconds, and no money."""

_KEYS: Final = ("input_per_million", "output_per_million", "cached_input_per_million")


def _price(name: str, prices: Mapping[str, Any]) -> Price:
    unknown = [key for key in prices if key not in _KEYS]
    if unknown:
        raise ValueError(f"prices of {name!r}: there is no {unknown[0]!r}, but {', '.join(_KEYS)}")
    found = {key: _amount(f"{key} of {name!r}", prices[key]) for key in _KEYS if prices.get(key) is not None}
    missing = [key for key in _KEYS[:2] if key not in found]
    if missing:
        raise ValueError(f"prices of {name!r}: {missing[0]} is missing")
    return Price(**found)


def _amount(what: str, value: Any) -> Decimal:
    try:
        # A float's own digits: 0.15 is meant as 0.15, not as the binary fraction nearest to it.
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise ValueError(f"{what}: {value!r} is not a price: a number from 0, as 0.15")
    return amount


def _count(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if type(value) is int and value > 0 else 0
