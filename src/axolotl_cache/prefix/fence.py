"""Fences: from where on a prompt's blocks are only for those who may read what stands there.

Blocks are found by their tokens, so that whoever can guess a text can find out, by the time it takes, whether
somebody else has sent it. Where a prompt goes on with what is not everybody's (an entity's record, a
conversation), it has a fence: what stands behind is found only by prompts that have a fence of the same name
at the same place. This library gives the names, after it has been made sure who asks, and never a client.

Source: the per-block extra keys of vLLM's prefix caching (cache_salt), put where the private part begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Fence:
    """One fence of a prompt."""

    position_tokens: int
    """Index of the first token that may stand behind it."""
    name: str
    """Who may pass: equal names may."""


Fences = tuple[Fence, ...]
"""A prompt's fences, by position."""


def marks(fences: Sequence[Fence], block_size: int) -> dict[int, bytes]:
    """Return what is added to the keys of the blocks in which fences stand, by the block's index.

    A block with a fence in its midst is behind the fence as a whole. Behind that block nothing is added: a
    block is only ever found behind those before it.
    """
    names: dict[int, list[str]] = {}
    for fence in fences:
        names.setdefault(fence.position_tokens // block_size, []).append(fence.name)
    return {block: json.dumps(each, separators=(",", ":")).encode() for block, each in names.items()}


def names_before(fences: Sequence[Fence], tokens: int) -> tuple[str, ...]:
    """Return the names of the fences that stand before this many tokens have passed."""
    return tuple(fence.name for fence in fences if fence.position_tokens < tokens)


def label(name: str) -> str:
    """Return what a fence goes by outside of this process: a digest, as names may say who asked."""
    return blake2b(name.encode(), digest_size=16, person=b"axc-fence").hexdigest()
