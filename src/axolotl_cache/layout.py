"""Content that changes early in the prompt, in front of content that does not, and what that costs.

A prefix is shared up to the first difference. A date in the first line makes every prompt new from there on,
however long the instructions behind it are, and equal each time.

The beginnings of a sample of requests are cut into lines and sentences. What many requests have is stable;
what few have, with stable ones behind it, must move. The requests may be those of a log (`profiling/`), or
the last ones of a running program (`pipeline/layout_report.py`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from axolotl_cache.language.volatile import first_of, kinds_in, masked

SAMPLE: Final = 2_000
_HEAD_CHARACTERS: Final = 16_000
_PIECE: Final = re.compile(r"[^\n]*?(?:[.!?:;]\s+|。|！|？|\n)|[^\n]+")
_RARE: Final = 0.25
"""A piece changes if at most so many of the requests that have the next stable piece have it, too."""
FEWEST: Final = 5
_NAME: Final = re.compile(
    r"\b(?:user|customer|name|client|member|employee|guest|patient|student|you are (?:helping|talking to)"
    r"|speaking (?:to|with)|hello|hi|dear)\b|用户|客户|姓名",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ChangingPart:
    """Something that changes early, and the stable content that it keeps from being shared."""

    kind: str
    """`time`, `id`, `user`, or `text` for anything else."""
    requests: int
    """Of the sample."""
    sampled: int
    at_characters: int
    """Where it stands, median."""
    lost_characters: int
    """Of stable content behind it, over all requests of the sample but the first."""
    total_characters: int
    """Of all prompts of the sample."""
    examples: tuple[str, ...]
    """The pieces as they stand, two different ones."""

    @property
    def lost_share(self) -> float:
        """Share of all prompt text that could be shared if this stood behind the stable content."""
        return self.lost_characters / max(1, self.total_characters)


@dataclass(frozen=True, slots=True)
class ShuffledParts:
    """Parts that come in another order each time."""

    what: str
    """`tools`, or `parts` of the prompt."""
    requests: int
    sampled: int
    orders: int
    """Different orders of the same parts, of the most frequent set."""
    lost_characters: int
    total_characters: int
    examples: tuple[str, ...]

    @property
    def lost_share(self) -> float:
        """Share of all prompt text that could be shared in one order."""
        return self.lost_characters / max(1, self.total_characters)


Messages = Sequence[tuple[str, str]]
"""Role and text of each."""


@dataclass(frozen=True, slots=True)
class Head:
    """What of a prompt should be the same for all: its system messages, or else what it begins with."""

    pieces: tuple[str, ...]
    """Lines and sentences; together they are the text, as far as it is looked at."""
    tools: tuple[str, ...]
    """As JSON, in the order of the request."""
    principal: str
    characters: int
    """Of the whole prompt."""


class HeadSample:
    """Beginnings of prompts: of all requests, or of every 2nd, 4th, ..., so that 2,000 are held at most.

    Args:
        limit: how many are held at most.
        fewest: how many requests something must be seen in to count.
    """

    def __init__(self, limit: int = SAMPLE, *, fewest: int = FEWEST) -> None:
        self._limit = limit
        self._fewest = fewest
        self._step = 1
        self._seen = 0
        self._heads: list[Head] = []

    def see(
        self,
        messages: Messages,
        *,
        prompt: str | None = None,
        tools: tuple[str, ...] = (),
        principal: str = "",
    ) -> None:
        """Take a request, if it is its turn.

        Args:
            messages: of it, as far as it has a text; with neither these nor a prompt it is left out.
            prompt: its text, where it is one.
            tools: as JSON, in its order.
            principal: who asks; empty if it does not say.
        """
        if prompt is None and not messages:
            return
        self._seen += 1
        if (self._seen - 1) % self._step:
            return
        text = system_of(messages) or messages[0][1] if prompt is None else prompt
        characters = len(prompt or "") + sum(len(each) for _, each in messages) + sum(map(len, tools))
        self._heads.append(Head(pieces_of(text), tools, principal, characters))
        if len(self._heads) > self._limit:
            self._heads = self._heads[::2]
            self._step *= 2

    def changing(self) -> tuple[ChangingPart, ...]:
        """Return what changes early, the most costly first."""
        counts = Counter(each for head in self._heads for each in set(head.pieces))
        masks = Counter(each for head in self._heads for each in {masked(piece) for piece in head.pieces})
        found = defaultdict[str, list[tuple[Head, int, int]]](list)
        seen: set[bytes] = set()
        for head in self._heads:
            at = _first_changing(head, counts, self._fewest)
            if at is None:
                continue
            beginning = _digest("".join(head.pieces[: at + 1]))
            if beginning in seen:  # it was shared all the same
                continue
            seen.add(beginning)
            floor = max(counts[each] for each in head.pieces[at + 1 :])
            lost = sum(len(each) for each in head.pieces[at + 1 :] if counts[each] * 4 >= floor > 1)
            for kind in _kinds(head.pieces[at], counts, masks, self._fewest):
                found[kind].append((head, at, lost))
        total = sum(head.characters for head in self._heads)
        parts = [
            _part(kind, cases, len(self._heads), total)
            for kind, cases in found.items()
            if len(cases) >= self._fewest
        ]
        return tuple(
            sorted((_named(part, found[part.kind]) for part in parts), key=lambda p: -p.lost_characters)
        )

    def shuffled(self) -> tuple[ShuffledParts, ...]:
        """Return what comes in changing order: tools, or parts of the prompt."""
        total = sum(head.characters for head in self._heads)
        counts = Counter(each for head in self._heads for each in set(head.pieces))
        often = max(self._fewest, len(self._heads) // 20)
        tools = [head.tools for head in self._heads if len(head.tools) > 1]
        parts = [tuple(piece for piece in head.pieces if counts[piece] >= often) for head in self._heads]
        found = [_shuffled("tools", tools, len(self._heads), total, self._fewest)]
        if found[0] is None:
            several = [each for each in parts if len(each) > 1]
            found.append(_shuffled("parts", several, len(self._heads), total, self._fewest))
        return tuple(each for each in found if each is not None)


def system_of(messages: Messages) -> str:
    """Return the text of the leading system messages; empty if there are none."""
    texts = []
    for role, text in messages:
        if role not in {"system", "developer"}:
            break
        texts.append(text)
    return "\n".join(texts)


def pieces_of(text: str) -> tuple[str, ...]:
    """Return the lines and sentences that the beginning of a text is made of; together they are the text."""
    return tuple(_PIECE.findall(text[:_HEAD_CHARACTERS]))


def _first_changing(head: Head, counts: Counter[str], fewest: int) -> int | None:
    """Return the index of the first piece that changes and has stable ones behind it."""
    most = 0
    at = None
    for index in range(len(head.pieces) - 1, -1, -1):
        count = counts[head.pieces[index]]
        if most >= fewest and count <= most * _RARE:
            at = index
        most = max(most, count)
    return at


def _kinds(piece: str, counts: Counter[str], masks: Counter[str], fewest: int) -> Iterable[str]:
    if masks[masked(piece)] > max(counts[piece], fewest - 1) and (kinds := kinds_in(piece)):
        return kinds
    return ("text",)


def _part(kind: str, cases: Sequence[tuple[Head, int, int]], sampled: int, total: int) -> ChangingPart:
    places = sorted(sum(map(len, head.pieces[:at])) for head, at, _ in cases)
    examples = dict.fromkeys(
        first_of(head.pieces[at], kind) or head.pieces[at].strip()[:80] for head, at, _ in cases
    )
    return ChangingPart(
        kind,
        len(cases),
        sampled,
        places[len(places) // 2],
        sum(lost for _, _, lost in cases[1:]),  # the first has to be computed in any order
        total,
        tuple(examples)[:2],
    )


def _named(part: ChangingPart, cases: Sequence[tuple[Head, int, int]]) -> ChangingPart:
    """Return the part as `user` if it goes with who asks."""
    if part.kind != "text":
        return part
    by_principal = defaultdict[str, set[str]](set)
    for head, at, _ in cases:
        if head.principal:
            by_principal[head.principal].add(head.pieces[at])
    one_each = len(by_principal) > 1 and sum(map(len, by_principal.values())) <= 1.2 * len(by_principal)
    says_so = sum(bool(_NAME.search(head.pieces[at])) for head, at, _ in cases) > len(cases) / 2
    if not (one_each or says_so):
        return part
    return ChangingPart("user", *(getattr(part, name) for name in ChangingPart.__slots__[1:]))


def _shuffled(
    what: str, lists: Sequence[tuple[str, ...]], sampled: int, total: int, fewest: int
) -> ShuffledParts | None:
    orders = defaultdict[bytes, Counter[tuple[str, ...]]](Counter)
    for each in lists:
        orders[_digest("\0".join(sorted(each)))][each] += 1
    requests = lost = most = 0
    examples: tuple[str, ...] = ()
    for counter in orders.values():
        count = sum(counter.values())
        if len(counter) < 2 or count < fewest:
            continue
        usual = counter.most_common(1)[0][0]
        for order, times in counter.items():
            if order != usual:
                same = next(i for i, (a, b) in enumerate(zip(order, usual, strict=True)) if a != b)
                requests += times
                lost += times * sum(map(len, order[same:]))
        if len(counter) > most:
            most = len(counter)
            examples = tuple(" | ".join(_short(p) for p in order[:4]) for order in list(counter)[:2])
    if requests < fewest or requests * 20 < len(lists):
        return None
    return ShuffledParts(what, requests, sampled, most, lost, total, examples)


_TOOL_NAME: Final = re.compile(r'"name":\s*"([^"]{1,60})"')


def _short(part: str) -> str:
    name = _TOOL_NAME.search(part)
    return name[1] if name else part.strip()[:40]


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
