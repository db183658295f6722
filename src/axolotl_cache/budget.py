"""One bound for the memory of several caches: bytes go where the next ones save most time, as measured.

What a cache had to evict is remembered for a while, by name, with its size and with the seconds that
having it again would save: its ghosts. A miss that a ghost would have answered is time that so many more
bytes would have saved. The budget compares these times between caches, and moves a small step from the one
that loses least to the one that loses most. Nothing is estimated: who takes a step in vain loses it again.

Source: Cidon et al., Cliffhanger: scaling performance cliffs in web memory caches, 2016 (shadow queues and
small steps); Megiddo and Modha, ARC: a self-tuning, low overhead replacement cache, 2003 (ghost lists).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

_STEPS = 64
"""A step is this part of everything: a wrong one costs little, and a whole move takes minutes, not hours."""
_REACH_STEPS = 4
"""Ghosts stand for so many steps: more, and they speak of bytes that one step would not bring."""
_CLEARLY_MORE = 2.0
"""Who gets a step lost at least so many times what the giver did: less would go to and fro by chance."""
_LEAST_SHARE = 1 / 16
"""What every cache keeps, so that it can show what it is good for."""
_FADE = 0.5
"""What was lost counts half after each look."""


class Ghosts:
    """Names of what was evicted lately, and the time that was lost for its being gone.

    Not thread-safe: its cache calls it under its own lock. Each call costs O(1) over time.

    Args:
        reach_bytes: how much is remembered, by the size that it had.
    """

    def __init__(self, reach_bytes: int = 0) -> None:
        self.reach_bytes = reach_bytes
        self.lost_seconds = 0.0
        """In sum, since the start."""
        self.seconds_each = 1.0
        """What one of what it is told saves, for caches that count in something else than seconds."""
        self._names: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        self._bytes = 0

    def evicted(self, name: Hashable, size_bytes: int, seconds: float) -> None:
        """Remember what was evicted, and what having it again would save."""
        self._take(name)
        self._names[name] = size_bytes, seconds
        self._bytes += size_bytes
        while self._bytes > self.reach_bytes:
            _, (gone_bytes, _) = self._names.popitem(last=False)
            self._bytes -= gone_bytes

    def missed(self, name: Hashable) -> bool:
        """Count a miss as lost time, if it is of something evicted lately; return whether it was."""
        ghost = self._take(name)
        if ghost is None:
            return False
        self.lost_seconds += ghost[1] * self.seconds_each
        return True

    def forget(self) -> None:
        """Forget all names."""
        self._names.clear()
        self._bytes = 0

    def _take(self, name: Hashable) -> tuple[int, float] | None:
        ghost = self._names.pop(name, None)
        if ghost is not None:
            self._bytes -= ghost[0]
        return ghost


class Tenant(Protocol):
    """A cache that shares the memory."""

    @property
    def held_bytes(self) -> int:
        """What it holds now."""

    @property
    def ghosts(self) -> Ghosts:
        """What it had to evict."""

    def resize(self, max_bytes: int) -> int:
        """Hold at most so much from now on; return the bound in force, higher where bytes are in use."""


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes that went from one cache to another."""

    giver: str
    taker: str
    moved_bytes: int
    lost_seconds: tuple[float, float]
    """By giver and taker, lately, for what they had evicted."""
    taker_bytes: int
    """The bound of the one that took them, now."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a cache begins with."""

    name: str
    tenant: Tenant
    start_bytes: int
    most_bytes: int | None = None
    """Never more than this, whatever it would save; None is all that the others can give."""
    within: str = ""
    """Whoever has the same name here holds no more than `most_bytes` together; empty is alone."""


@dataclass(slots=True)
class _Share:
    claim: Claim
    max_bytes: int
    least_bytes: int
    seen_seconds: float = 0.0
    lately_seconds: float = 0.0


class MemoryBudget:
    """Shares one bound out among caches, and moves bytes between them. Never do their bounds exceed it.

    The bound is what they begin with, together. Call `look` now and then, from one thread at a time.

    Args:
        claims: of the caches.
        report: gets each move.

    Raises:
        ValueError: there is none, or one begins with nothing.
    """

    def __init__(
        self, claims: Sequence[Claim], *, report: Callable[[Move], None] = lambda move: None
    ) -> None:
        if not claims or min(claim.start_bytes for claim in claims) <= 0:
            raise ValueError("every cache of a budget begins with some bytes, and there is at least one")
        self.max_bytes = sum(claim.start_bytes for claim in claims)
        self._step_bytes = max(1, self.max_bytes // _STEPS)
        self._report = report
        self._shares: list[_Share] = []
        for claim in claims:
            claim.tenant.ghosts.reach_bytes = _REACH_STEPS * self._step_bytes
            least = min(claim.start_bytes, int(_LEAST_SHARE * self.max_bytes))
            self._shares.append(_Share(claim, claim.tenant.resize(claim.start_bytes), least))

    def bounds(self) -> dict[str, int]:
        """Return what each may hold, in bytes."""
        return {share.claim.name: share.max_bytes for share in self._shares}

    def look(self) -> Move | None:
        """Compare what was lost since the last look, and move at most one step.

        Whoever has room to spare gives first: what it does not use, it does not lose. Cost: O(caches^2).
        """
        for share in self._shares:
            lost = share.claim.tenant.ghosts.lost_seconds
            share.lately_seconds = share.lately_seconds * _FADE + lost - share.seen_seconds
            share.seen_seconds = lost
        takers = [s for s in self._shares if s.lately_seconds > 0 and not self._has_room(s)]
        for taker in sorted(takers, key=lambda share: -share.lately_seconds):
            giver = self._giver(taker)
            if giver is not None:
                return self._move(giver, taker)
        return None

    def _giver(self, taker: _Share) -> _Share | None:
        """Return who loses least by giving a step, if that is clearly less than the taker loses."""
        step = self._step_bytes
        givers = [
            share
            for share in self._shares
            if share is not taker
            and share.max_bytes - step >= share.least_bytes
            and self._may_grow(taker, share)
        ]
        giver = min(givers, key=lambda s: (not self._has_room(s), s.lately_seconds), default=None)
        if giver is None or self._has_room(giver):
            return giver
        return giver if taker.lately_seconds >= _CLEARLY_MORE * giver.lately_seconds else None

    def _has_room(self, share: _Share) -> bool:
        return share.claim.tenant.held_bytes + self._step_bytes <= share.max_bytes

    def _may_grow(self, share: _Share, giver: _Share) -> bool:
        claim = share.claim
        if claim.most_bytes is None:
            return True
        together = [
            s for s in self._shares if s is share or (claim.within and s.claim.within == claim.within)
        ]
        more = 0 if giver in together else self._step_bytes
        return sum(s.max_bytes for s in together) + more <= claim.most_bytes

    def _move(self, giver: _Share, taker: _Share) -> Move | None:
        # First give, then take, and no more than was really given: what is in use can't go at once.
        before = giver.max_bytes
        giver.max_bytes = giver.claim.tenant.resize(before - self._step_bytes)
        freed = before - giver.max_bytes
        if freed <= 0:
            return None
        taker.max_bytes = taker.claim.tenant.resize(taker.max_bytes + freed)
        lost = giver.lately_seconds, taker.lately_seconds
        move = Move(giver.claim.name, taker.claim.name, freed, lost, taker.max_bytes)
        self._report(move)
        return move
