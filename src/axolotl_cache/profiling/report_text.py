"""The report for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from axolotl_cache.config import format_duration
from axolotl_cache.profiling.advice import counted
from axolotl_cache.profiling.predict import Curve
from axolotl_cache.profiling.report import Report

FIRST = "What changes early"
"""The section that matters most where there is one: no cache helps before what it says is done."""
_SHARED = "Shared prefixes"
_PREFIX = "Prefix cache: predicted share of prompt tokens found"
_RESPONSE = "Response cache: predicted share of requests answered"
TABLES = frozenset({_SHARED, _PREFIX, _RESPONSE})
"""The sections with columns in them."""
_WIDTH = 96


def sections(report: Report) -> list[tuple[str, list[str]]]:
    """Return the titles and lines of all sections but the YAML; one without lines has nothing to say."""
    found = (
        ("What was read", _read(report)),
        ("Traffic", _traffic(report)),
        ("Repeats", _repeats(report)),
        (_SHARED, _prefixes(report)),
        (FIRST, _changing(report)),
        ("Conversations", _sessions(report)),
        (_PREFIX, _curve(report.prediction.prefix, report)),
        (_RESPONSE, _curve(report.prediction.response, report)),
        ("What to expect", _outlook(report)),
        ("Tiers, in the order of worth", _tiers(report)),
    )
    return [(title, list(lines)) for title, lines in found]


def text_report(report: Report) -> str:
    """Return the report as lines of text."""
    lines: list[str] = []
    for title, section in sections(report):
        if section:
            lines += [title, *(f"  {line}" for line in section), ""]
    lines += ["The YAML to use", ""]
    lines += report.advice.yaml(report.kv.model if report.kv else "").splitlines()
    if report.kv is None:
        lines += ["# with --config YOUR_CONFIG.YAML: max_cache_size, too, in bytes of your model"]
    return "\n".join(lines)


def shorten(text: str, width: int = _WIDTH) -> str:
    """Return the text on one line, cut to a width."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def size_text(size_bytes: float) -> str:
    """Return a size for people: three digits and a unit."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def _read(report: Report) -> Iterator[str]:
    reading, totals = report.reading, report.profile.totals
    kinds = ", ".join(f"{name}: {count:,}" for name, count in reading.formats.items())
    yield f"{totals.requests:,} requests from {reading.lines:,} lines ({kinds})"
    answers = f"{totals.completion_tokens:,} answer tokens"
    yield f"{totals.prompt_tokens:,} prompt tokens ({totals.tokens_are}), {answers}"
    if reading.damaged:
        yield f"{reading.damaged:,} damaged lines left out; the first:"
        yield from (f"  {shorten(each)}" for each in reading.examples)
    if not totals.with_blocks:
        yield "The log has lengths only, no texts and no hashes: nothing can be said about what repeats."


def _traffic(report: Report) -> Iterator[str]:
    traffic = report.profile.concurrency
    if traffic.requests_per_second is None or traffic.span_seconds is None:
        yield "The log has no times: nothing can be said about TTLs and concurrency."
        return
    busiest = traffic.peak_requests_per_second
    busy = f", {busiest:.2f} in the busiest minute" if busiest else ""
    span = format_duration(round(traffic.span_seconds))
    yield f"{traffic.requests_per_second:.2f} requests a second over {span}{busy}"
    if traffic.mean is not None:
        high = f"{traffic.p95} at 95 %, {traffic.peak} at most"
        yield f"under way at a time: {traffic.mean:.1f} on average, {high}"
    else:
        yield "The log does not say how long requests took, so that concurrency is not known."
    if traffic.unordered:
        yield f"{traffic.unordered:,} requests are out of order in the log; they count where they stand"


def _repeats(report: Report) -> Iterator[str]:
    repeats = report.profile.repeats
    if not repeats.requests or not report.profile.totals.with_blocks:
        return
    share = f"{repeats.exact / repeats.requests:.1%}"
    yield f"{repeats.exact:,} of {repeats.requests:,} requests ({share}) were asked before, to the letter"
    if repeats.unrepeatable:
        yield f"  {repeats.unrepeatable:,} of these are sampled without a seed: no stored answer may stand in"
    if repeats.near:
        yield f"{repeats.near:,} more differ only in case, spaces, punctuation, dates or ids"
    if repeats.same_words:
        yield f"{repeats.same_words:,} more have the same words in another order"
    for each in repeats.most_frequent[:5]:
        yield f"  {each.requests:>6,} x  {shorten(each.example, 80) or '(no text in the log)'}"
    entities = report.profile.entities
    if entities.requests:
        names = ", ".join(f"{each.name} ({each.requests})" for each in entities.most_frequent[:4])
        yield f"{entities.requests:,} requests name one of {entities.different:,} entities: {names}"


def _prefixes(report: Report) -> Iterator[str]:
    profile = report.profile
    if profile.systems:
        systems = counted(profile.different_systems, "system prompt")
        yield f"{systems}; the most frequent:" if profile.different_systems > 1 else f"{systems}:"
        for system in profile.systems[:5]:
            yield f"  {system.requests:>6,} x  {system.tokens:>6,} tokens  {shorten(system.text, 64)}"
    if profile.shared:
        yield "beginnings that are worth most (requests, tokens at least, tokens saved):"
        for shared in profile.shared[:6]:
            begins = shorten(shared.example, 50) or "(no text in the log)"
            saved = f"{shared.saved_tokens:>12,}"
            yield f"  {shared.requests:>6,} x  {shared.tokens:>6,} tokens  {saved}  {begins}"


_KINDS = {"time": "a date or time", "id": "an id", "user": "who asks", "text": "a text"}


def _changing(report: Report) -> Iterator[str]:
    for part in report.profile.changing:
        if part.lost_share >= 0.005:
            yield (
                f"{_KINDS[part.kind]} at character {part.at_characters:,} keeps {part.lost_share:.1%} of "
                "all prompt text from being shared: move it behind what stays the same"
            )
            yield from (f"  as: {shorten(each, 80)}" for each in part.examples)
    for shuffled in report.profile.shuffled:
        lost = f"{shuffled.lost_share:.1%} of all prompt text"
        yield f"{shuffled.what} come in {shuffled.orders} orders, which loses {lost}"
        yield from (f"  as: {shorten(each, 80)}" for each in shuffled.examples)


def _sessions(report: Report) -> Iterator[str]:
    sessions = report.profile.sessions
    if not sessions.sessions:
        return
    how = (
        "by the log's names" if sessions.are_named else "recognised by prompts that go on where another ended"
    )
    yield f"{counted(sessions.sessions, 'conversation')} with {sessions.turns:,} turns, {how}"
    turns = ", ".join(f"{label}: {count:,}" for label, count in sessions.by_turns.items() if count)
    yield f"turns of a conversation: {turns}; the longest has {sessions.longest_turns}"
    if sessions.median_gap_seconds is not None:
        yield (
            f"from turn to turn: {sessions.median_gap_seconds:.0f} s in the middle, "
            f"{sessions.p95_gap_seconds:.0f} s at 95 %"
        )


def _curve(curve: Curve, report: Report) -> Iterator[str]:
    if not report.profile.totals.with_blocks:
        return
    unit = "blocks" if curve.tier == "prefix" else "prompts"
    bound = f"{curve.most:.1%} if nothing is forgotten ({curve.different:,} different {unit})"
    sampled = (
        f"; from a sample of {curve.sample_rate:.3g}, give or take {curve.error:.1%}" if curve.error else ""
    )
    yield bound + sampled
    if not curve.points or not curve.most:
        return
    if curve.policy_error > curve.error:
        off = f"{curve.policy_error:.1%}"
        yield f"policies other than lru were run on a sample, which was up to {off} off for lru"
    names = list(curve.points[0].hit_rates)
    yield from _table(
        ["capacity", *(["memory"] if curve.points[0].size_bytes else []), *names],
        [
            [
                f"{point.capacity:,}",
                *([size_text(point.size_bytes)] if point.size_bytes else []),
                *(f"{point.hit_rates[name]:.1%}" for name in names),
            ]
            for point in curve.points
        ],
    )
    if curve.ttls:
        ttls = ", ".join(f"{format_duration(p.ttl_seconds)} {p.hit_rate:.1%}" for p in curve.ttls)
        yield f"by TTL, without a bound: {ttls}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _outlook(report: Report) -> Iterator[str]:
    outlook = report.outlook
    if not report.profile.totals.with_blocks:
        return
    yield f"{outlook.prefill_tokens_saved_share:.1%} of the prompt tokens need not be computed"
    if report.kv:
        yield f"keys and values: {report.kv}"
    if outlook.ttft_without_seconds is not None and outlook.ttft_with_seconds is not None:
        yield (
            f"time to first token: {outlook.ttft_without_seconds:.3f} s without, "
            f"{outlook.ttft_with_seconds:.3f} s with caches, on average"
        )
    else:
        yield (
            "no time to first token can be told: it takes 20 requests with theirs, of prompts of different "
            "lengths; give --prefill-tokens-per-second, or measure with `axolotl-cache bench`"
        )
    if outlook.throughput_factor is not None:
        yield f"throughput of one stream: {outlook.throughput_factor:.2f} x (batching comes on top of both)"
    if outlook.cost_without is not None and outlook.cost_with is not None:
        less = f"{outlook.cost_with:.2f} with caches"
        yield f"cost of these requests: {outlook.cost_without:.2f} without, {less}"


def _tiers(report: Report) -> Iterator[str]:
    if report.profile.totals.with_blocks:
        for number, tier in enumerate(report.advice.tiers, 1):
            share = f"{tier.hit_rate:.1%} of {tier.of}"
            yield f"{number}. {tier.tier}: saves {tier.saved_tokens:,} tokens ({share})"
