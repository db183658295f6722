"""What a router knows of its replicas: what they told, and what it has sent them since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from axolotl_cache.ray_serve.choice import Candidate

TRUST_SECONDS: Final = 10.0
"""How long what was sent counts as held without the replica's word: several of its reports."""
_MOST_SENT: Final = 20_000
_NEWEST_SHARE: Final = 0.02
"""Of the newest request in what is taken for usual: some 50 make it up."""


@dataclass(slots=True)
class _Replica:
    told: frozenset[int] = frozenset()
    has_told: bool = False
    sent: OrderedDict[int, float] = field(default_factory=OrderedDict)
    """When each chunk was sent last, oldest first."""


class Knowledge:
    """Of each replica, the chunks that it holds; bounded.

    A replica's own word is the truth, some seconds late. What was sent since is taken for held meanwhile:
    else the second request behind a prefix would not find the first one's replica.

    Args:
        trust_seconds: for so long; of a replica that never told anything, without end.
        most_sent: chunks remembered of what was sent, a replica; about 150 bytes each.
    """

    def __init__(self, *, trust_seconds: float = TRUST_SECONDS, most_sent: int = _MOST_SENT) -> None:
        self._trust_seconds = trust_seconds
        self._most_sent = most_sent
        self._replicas: dict[str, _Replica] = {}
        self.chunks_a_request = 1.0
        """Chunks that a request had to compute, of late."""

    def told(self, name: str, held: Iterable[int]) -> None:
        """Note what a replica says that it holds, in place of what it said before."""
        replica = self._replicas.setdefault(name, _Replica())
        replica.told = frozenset(held)
        replica.has_told = True

    def sent(self, name: str, chunks: Sequence[int], now: float) -> None:
        """Note that a replica was sent a prompt."""
        replica = self._replicas.setdefault(name, _Replica())
        lacking = sum(not self._holds(replica, chunk, now) for chunk in chunks)
        self.chunks_a_request += _NEWEST_SHARE * (max(lacking, 1) - self.chunks_a_request)
        sent = replica.sent
        for chunk in reversed(chunks):  # the first ones last: they are forgotten last
            sent[chunk] = now
            sent.move_to_end(chunk)
        while len(sent) > self._most_sent:
            sent.popitem(last=False)

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all other replicas: they are gone, and what they held with them."""
        for name in self._replicas.keys() - set(names):
            del self._replicas[name]

    def candidates(
        self, chunks: Sequence[int], conversation: int | None, loads: Mapping[str, int], now: float
    ) -> list[Candidate]:
        """Return how each replica stands to a prompt, in the order of `loads`.

        Args:
            chunks: of the prompt.
            conversation: the number of its session; None without one.
            loads: requests that each replica has under way.
            now: seconds, on the clock of `sent`.
        """
        found = []
        for name, load in loads.items():
            replica = self._replicas.get(name)
            if replica is None:
                found.append(Candidate(name, 0, load))
                continue
            matched = 0
            while matched < len(chunks) and self._holds(replica, chunks[matched], now):
                matched += 1
            knows = conversation is not None and self._holds(replica, conversation, now)
            found.append(Candidate(name, matched, load, knows))
        return found

    def _holds(self, replica: _Replica, chunk: int, now: float) -> bool:
        if chunk in replica.told:
            return True
        sent_at = replica.sent.get(chunk)
        return sent_at is not None and (not replica.has_told or now - sent_at < self._trust_seconds)
