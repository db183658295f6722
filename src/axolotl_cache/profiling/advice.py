"""From a profile and its prediction to the YAML to use, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from axolotl_cache.config import format_duration, format_size
from axolotl_cache.profiling.kv_bytes import KvSize
from axolotl_cache.profiling.predict import Curve, Prediction, knee
from axolotl_cache.profiling.profile import Profile

BLOCK_TOKENS: Final = 32
FEWEST_ENTRIES: Final = 256
FEWEST_PER_REQUEST, MOST_PER_REQUEST = 8, 12
"""The rule of thumb: so many entries for each request that is under way at a time."""
MEMORY_SHARE: Final = 0.25
_WORTH: Final = 0.01
"""A tier that hits less is not worth its memory."""
_BETTER: Final = 0.005
"""A policy that hits less than so much more is not worth leaving the default for."""
_LEAST_BYTES: Final = 64 * 2**20
_LONGEST_SECONDS: Final = 48 * 3600.0
_SHORTEST_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the YAML, and why."""

    block: str
    """Empty for the top of the file."""
    key: str
    value: str
    """As YAML."""
    why: str


@dataclass(frozen=True, slots=True)
class TierWorth:
    """What a tier would save, alone."""

    tier: str
    saved_tokens: int
    """Prompt tokens that need not be computed; of the response cache, the answers' tokens, too."""
    hit_rate: float
    of: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do."""

    settings: tuple[Setting, ...]
    tiers: tuple[TierWorth, ...]
    """In the order of worth."""

    def yaml(self, base_model: str = "") -> str:
        """Return the YAML, each line with its reason. With `base_model` it is a whole file."""
        lines = [f"base_model: {base_model}"] if base_model else []
        block = ""
        for setting in self.settings:
            if setting.block != block:
                block = setting.block
                lines += [f"{block}:"] if block else []
            indent = "  " if block else ""
            line = f"{indent}{setting.key}: {setting.value}"
            lines.append(f"{line:<38} # {setting.why}")
        return "\n".join(lines) + "\n"


def counted(number: int, name: str) -> str:
    """Return a number with what is counted, in the plural where it is one."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def advise(
    profile: Profile, prediction: Prediction, kv: KvSize | None, *, memory_bytes: int | None = None
) -> Advice:
    """Return the settings for these requests.

    Args:
        profile: of a log.
        prediction: of that profile.
        kv: bytes of a token; None if the model is not known.
        memory_bytes: of the device that will serve; None if it is not known.
    """
    settings = (
        *_prefix_settings(profile, prediction.prefix, kv, memory_bytes),
        *_response_settings(profile, prediction),
        *_session_settings(profile),
        Setting("", "max_memory_usage", str(MEMORY_SHARE), "caches take a quarter of the memory at most"),
    )
    return Advice(settings, _tiers(profile, prediction))


def _prefix_settings(
    profile: Profile, curve: Curve, kv: KvSize | None, memory_bytes: int | None
) -> Iterator[Setting]:
    worth = curve.most >= _WORTH
    on, why = _prefix_worth(profile, curve)
    yield Setting("model_config", "enable_prefix_cache", str(on).lower(), why)
    if not worth:
        return
    longest = max((each.tokens for each in profile.systems if each.requests > 1), default=0)
    if longest:
        length = max(BLOCK_TOKENS, min(4096, math.ceil(longest / BLOCK_TOKENS) * BLOCK_TOKENS))
        why = f"the longest shared system prompt has about {longest:,} tokens; name it in system_prompts"
        yield Setting("model_config", "prefix_length", str(length), why)
    if kv is None:
        return
    tokens = curve.enough * profile.totals.block_tokens
    size = max(_LEAST_BYTES, math.ceil(tokens * kv.token_bytes / 2**20) * 2**20)
    why = f"{tokens:,} tokens of {kv.token_bytes:,} bytes find 95 % of what can be found"
    bound = None if memory_bytes is None else int(memory_bytes * MEMORY_SHARE) // 2**20 * 2**20
    if bound is not None and bound < size:
        blocks = bound / (kv.token_bytes * max(1, profile.totals.block_tokens))
        hits = f"about {_at(curve, blocks):.1%} hits"
        why = f"a quarter of the memory, for {hits}; 95 % of what can be found takes {size:,} bytes"
        size = max(_LEAST_BYTES, bound)
    yield Setting("model_config", "max_cache_size", f'"{format_size(size)}"', why)


def _prefix_worth(profile: Profile, curve: Curve) -> tuple[bool, str]:
    lost = [*(part.lost_share for part in profile.changing), *(part.lost_share for part in profile.shuffled)]
    movable = max(lost, default=0.0)
    if curve.most >= _WORTH:
        why = f"{curve.most:.1%} of the prompt tokens could come from it"
        more = f"; {movable:.1%} of all text, once what changes early is moved"
        return True, why + (more if movable > curve.most else "")
    if not profile.totals.with_blocks:
        return True, "the log has neither texts nor hashes, so that nothing is known: on, it costs little"
    only = f"only {curve.most:.1%} of the prompt tokens repeat as a prefix"
    if movable >= _WORTH:
        return True, f"{only}; {movable:.1%} of all text could, once what changes early is moved"
    return False, only


