"""The prefix tree for people: runs of blocks without a branch in them, as the branches of a real tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_cache.prefix.node import Node

SHOWN_BLOCKS: Final = 4
"""Of a run's token ids, so many blocks are handed out: enough to recognise it by."""


@dataclass(frozen=True, slots=True)
class Run:
    """Successive blocks that were hit equally often, each the only one behind the one before."""

    id: int
    """Lower than those of the runs behind it."""
    parent: int | None
    namespace: str
    start_blocks: int
    """Blocks in front of it."""
    blocks: int
    subtree_blocks: int
    """Of it and all that hangs from it."""
    hits: int
    age_seconds: float
    """Since it was used."""
    is_pinned: bool
    references: int
    tokens: tuple[int, ...]
    """The ids it begins with, of `SHOWN_BLOCKS` blocks at the most."""
    block_bytes: int


@dataclass(slots=True)
class _Growing:
    """A run while its blocks are counted."""

    head: Node[Any]
    parent: int | None
    namespace: str
    start_blocks: int
    blocks: int = 0
    subtree_blocks: int = 0
    keys: list[bytes] = field(default_factory=list)


def find_runs(
    roots: Mapping[str, Node[Any]], *, block_bytes: int, limit: int, most_blocks: int, now: float
) -> list[Run]:
    """Do as `PrefixTree.runs`; `block_bytes` are those of a block's token ids."""
    found = _walked(roots, block_bytes, most_blocks)
    for run in reversed(found):  # children come behind their parents
        run.subtree_blocks += run.blocks
        if run.parent is not None:
            found[run.parent].subtree_blocks += run.subtree_blocks
    # A parent is larger than its children and was hit at least as often, so that both choices are closed.
    order = range(len(found))
    largest = sorted(order, key=lambda n: (-found[n].subtree_blocks, n))[: max(limit - limit // 2, 1)]
    hottest = sorted(order, key=lambda n: (-found[n].head.hits, n))[: limit // 2]
    return [_shown(n, found[n], now) for n in sorted({*largest, *hottest})]


def _walked(roots: Mapping[str, Node[Any]], block_bytes: int, most_blocks: int) -> list[_Growing]:
    found: list[_Growing] = []
    waiting: list[tuple[Node[Any], int | None, str, int]] = [
        (child, None, name, 0) for name, root in list(roots.items()) for child in list(root.children.values())
    ]
    seen = 0
    while waiting and seen < most_blocks:
        node, parent, namespace, start = waiting.pop()
        number, run = len(found), _Growing(node, parent, namespace, start)
        found.append(run)
        while True:
            run.blocks += 1
            if run.blocks <= SHOWN_BLOCKS:
                run.keys.append(node.key[:block_bytes])  # behind its tokens a key may have marks
            seen += 1
            following = list(node.children.values())
            if len(following) != 1 or not _is_alike(node, following[0]) or seen >= most_blocks:
                break
            node = following[0]
        waiting += [(child, number, namespace, start + run.blocks) for child in following]
    return found


def _is_alike(node: Node[Any], child: Node[Any]) -> bool:
    return node.hits == child.hits and node.pinned == child.pinned


def _shown(number: int, run: _Growing, now: float) -> Run:
    head = run.head
    return Run(
        id=number,
        parent=run.parent,
        namespace=run.namespace,
        start_blocks=run.start_blocks,
        blocks=run.blocks,
        subtree_blocks=run.subtree_blocks,
        hits=head.hits,
        age_seconds=max(now - head.used_at_seconds, 0.0),
        is_pinned=head.pinned,
        references=head.references,
        tokens=tuple(memoryview(b"".join(run.keys)).cast("I")),
        block_bytes=head.payload.nbytes if head.payload is not None else 0,
    )
