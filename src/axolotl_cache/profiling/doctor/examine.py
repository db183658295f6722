"""From a log to findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from axolotl_cache.config import format_duration
from axolotl_cache.layout import ChangingPart, HeadSample, ShuffledParts
from axolotl_cache.profiling.doctor.answers import AnswerDifferences
from axolotl_cache.profiling.doctor.differences import KeyDifferences
from axolotl_cache.profiling.doctor.finding import Cause, Finding, Symptom
from axolotl_cache.profiling.doctor.keys import keys_of
from axolotl_cache.profiling.doctor.lifetimes import Lifetimes
from axolotl_cache.profiling.doctor.remedies import ANSWERS, EARLY, KEY_DIFFERENCES
from axolotl_cache.profiling.record import Record

FEWEST_REQUESTS: Final = 5
"""Fewer are chance."""
LEAST_GAIN: Final = 0.01
"""A cause that costs less than one hit in a hundred requests is not worth a change."""
_LEAST_TEXT: Final = 0.05
"""The same of text that changes early and is neither date nor id: that may be what the user asks about."""
_LEAST_OF_REPEATS: Final = 0.1
"""A TTL or a capacity is too small if it costs so many of the repeats that there are."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor says about a log."""

    requests: int
    repeats: int
    """Requests that were asked before with the same key."""
    hits: int | None
    """Requests that the response cache answered, where the log says."""
    without_prompt: int
    """Requests of which the log has lengths only, so that nothing can be said."""
    findings: tuple[Finding, ...]
    """The largest gain first."""


class Examiner:
    """Takes requests one by one. Memory is bounded, whatever the log's length.

    Args:
        ttl_seconds: `entry_timeout` in force, where the log does not say; None if it is not known.
        entries: `max_cache_entries` in force; None if it is not known.
    """

    def __init__(self, *, ttl_seconds: float | None = None, entries: int | None = None) -> None:
        self._keys = KeyDifferences()
        self._answers = AnswerDifferences()
        self._lifetimes = Lifetimes(ttl_seconds=ttl_seconds, entries=entries)
        self._heads = HeadSample()
        self._entries = entries
        self._namespaces: dict[str, int] = {}
        self._parts: list[Mapping[str, str]] = []
        self._hits = self._told = self._unreadable = 0

    def see(self, record: Record) -> None:
        """Take a request."""
        if not record.has_text and not len(record.block_ids):
            self._unreadable += 1  # lengths only: nothing can be compared
            return
        keys = keys_of(record)
        self._keys.see(record, keys)
        self._answers.see(record, keys, self._keys.requests)
        self._lifetimes.see(record, keys.full)
        self._heads.see(record.messages, prompt=record.prompt, tools=record.tools, principal=record.principal)
        self._told += bool(record.served)
        self._hits += record.served in {"hit-exact", "hit-semantic", "hit-session"}
        name = record.namespace.get("namespace", "")
        if name and len(self._namespaces) < 1_000:
            self._namespaces.setdefault(name, self._keys.requests)
        if record.namespace_parts and len(self._parts) < 1_000:
            self._parts.append(record.namespace_parts)

    def result(self) -> Examination:
        """Return what was found."""
        found = [
            *self._key_differences(),
            *self._early(),
            *self._unseeded(),
            *self._gone(),
            *self._inconsistent(),
        ]
        merged = _merged(found)
        return Examination(
            self._keys.requests,
            self._keys.repeats,
            self._hits if self._told else None,
            self._unreadable,
            tuple(sorted(merged, key=lambda each: -(each.gain_requests + each.gain_tokens))),
        )

    def _share(self, requests: int) -> float:
        return requests / max(1, self._keys.requests)

    def _matters(self, requests: int) -> bool:
        return requests >= FEWEST_REQUESTS and self._share(requests) >= LEAST_GAIN

    def _key_differences(self) -> Iterator[Finding]:
        for cause, lost in self._keys.lost.items():
            if not self._matters(lost):
                continue
            title, fix = KEY_DIFFERENCES[cause]
            example = self._keys.examples[cause]
            evidence = [
                f"{lost:,} of {self._keys.requests:,} requests were asked before but for this; "
                f"first: request {example.request} and {example.other}"
            ]
            if cause is Cause.NAMESPACE and len(self._namespaces) > 1:
                starts = ", ".join(f"{n:,}" for n in list(self._namespaces.values())[:5])
                evidence.append(f"{len(self._namespaces)} namespaces, first seen at request {starts}")
                evidence += _what_changed(self._parts)
            yield Finding(
                Symptom.LOW_HIT_RATE, cause, title, tuple(evidence), fix, gain_requests=self._share(lost)
            )

    def _early(self) -> Iterator[Finding]:
        for part in self._heads.changing():
            least = _LEAST_TEXT if part.kind == "text" else LEAST_GAIN
            if part.lost_share >= least and part.requests * 20 >= part.sampled:
                yield _early_finding(part)
        for shuffled in self._heads.shuffled():
            if shuffled.lost_share >= LEAST_GAIN:
                yield _shuffled_finding(shuffled)

    def _unseeded(self) -> Iterator[Finding]:
        lost = self._keys.unseeded_repeats
        if self._matters(lost):
            yield Finding(
                Symptom.LOW_HIT_RATE,
                Cause.UNSEEDED,
                "Requests are sampled without a seed, so that no stored answer may stand in",
                (f"{lost:,} of {self._keys.requests:,} requests are repeats with a temperature and no seed",),
                "ask with temperature 0 or a seed; or allow it by request (`cache_control: sampled`)",
                gain_requests=self._share(lost),
            )

    def _gone(self) -> Iterator[Finding]:
        lifetimes = self._lifetimes
        repeats = self._keys.repeats
        if self._matters(lifetimes.expired) and lifetimes.expired >= _LEAST_OF_REPEATS * repeats:
            gap = median(lifetimes.gaps)
            enough = sorted(lifetimes.gaps)[int(len(lifetimes.gaps) * 0.95)]
            yield Finding(
                Symptom.LOW_HIT_RATE,
                Cause.TTL,
                "Answers expire before they are asked for again",
                (
                    f"{lifetimes.expired:,} of {repeats:,} repeats found their answer too old; "
                    f"they came {format_duration(round(gap))} after it was stored (median)",
                ),
                f"raise entry_timeout to {format_duration(_rounded(enough))}, if answers hold that long",
                gain_requests=self._share(lifetimes.expired),
            )
        evicted = lifetimes.evicted()
        if self._matters(evicted) and evicted >= _LEAST_OF_REPEATS * repeats:
            now = "" if self._entries is None else f", from {self._entries:,}"
            yield Finding(
                Symptom.LOW_HIT_RATE,
                Cause.CAPACITY,
                "Answers are evicted before they are asked for again",
                (f"{evicted:,} of {repeats:,} repeats found their answer gone, though it was not too old",),
                f"raise max_cache_entries to {lifetimes.enough_entries():,}{now} "
                "(or look for restarts without enable_persistence)",
                gain_requests=self._share(evicted),
            )

    def _inconsistent(self) -> Iterator[Finding]:
        for cause, count in self._answers.differ.items():
            if count < FEWEST_REQUESTS or count * 100 < self._answers.compared:
                continue
            title, fix = ANSWERS[cause]
            example = self._answers.examples[cause]
            evidence = (
                f"{count:,} of {self._answers.compared:,} repeated questions got another answer; "
                f"first: request {example.request} and {example.other}"
            )
            yield Finding(Symptom.INCONSISTENT_ANSWERS, cause, title, (evidence,), fix)


