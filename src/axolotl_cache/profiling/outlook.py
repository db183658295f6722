"""TTFT, throughput and cost to expect from a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from axolotl_cache.profiling.predict import Prediction
from axolotl_cache.profiling.profile import Profile
from axolotl_cache.profiling.speeds import Speeds


@dataclass(frozen=True, slots=True)
class Outlook:
    """Without and with the caches, at the hit rates of a cache large enough."""

    ttft_without_seconds: float | None
    """Mean. None where no speed is known."""
    ttft_with_seconds: float | None
    throughput_factor: float | None
    """Requests a second of one stream, with over without. Batching comes on top of both."""
    prefill_tokens_saved_share: float
    """Share of the prompt tokens that need not be computed."""
    requests_not_computed_share: float
    cost_without: float | None
    """In the currency of the prices, for the requests of the log."""
    cost_with: float | None


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """For a million tokens."""

    prompt: float
    answer: float
    cached_prompt: float | None = None
    """None: as other prompt tokens."""


def expect(
    profile: Profile,
    prediction: Prediction,
    *,
    speeds: Speeds,
    prices: TokenPrices | None = None,
) -> Outlook:
    """Return what to expect.

    A request that the response cache answers reaches no other tier; the prefix cache is taken to hit its
    share of the tokens of all others.
    """
    totals = profile.totals
    requests = max(1, totals.requests)
    response, prefix = prediction.response.most, prediction.prefix.most
    left = (1 - response) * (1 - prefix)
    prompt, answer = totals.prompt_tokens / requests, totals.completion_tokens / requests
    before = after = factor = None
    rate = speeds.prefill_tokens_per_second
    if rate:
        start = speeds.first_token_seconds or 0.0
        before = start + prompt / rate
        after = (1 - response) * (start + prompt * (1 - prefix) / rate)
        decode = answer / speeds.decode_tokens_per_second if speeds.decode_tokens_per_second else None
        if decode is not None:
            factor = (before + decode) / max(1e-9, after + (1 - response) * decode)
    cost = cost_with = None
    if prices:
        per_prompt, per_answer = prices.prompt / 1e6, prices.answer / 1e6
        cached = per_prompt if prices.cached_prompt is None else prices.cached_prompt / 1e6
        cost = totals.prompt_tokens * per_prompt + totals.completion_tokens * per_answer
        computed = totals.prompt_tokens * ((1 - prefix) * per_prompt + prefix * cached)
        cost_with = (1 - response) * (computed + totals.completion_tokens * per_answer)
    return Outlook(before, after, factor, 1 - left, response, cost, cost_with)
