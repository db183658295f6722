"""Why one request of a log is a miss: the nearest one before it, where they part, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.prefix.agreement import common_length
from axolotl_cache.profiling.blocks import Blocks, Cutter
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
    part: str
    """Where in the prompt they part, as `the system message`; empty if the log has no text."""
    part_characters: int
    """Which character of that part it is, from 0."""
    first_difference_tokens: int | None
    """Index of the first token that differs; None if none does. `tokens_are` says how good it is."""
    tokens_are: str
    """`counted` by the tokenizer, `estimated` from bytes, or `in whole blocks` where the log has hashes."""
    token_here: str
    """The first token that differs, and what this request has there; empty without a tokenizer."""
    token_there: str
    """What the nearest has there."""
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


class Tokenizer(Protocol):
    """Cuts prompts into the tokens of the model at hand."""

    def __call__(self, record: Record) -> Sequence[int]:
        """Return the token ids of a record's prompt."""

    def show(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""


def explain(
    records: Callable[[], Iterable[Record]], number: int, *, tokenizer: Tokenizer | None = None
) -> Explanation:
    """Return why the `number`-th request is a miss. Reads the log twice up to there, and holds two requests.

    Args:
        records: begins a new reading of the log each time it is called.
        number: from 1.
        tokenizer: names the first token that differs; without it, its place is estimated.

    Raises:
        NoSuchRequest: the log ends before it.
    """
    wanted = _nth(records(), number)
    keys, text, cutter = keys_of(wanted), wanted.text() if wanted.has_text else "", Cutter()
    blocks = cutter.cut(wanted)
    best = _Best(wanted.lead_characters if text else 0, blocks.key)
    for index, record in enumerate(records(), 1):
        if index >= number:
            break
        best.see(index, record, keys, text, blocks.ids[: blocks.asked], cutter)
    difference = _difference(wanted, text, blocks, best, cutter, tokenizer)
    is_apart = bool(text) and difference.at is not None and best.nearest is not None
    part, at = wanted.place_of(best.shared) if is_apart else ("", 0)
    return Explanation(
        request=number,
        prompt_tokens=difference.prompt_tokens,
        nearest=best.nearest,
        part=part,
        part_characters=at,
        first_difference_tokens=difference.at if best.nearest is not None else None,
        tokens_are=difference.are,
        token_here=difference.here,
        token_there=difference.there,
        shared_characters=best.shared,
        shared_tokens=difference.shared_tokens,
        at=text[: best.shared][-_AROUND:],
        here=text[best.shared : best.shared + _AROUND],
        there=best.there,
        same_key=best.same_key,
        cause=best.cause,
        cause_request=best.cause_request,
        reason=_reason(wanted, best),
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    """The first token that differs."""

    prompt_tokens: int
    shared_tokens: int
    at: int | None
    are: str
    here: str = ""
    there: str = ""


def _difference(
    wanted: Record, text: str, blocks: Blocks, best: _Best, cutter: Cutter, tokenizer: Tokenizer | None
) -> _Difference:
    size = blocks.block_tokens
    if text and tokenizer is not None:
        ids = tokenizer(wanted)
        theirs = [] if best.record is None else tokenizer(_with_answer(best.record))
        same = common_length(ids, theirs)
        shared = min(same, max(0, len(ids) - 1)) // size * size
        if same == len(ids):
            return _Difference(len(ids), shared, None, "counted")
        here, there = tokenizer.show(ids[same : same + 1]), tokenizer.show(theirs[same : same + 1])
        return _Difference(len(ids), shared, same, "counted", here, there)
    shared = best.blocks * size
    if not text:
        at = None if best.is_same else shared
        return _Difference(blocks.tokens, shared, at, "in whole blocks")
    common = len(text[: best.shared].encode("utf-8", "surrogatepass"))
    at = None if best.shared == len(text) else min(blocks.tokens, int(common / cutter.bytes_per_token))
    return _Difference(blocks.tokens, shared, at, "estimated")


class _Best:
    """The nearest request so far.

    Args:
        lead_characters: that all texts share.
        key: of the prompt that they are compared with.
    """

    def __init__(self, lead_characters: int, key: int) -> None:
        self._lead = lead_characters
        self._key = key
        self.nearest: int | None = None
        self.record: Record | None = None
        self.is_same = False
        """Whether all that can be compared of the two prompts is equal."""
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
        blocks = common_length(ids, cut.ids)
        theirs = record.text() + (record.answer or "") if record.has_text else ""
        shared = _common_text(text, theirs)
        if (blocks or shared > self._lead) and (blocks, shared) >= (self.blocks, self.shared):
            self.nearest, self.record, self.blocks, self.shared = index, record, blocks, shared
            self.there = theirs[shared : shared + _AROUND]
            self.is_same = cut.key == self._key


def _with_answer(record: Record) -> Record:
    """Return the request with its answer behind it, which is cached as well as the prompt."""
    if record.answer is None:
        return record
    if record.prompt is not None:
        return replace(record, prompt=record.prompt + record.answer)
    return replace(record, messages=(*record.messages, ("assistant", record.answer)))


def _nth(records: Iterable[Record], number: int) -> Record:
    last = 0
    for last, record in enumerate(records, 1):
        if last == number:
            return record
    raise NoSuchRequest(f"there is no request {number}: the log has {last:,}, counted from 1")


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


def _parting(found: Explanation) -> Iterator[str]:
    at = f"{found.first_difference_tokens:,}"
    if not found.part:
        yield f"they part in the block that begins at token {at}: the log has hashes, and no text"
        return
    tokens = f"({found.token_here!r}; the other has {found.token_there!r})"
    token = f"token {at} {tokens}" if found.tokens_are == "counted" else f"about token {at}"
    yield f"they part at {token}, in {found.part} at character {found.part_characters:,}, behind {found.at!r}"
    yield f"  this one goes on  {found.here!r}"
    yield f"  the other         {found.there!r}"


def lines_of(found: Explanation) -> Iterator[str]:
    """Yield the explanation for people."""
    yield f"request {found.request}: {found.reason}"
    if found.nearest is not None:
        yield (
            f"nearest before it: request {found.nearest}, the same for {found.shared_tokens:,} of "
            f"{found.prompt_tokens:,} tokens, in whole blocks"
        )
        if found.first_difference_tokens is not None:
            yield from _parting(found)
    yield f"cost: {found.computed_tokens:,} prompt tokens to compute, if nothing was evicted"
