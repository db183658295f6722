"""Entries that are put on the servers, many at once, and what is known of uses, which goes along."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from axolotl_cache.stores.base import Departure, Record
from axolotl_cache.stores.moved_dates import MovedDates
from axolotl_cache.stores.redis.entry import encode, lives_ms, row_text
from axolotl_cache.stores.redis.index import Index, Put, Putting
from axolotl_cache.stores.redis.uses import Uses

Reason = Literal["expired", "evicted"]

_LEARN_SECONDS: Final = 1.0


class Entry(NamedTuple):
    """What is to be stored, and where."""

    key: str
    record: Record
    token: int | None = None
    """Of the lease under which it was computed: refused if a later one was given since."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    departed: tuple[Departure, ...] = ()
    copies: int = 0
    """Servers that are known to have it, the primary included."""
    is_acknowledged: bool = False
    """Whether those are as many as were asked for."""
    is_fenced: bool = False
    """It came too late, and was not stored: another has computed the entry meanwhile."""


class Puts:
    """Puts entries for one store, under its lock.

    Args:
        index: the entries, and what is known of them.
        uses: what was used here.
        moved: dates that uses have moved.
    """

    def __init__(self, index: Index, uses: Uses, moved: MovedDates) -> None:
        self._index = index
        self._uses = uses
        self._moved = moved
        self._learnt_at = -_LEARN_SECONDS

    def put(self, entries: Sequence[Entry], now: float) -> list[Written]:
        """Store entries, in their order; return what became of each.

        Raises:
            StoreError: one of them was not stored. Others may be.
        """
        space = self._index.space
        self.write_notes([each.key for each in entries])
        policy, judged = self._uses.policy, self._uses.are_judged
        putting = []
        for key, record, token in entries:
            member = space.member(key)
            row, payload = row_text(key, record), encode(member, record)
            putting.append(Putting(member, row, payload, lives_ms(record, now), policy.rank(key), token))
        puts = self._index.put(putting, uses=policy.uses, now=now, judged=judged)
        return [self._written(each.member, put) for each, put in zip(putting, puts, strict=True)]

    def write_notes(self, added: Collection[str] = ()) -> None:
        """Write down ranks and dates that have changed, those of `added` left out.

        Raises:
            StoreError: it could not be done; they are kept.
        """
        if added or self._uses.has_news():
            self._learn_uses()
        ranks, dates = self._uses.take_ranks(added), self._moved.pending()
        if not ranks and not dates:
            return
        member = self._index.space.member
        try:
            self._index.note(
                {member(key): rank for key, rank in ranks.items()},
                [(member(key), version, expires_at) for key, version, expires_at in dates],
                uses=self._uses.policy.uses,
            )
        except BaseException:
            self._uses.give_back(ranks)
            raise
        self._moved.clear()

    def _written(self, member: bytes, put: Put) -> Written:
        if put.is_fenced:
            return Written(is_fenced=True)
        # Of several that were put at once, an earlier one may have seen to it.
        lowest = None if put.lowest is None else self._index.next_to_evict(member)
        evicted = [*put.evicted, *self._evict_by_policy(member, lowest)]
        departed = (*self._departed(put.expired, "expired"), *self._departed(evicted, "evicted"))
        return Written(departed, put.copies, put.copies >= self._index.commands.link.copies)

    def _evict_by_policy(self, spare: bytes, lowest: bytes | None) -> list[bytes]:
        """Evict whom the policy names in place of who has the lowest rank, until the bounds hold."""
        space, evicted = self._index.space, []
        while lowest is not None:
            key = space.key(lowest)
            victim = lowest if key is None else space.member(self._uses.policy.judge(key))
            if victim == spare or space.partition(victim) != space.partition(spare):
                victim = lowest
            evicted += self._index.remove(0.0, members=[victim], everywhere=True)[0]
            self._uses.policy.drop(space.key(victim) or "")
            lowest = self._index.next_to_evict(spare)
        return evicted

    def _learn_uses(self) -> None:
        """Let this machine's ranks go on where those of the others are. At most once a second."""
        now = time.monotonic()
        if now - self._learnt_at >= _LEARN_SECONDS:
            uses = self._index.total("uses", highest=True)
            self._uses.policy.uses = max(self._uses.policy.uses, uses)
            self._learnt_at = now

    def _departed(self, members: Iterable[bytes], reason: Reason) -> list[Departure]:
        keys = [key for key in map(self._index.space.key, members) if key is not None]
        for key in keys:
            self._uses.policy.drop(key)
        return [Departure(key, reason) for key in keys]
