"""What a running server says about itself: its misses by reason, and what holds its memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.profiling.doctor.finding import Cause, Finding, Symptom

_TIMEOUT_SECONDS: Final = 15
_FULL: Final = 0.95
_PRESSED: Final = 0.9
_FEWEST: Final = 20
_LEAST: Final = 0.05
_SHOWN: Final = 5
"""Adjustments of bounds; the dashboard's interface has all that are kept."""

_BY_REASON: Final = (
    ("expired", Cause.TTL, "Answers expire before they are asked for again", "raise entry_timeout"),
    (
        "evicted",
        Cause.CAPACITY,
        "Answers are evicted before they are asked for again",
        "raise max_cache_entries",
    ),
    (
        "sampled",
        Cause.UNSEEDED,
        "Requests are sampled without a seed, so that no stored answer may stand in",
        "ask with temperature 0 or a seed",
    ),
)

Fetch = Callable[[str], Mapping[str, Any]]
"""Returns the JSON object at a URL."""


class ServerError(AxolotlCacheError):
    """The server can't be asked."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a server says."""

    facts: tuple[str, ...]
    findings: tuple[Finding, ...]


def examine_server(url: str, *, api_key: str | None = None, fetch: Fetch | None = None) -> Status:
    """Ask a server of `axolotl-cache serve` about the last hour.

    Args:
        url: where it is, as http://localhost:8000.
        api_key: of an operator, if it wants one.
        fetch: instead of the network.

    Raises:
        ServerError: it can't be reached, refuses, or is another program.
    """
    parts = urlsplit(url)
    base = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    overview = (fetch or _fetcher(api_key))(f"{base}/dashboard/api/overview?span=3600")
    if not isinstance(overview.get("summary"), Mapping):
        raise ServerError(f"{base} does not answer as axolotl-cache does")
    facts = tuple(_facts(overview))
    found = (*_misses(overview), *_memory(overview))
    return Status(facts, found)


def _fetcher(api_key: str | None) -> Fetch:
    def fetch(url: str) -> Mapping[str, Any]:
        headers = {"Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            # The scheme is http or https: the command line takes no other for a URL.
            with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
                found = json.load(response)
        except HTTPError as error:
            error.close()  # it holds the connection
            hint = "; give an operator's key with --api-key" if error.code in (401, 403) else ""
            raise ServerError(f"{url}: status {error.code}{hint}") from error
        except (URLError, OSError, ValueError) as error:
            raise ServerError(f"{url} can't be asked: {error}; is the server running?") from error
        if not isinstance(found, Mapping):
            raise ServerError(f"{url} does not answer as axolotl-cache does")
        return found

    return fetch


def _facts(overview: Mapping[str, Any]) -> Iterator[str]:
    summary = overview["summary"]
    requests = summary.get("requests", 0)
    yield f"{requests:,} requests in the last hour, {summary.get('hits', 0):,} of them hits of some tier"
    prompt = summary.get("prompt_tokens", 0)
    if prompt:
        yield f"{summary.get('cached_tokens', 0) / prompt:.1%} of {prompt:,} prompt tokens were cached"
    for tier in overview.get("tiers", ()):
        bound = f" of {tier['max_bytes']:,}" if tier.get("max_bytes") else ""
        yield (
            f"{tier['title']}: {tier['held_bytes']:,}{bound} bytes, {tier.get('entries', 0):,} entries, "
            f"{tier.get('evicted', 0):,} evicted, {tier.get('refused', 0):,} refused since the start"
        )
    yield from _adjusted(overview)


def _adjusted(overview: Mapping[str, Any]) -> Iterator[str]:
    """Say what the caches did to their own bounds, the newest first."""
    done: Sequence[Mapping[str, Any]] = overview.get("adjustments", ())
    for each in list(reversed(done))[:_SHOWN]:
        steps = f" in {each['steps']:,} steps" if each["steps"] > 1 else ""
        at = datetime.fromtimestamp(each["began_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        yield (
            f"{at}: {each['what']}, {each['change']}: from {each['before_bytes']:,} to "
            f"{each['after_bytes']:,} bytes{steps}, as {each['why']}"
        )
    if len(done) > _SHOWN:
        yield f"and {len(done) - _SHOWN:,} adjustments before"


def _misses(overview: Mapping[str, Any]) -> Iterator[Finding]:
    requests = overview["summary"].get("requests", 0)
    misses: Mapping[str, int] = overview.get("misses", {})
    since = overview.get("since_start", {}).get("requests", requests)
    for word, cause, title, fix in _BY_REASON:
        lost = sum(count for reason, count in misses.items() if word in reason)
        if lost >= _FEWEST and lost >= _LEAST * max(1, since):
            evidence = (f"{lost:,} of {since:,} requests since the start missed for it",)
            yield Finding(
                Symptom.LOW_HIT_RATE, cause, title, evidence, fix, gain_requests=lost / max(1, since)
            )


def _memory(overview: Mapping[str, Any]) -> Iterator[Finding]:
    for tier in overview.get("tiers", ()):
        held, bound = tier["held_bytes"], tier.get("max_bytes")
        if bound and held >= _FULL * bound and (tier.get("evicted") or tier.get("refused")):
            pinned = f", {tier['pinned_bytes']:,} of them pinned" if tier.get("pinned_bytes") else ""
            pinned += f", {tier['leased_bytes']:,} held by sessions" if tier.get("leased_bytes") else ""
            yield Finding(
                Symptom.MEMORY_HIGH,
                Cause.MEMORY_FULL,
                f"{tier['title']} is full, and evicts",
                (
                    f"{held:,} of {bound:,} bytes held{pinned}; {tier.get('evicted', 0):,} evicted, "
                    f"{tier.get('refused', 0):,} refused since the start",
                    *(_adjusted(overview) if tier.get("name") == "prefix_memory" else ()),
                ),
                "raise max_cache_size (or max_memory_usage), or put cache_backend: disk behind it; "
                "`axolotl-cache profile LOG` says how much is enough",
            )
    for node in overview.get("nodes", ()):
        used, total = node.get("memory_bytes"), node.get("total_memory_bytes")
        if used and total and used >= _PRESSED * total:
            caches = node.get("held_bytes", 0)
            yield Finding(
                Symptom.MEMORY_HIGH,
                Cause.MEMORY_PRESSURE,
                f"The process on {node.get('name', 'this machine')} uses most of the memory",
                (
                    f"{used:,} of {total:,} bytes, {caches:,} of them caches, which shrink by themselves",
                    *_adjusted(overview),
                ),
                "lower max_memory_usage, or the batch; what is not cache is weights and running requests",
            )
