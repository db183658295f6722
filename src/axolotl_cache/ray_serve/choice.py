"""Which replica a request should go to. A pure function: no Ray, no clock, no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

LOAD_FACTOR: Final = 1.5
"""How much more than its even share a replica may have to do, to be sent what it holds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica, as a router sees it for one request."""

    name: str
    matched: int
    """Leading chunks of the prompt that it holds."""
    load: int
    """Requests that it has under way."""
    knows_conversation: bool = False
    """Whether it computed the turn before."""


def rank(first_chunk: int | None, candidates: Sequence[Candidate]) -> list[int]:
    """Return the candidates' places, best first.

    First come those that do not have more than `LOAD_FACTOR` times their even share to do, with this request:
    who computed the conversation's last turn, who holds more of the prompt, who has less to do. Then the
    busy ones, least busy first. Of equals, a prompt's beginning decides, so that routers that know nothing
    of each other send the same beginning to the same replica.

    Args:
        first_chunk: of the prompt; None if nothing is known of it.
        candidates: at least one.

    Source: Mirrokni, Thorup, Zadimoghaddam, Consistent hashing with bounded loads, 2016 (the bound);
        Thaler, Ravishankar, A name-based mapping scheme for rendezvous, 1996 (who of equals).
    """
    even = (sum(each.load for each in candidates) + 1) / len(candidates)
    most = math.ceil(LOAD_FACTOR * even)
    draws = [_draw(first_chunk, each.name) for each in candidates]

    def worth(place: int) -> tuple[bool, bool, int, int, int]:
        each = candidates[place]
        if each.load >= most:
            return (True, False, 0, each.load, draws[place])
        return (False, not each.knows_conversation, -each.matched, each.load, draws[place])

    return sorted(range(len(candidates)), key=worth)


def _draw(first_chunk: int | None, name: str) -> int:
    text = f"{first_chunk or 0}\0{name}".encode()
    return int.from_bytes(blake2b(text, digest_size=8, person=b"axc-rendezvous").digest(), "big")