def _what_changed(parts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return which parts differ from one namespace to the next."""
    names = {
        name for one, other in pairwise(parts) for name in {*one, *other} if one.get(name) != other.get(name)
    }
    return [f"what changed: {', '.join(sorted(names))}"] if names else []


def _early_finding(part: ChangingPart) -> Finding:
    cause, title, fix = EARLY[part.kind]
    shown = "; ".join(repr(each) for each in part.examples)
    evidence = (
        f"{part.requests:,} different ones in {part.sampled:,} requests looked at, at character "
        f"{part.at_characters:,}: {shown}",
    )
    return Finding(Symptom.LOW_HIT_RATE, cause, title, evidence, fix, gain_tokens=part.lost_share)


def _shuffled_finding(shuffled: ShuffledParts) -> Finding:
    tools = shuffled.what == "tools"
    return Finding(
        Symptom.LOW_HIT_RATE,
        Cause.TOOL_ORDER if tools else Cause.PART_ORDER,
        "The same tools come in different orders" if tools else "The same parts come in different orders",
        (f"{shuffled.orders} orders, as: {'; '.join(shuffled.examples)}",),
        "sort the tools by name before sending them" if tools else "put them in one order",
        gain_tokens=shuffled.lost_share,
    )


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding for each symptom and cause: what one cause costs in both tiers belongs together."""
    found: dict[tuple[Symptom, Cause], Finding] = {}
    for each in findings:
        before = found.get((each.symptom, each.cause))
        if before is None:
            found[each.symptom, each.cause] = each
            continue
        fixes = dict.fromkeys((before.fix, each.fix))
        found[each.symptom, each.cause] = Finding(
            each.symptom,
            each.cause,
            before.title,
            (*before.evidence, *each.evidence),
            "; ".join(fixes),
            max(before.gain_requests, each.gain_requests),
            max(before.gain_tokens, each.gain_tokens),
        )
    return list(found.values())


def _rounded(seconds: float) -> int:
    """Return a time that people would write: whole minutes, hours above six hours."""
    unit = 3600 if seconds > 6 * 3600 else 60
    return max(unit, -(-int(seconds) // unit) * unit)


def examine(
    records: Iterable[Record], *, ttl_seconds: float | None = None, entries: int | None = None
) -> Examination:
    """Return what is wrong in these requests. See `Examiner`."""
    examiner = Examiner(ttl_seconds=ttl_seconds, entries=entries)
    for record in records:
        examiner.see(record)
    return examiner.result()
