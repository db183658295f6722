"""Why one request of a log is a miss: the nearest one before it, where they part, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.profiling.blocks import Cutter
from axolotl_cache.profiling.doctor.finding import Cause
from axolotl_cache.profiling.doctor.keys import Keys, keys_of
from axolotl_cache.profiling.record import Record

_AROUND: Final = 60
"""Characters shown before and behind a difference."""

_BECAUSE: Final = {
    Cause.CLOCK: "only a date or time differs",
    Cause.REQUEST_ID: "only an id differs",
    Cause.BLANKS: "only blanks differ",
    Cause.TOOL_ORDER: "only the order of the tools differs",
    Cause.MAX_TOKENS: "only max_tokens differs",
    Cause.SEEDS: "only the seed differs",
    Cause.NAMESPACE: "only the namespace differs (weights, template, tags or version)",
    Cause.TEMPLATE: "only the chat template differs",
}


class NoSuchRequest(AxolotlCacheError):
    """The log has no request of this number."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One request of a log, against all before it."""

    request: int
    """Its number, from 1."""
    prompt_tokens: int
    nearest: int | None
    """Number of the request before it that shares most of its beginning; None if none shares anything."""
    shared_characters: int
    """Of the text; 0 if the log has none."""
    shared_tokens: int
    """What a prefix cache that forgets nothing would find: whole blocks."""
    at: str
    """The text where they part, up to there."""
    here: str
    """How this request goes on."""
    there: str
    """How the nearest goes on."""
    same_key: int | None
    """Number of the last request before it with the very same key: a response cache's hit."""
    cause: Cause | None
    """The one difference that keeps it from being a hit of the response cache, if there is just one."""
    cause_request: int | None
    reason: str

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens to compute, with a prefix cache that forgets nothing."""
        return self.prompt_tokens - self.shared_tokens


def explain(records: Callable[[], Iterable[Record]], number: int) -> Explanation:
    """Return why the `number`-th request is a miss. Reads the log twice up to there, and holds one request.

    Args:
        records: begins a new reading of the log each time it is called.
        number: from 1.

    Raises:
        NoSuchRequest: the log ends before it.
    """
    wanted = _nth(records(), number)
    keys, text, cutter = keys_of(wanted), wanted.text() if wanted.has_text else "", Cutter()
    blocks = cutter.cut(wanted)
    best = _Best()
    for index, record in enumerate(records(), 1):
        if index >= number:
            break
        best.see(index, record, keys, text, blocks.ids[: blocks.asked], cutter)
    same = text[: best.shared]
    return Explanation(
        number,
        blocks.tokens,
        best.nearest,
        best.shared,
        best.blocks * blocks.block_tokens,
        same[-_AROUND:],
        text[best.shared : best.shared + _AROUND],
        best.there,
        best.same_key,
        best.cause,
        best.cause_request,
        _reason(wanted, best),
    )


class _Best:
    def __init__(self) -> None:
        self.nearest: int | None = None
        self.shared = self.blocks = 0
        self.there = ""
        self.same_key: int | None = None
        self.cause: Cause | None = None
        self.cause_request: int | None = None

    def see(
        self, index: int, record: Record, keys: Keys, text: str, ids: Iterable[int], cutter: Cutter
    ) -> None:
        other = keys_of(record)
        if other.full == keys.full:
            self.same_key = index
        else:
            for cause, key in keys.without.items():
                if other.without.get(cause) == key and not (cause is Cause.TEMPLATE and self.cause):
                    self.cause, self.cause_request = cause, index
        cut = cutter.cut(record)
        blocks = _common(ids, cut.ids)
        theirs = record.text() if record.has_text else ""
        shared = _common_text(text, theirs)
        if blocks > self.blocks or (blocks == self.blocks and shared > self.shared):
            self.nearest, self.blocks, self.shared = index, blocks, shared
            self.there = theirs[shared : shared + _AROUND]


def _nth(records: Iterable[Record], number: int) -> Record:
    last = 0
    for last, record in enumerate(records, 1):
        if last == number:
            return record
    raise NoSuchRequest(f"there is no request {number}: the log has {last:,}, counted from 1")


def _common(ours: Iterable[int], theirs: Iterable[int]) -> int:
    count = 0
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            break
        count += 1
    return count


def _common_text(one: str, other: str) -> int:
    """Return how many leading characters agree. Cost: O(n) in C, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _reason(wanted: Record, best: _Best) -> str:
    if best.same_key is not None:
        if not wanted.is_repeatable:
            return (
                f"request {best.same_key} is the same, but both are sampled without a seed: nothing is stored"
            )
        if wanted.served == "hit-exact":
            return f"a hit: request {best.same_key} stored the answer"
        return f"request {best.same_key} is the same: its answer expired, was evicted, or was not stored"
    if best.cause is not None:
        return f"{_BECAUSE[best.cause]} from request {best.cause_request}"
    if best.nearest is None:
        return "no request before it begins like this one"
    return f"the prompt is new; it shares most with request {best.nearest}"


def lines_of(found: Explanation) -> Iterator[str]:
    """Yield the explanation for people."""
    yield f"request {found.request}: {found.reason}"
    if found.nearest is not None:
        yield (
            f"nearest before it: request {found.nearest}, the same for {found.shared_tokens:,} of "
            f"{found.prompt_tokens:,} tokens, in whole blocks"
        )
        if found.here or found.there:
            yield f"they part at character {found.shared_characters:,}, behind {found.at!r}"
            yield f"  this one goes on  {found.here!r}"
            yield f"  the other         {found.there!r}"
    yield f"cost: {found.computed_tokens:,} prompt tokens to compute, if nothing was evicted"
