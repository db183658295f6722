"""Where a prompt goes: to the upstream that last computed its beginning, unless that has too much to do.

Upstreams tell nobody what is in their prefix caches. What is known here is what each was sent, so that is
what is matched: the text in chunks, each named by a digest of itself and all before it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Final

CHUNK_CHARACTERS: Final = 256
"""About 64 tokens: two of our blocks, four of vLLM's."""
_MOST_CHUNKS_OF_A_PROMPT: Final = 512
_LOAD_FACTOR: Final = 1.5
"""How much more than its even share an upstream may have to do, to be sent what it knows."""


class Affinity:
    """Remembers which upstream was sent which beginnings. Bounded; the least recently used goes first.

    Args:
        upstreams: how many there are.
        most_chunks: remembered in all; each takes about 150 bytes.
    """

    def __init__(self, upstreams: int, most_chunks: int = 100_000) -> None:
        self._upstreams = upstreams
        self._most_chunks = most_chunks
        self._known: OrderedDict[bytes, int] = OrderedDict()
        """The upstreams that were sent a chunk, as bits."""
        self._sent = [0] * upstreams

    def choose(self, chunks: Sequence[bytes], load: Sequence[int], alive: Collection[int]) -> int:
        """Return the upstream for a prompt.

        Args:
            chunks: of the prompt, as `chunk_digests` gives them.
            load: requests that each upstream has under way.
            alive: which of them may be chosen; at least one.
        """
        most = math.ceil(_LOAD_FACTOR * (sum(load[i] for i in alive) + 1) / len(alive))
        free = [i for i in alive if load[i] < most]
        matched = self._matched(chunks)
        # What nobody knows goes to who was sent least: else one cache would hold the prefixes of all.
        return min(free, key=lambda i: (-matched[i], load[i], self._sent[i], i))

    def note(self, chunks: Sequence[bytes], upstream: int) -> None:
        """Remember that an upstream was sent a prompt."""
        bit = 1 << upstream
        self._sent[upstream] += 1
        for chunk in reversed(chunks):  # the first ones are used last, and so are the last to be forgotten
            self._known[chunk] = self._known.pop(chunk, 0) | bit
        while len(self._known) > self._most_chunks:
            self._known.popitem(last=False)

    def forget(self, upstream: int) -> None:
        """Forget what an upstream was sent: it is gone, and what comes back there has an empty cache."""
        keep = ~(1 << upstream)
        known = ((chunk, bits & keep) for chunk, bits in self._known.items())
        self._known = OrderedDict((chunk, bits) for chunk, bits in known if bits)

    def _matched(self, chunks: Sequence[bytes]) -> list[int]:
        """Return how many leading chunks each upstream was sent."""
        matched = [0] * self._upstreams
        still = (1 << self._upstreams) - 1
        for number, chunk in enumerate(chunks, 1):
            still &= self._known.get(chunk, 0)
            if not still:
                break
            for upstream in range(self._upstreams):
                if still >> upstream & 1:
                    matched[upstream] = number
        return matched


def chunk_digests(text: str, *, start: bytes = b"") -> list[bytes]:
    """Return the digests of a text's whole chunks, each of everything up to its end.

    Args:
        text: the prompt.
        start: what else must be equal: a tenant, a model.
    """
    digest = blake2b(start, digest_size=8, person=b"axc-affinity")
    digests = []
    whole = min(len(text) // CHUNK_CHARACTERS, _MOST_CHUNKS_OF_A_PROMPT)
    for at in range(0, whole * CHUNK_CHARACTERS, CHUNK_CHARACTERS):
        digest.update(text[at : at + CHUNK_CHARACTERS].encode("utf-8", "surrogatepass"))
        digests.append(digest.digest())
    return digests