def _at(curve: Curve, blocks: float) -> float:
    """Return lru's hit rate at a capacity, on the line between the points around it."""
    before, rate = 0.0, 0.0
    for point in curve.points:
        if point.capacity >= blocks:
            share = (blocks - before) / (point.capacity - before)
            return rate + share * (point.hit_rates["lru"] - rate)
        before, rate = point.capacity, point.hit_rates["lru"]
    return rate


def _response_settings(profile: Profile, prediction: Prediction) -> Iterator[Setting]:
    curve = prediction.response
    policy, gain = _policy(profile, prediction)
    why = (
        f"{100 * gain:.1f} points of all tokens more than lru finds, on the mean over the sizes above"
        if policy != "lru"
        else ("no other is better here" if profile.totals.with_blocks else "the default")
    )
    yield Setting("inference_settings", "cache_policy", policy, why)
    entries, why = _entries(profile, curve, policy)
    yield Setting("inference_settings", "max_cache_entries", entries, why)
    ttl, why = _ttl(profile, prediction)
    yield Setting("inference_settings", "entry_timeout", str(int(ttl)), why)


def _policy(profile: Profile, prediction: Prediction) -> tuple[str, float]:
    """Return the policy that saves most tokens in both tiers, which it rules alike, and what it gains.

    The default stays unless another is clearly better; `lfu` must be so beside `adaptive`, as it is known to
    lose much where frequencies change.
    """
    totals = profile.totals
    tokens = max(1, totals.prompt_tokens + totals.completion_tokens)
    prompt_share = totals.prompt_tokens / tokens
    best = "lru", 0.0
    for name in ("adaptive", "lfu"):
        gain = _gain(prediction.response, name) + prompt_share * _gain(prediction.prefix, name)
        if gain > best[1] + _BETTER:
            best = name, gain
    return best


def _gain(curve: Curve, policy: str) -> float:
    """Return by how much a policy beats lru, on the mean over the capacities that forget something."""
    points = [point for point in curve.points if point.capacity < curve.different]
    return sum(p.hit_rates[policy] - p.hit_rates["lru"] for p in points) / len(points) if points else 0.0


def _entries(profile: Profile, curve: Curve, policy: str) -> tuple[str, str]:
    busy = profile.concurrency.p95 or profile.concurrency.mean
    low, high = (round(FEWEST_PER_REQUEST * busy), round(MOST_PER_REQUEST * busy)) if busy else (0, 0)
    found = knee((point.capacity, point.hit_rates[policy]) for point in curve.points)
    rule = (
        f"8-12 x {busy:.0f} under way is {low:,}-{high:,}"
        if busy
        else "the log does not say how many are under way"
    )
    if curve.most < _WORTH or found is None:
        entries = max(FEWEST_ENTRIES, low)
        few = f"few prompts repeat ({curve.most:.1%})" if curve.different else "what repeats is not known"
        return str(entries), f"{few}; {rule}, and at least {FEWEST_ENTRIES}"
    entries = max(FEWEST_ENTRIES, low, int(found))
    reached = f"95 % of the {curve.most:.1%} hits there are"
    if entries > int(found):
        return str(entries), f"{int(found):,} reach {reached}; {rule}, and at least {FEWEST_ENTRIES}"
    more = f", and the curve asks for more than the rule: {rule}" if busy and entries > high else f"; {rule}"
    return str(entries), f"reaches {reached}{more}"


def _ttl(profile: Profile, prediction: Prediction) -> tuple[float, str]:
    curve = prediction.response if prediction.response.most >= _WORTH else prediction.prefix
    found = knee((point.ttl_seconds, point.hit_rate) for point in curve.ttls)
    if found is None:
        why = "nothing repeats" if profile.totals.with_blocks else "what repeats is not known"
        return 1800.0, f"the default: {why if profile.has_times else 'the log has no times'}"
    ttl = min(max(found, _SHORTEST_SECONDS), _LONGEST_SECONDS)
    reached = next(p.hit_rate for p in curve.ttls if p.ttl_seconds >= min(ttl, curve.ttls[-1].ttl_seconds))
    return ttl, (
        f"{format_duration(ttl)}: {reached:.1%} {curve.tier} hits, of {curve.most:.1%} without one; shorter "
        "where answers grow old"
    )


def _session_settings(profile: Profile) -> Iterator[Setting]:
    sessions = profile.sessions
    if not sessions.sessions:
        return
    gap = sessions.p95_gap_seconds
    timeout = 4200 if gap is None else max(600, math.ceil(gap * 2 / 60) * 60)
    why = (
        "the default: the log has no times"
        if gap is None
        else f"95 % of the turns come within {gap:.0f} s of the one before; twice that"
    )
    yield Setting(
        "session_management", "enable_session_cache", "true", counted(sessions.sessions, "conversation")
    )
    yield Setting("session_management", "session_timeout", str(timeout), why)


def _tiers(profile: Profile, prediction: Prediction) -> tuple[TierWorth, ...]:
    totals = profile.totals
    tokens = totals.prompt_tokens + totals.completion_tokens
    prefix, response = prediction.prefix.most, prediction.response.most
    found = [
        TierWorth("prefix", round(prefix * totals.prompt_tokens), prefix, "prompt tokens"),
        TierWorth("response", round(response * tokens), response, "requests"),
    ]
    return tuple(sorted(found, key=lambda each: -each.saved_tokens))
