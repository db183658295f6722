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


def rank(chunks: Sequence[int], candidates: Sequence[Candidate], *, chunks_a_request: float) -> list[int]:
    """Return the candidates' places, best first.

    The best is who would have computed this prompt first: what a replica has under way, and what it lacks of
    the prompt, both counted in chunks. Who computed a conversation's last turn lacks nothing. Replicas that
    have more than `LOAD_FACTOR` times their even share under way come last, whatever they hold. Of equals,
    the first chunk that none has decides, so that routers that know nothing of each other send the same
    beginning to the same replica, and prompts with a beginning in common that all have go everywhere.

    Args:
        chunks: of the prompt; none if nothing is known of it.
        candidates: at least one.
        chunks_a_request: that a request under way has to compute, as far as is known.

    Source: Mirrokni, Thorup, Zadimoghaddam, Consistent hashing with bounded loads, 2016 (the bound);
        Thaler, Ravishankar, A name-based mapping scheme for rendezvous, 1996 (who of equals).
    """
    even = (sum(each.load for each in candidates) + 1) / len(candidates)
    most = math.ceil(LOAD_FACTOR * even)
    best = max(each.matched for each in candidates)
    decides = chunks[min(best, len(chunks) - 1)] if chunks else 0

    def worth(place: int) -> tuple[bool, float, int]:
        each = candidates[place]
        if each.load >= most:
            return (True, float(each.load), _draw(decides, each.name))
        lacking = 0 if each.knows_conversation else len(chunks) - each.matched
        return (False, each.load * chunks_a_request + lacking, _draw(decides, each.name))

    return sorted(range(len(candidates)), key=worth)


def _draw(chunk: int, name: str) -> int:
    text = f"{chunk}\0{name}".encode()
    return int.from_bytes(blake2b(text, digest_size=8, person=b"axc-rendezvous").digest(), "big")
