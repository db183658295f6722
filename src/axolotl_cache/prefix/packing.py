"""How a set of prompts is computed in one pass: which keys exist, which rows are computed, who sees what.

The attention mask of such a pass has a row for every token that is computed and a column for every key.
Prompts that begin alike see the same columns; behind them each sees its own and nobody else's. Kept as a few
ranges a prompt, since the dense mask of 32 prompts of 2,000 tokens would have billions of cells.

Pure: token ids in, ranges out. `axolotl-cache mask` draws it.

Source: the topology-aware causal mask of SpecInfer (Miao et al., 2024), in whole blocks as the prefix tree
beside this module.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Block:
    """Keys of up to `block_size` successive tokens, which exist once however many prompts see them."""

    columns: range
    first_token: int
    """Position of its first token in every prompt that sees it; a multiple of `block_size`."""
    before: int | None
    """The block in front of it, as an index into `Packing.blocks`; None at the start of a prompt."""
    computed_by: int | None
    """The prompt whose rows make it; None if it was cached."""
    reused_by: tuple[int, ...]
    """The prompts that see it and do not compute it, in order."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What is computed of one prompt: all that lies behind the blocks it reuses, never nothing."""

    prompt: int
    rows: range
    """Its tokens that are computed, in order."""
    columns: range
    """Their keys, one for each row."""
    reused: tuple[range, ...]
    """Columns that each of its rows sees besides, in the order of the prompt; as few ranges as can be."""
    reused_blocks: tuple[int, ...]
    """The same as indices into `Packing.blocks`, from the start of the prompt on."""

    @property
    def reused_tokens(self) -> int:
        """Tokens in front of the first row."""
        return sum(map(len, self.reused))

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.reused_tokens + len(self.rows)

    @property
    def cells(self) -> int:
        """Pairs of a query and a key that it sees."""
        computed = len(self.rows)
        return computed * self.reused_tokens + computed * (computed + 1) // 2


@dataclass(frozen=True, slots=True)
class Packing:
    """How a set of prompts is computed, made by `pack` or `apart`."""

    block_size: int
    blocks: tuple[Block, ...]
    """Every key column there is: cached blocks first, then those of each prompt's rest in turn."""
    rests: tuple[Rest, ...]
    """One for each prompt, in order."""

    @property
    def rows(self) -> int:
        """Tokens that are computed."""
        return self.rests[-1].rows.stop if self.rests else 0

    @property
    def columns(self) -> int:
        """Keys that there are."""
        return self.blocks[-1].columns.stop if self.blocks else 0

    @property
    def cells(self) -> int:
        """Pairs of a query and a key that it sees."""
        return sum(rest.cells for rest in self.rests)

    @property
    def cached_blocks(self) -> int:
        """Blocks that were there before any of these prompts was computed."""
        return sum(block.computed_by is None for block in self.blocks)

    @property
    def reused_blocks(self) -> int:
        """Blocks that prompts did not compute, each counted once for every prompt that saw it so."""
        return sum(len(rest.reused_blocks) for rest in self.rests)

    def sees(self, row: int) -> tuple[range, ...]:
        """Return the columns that a row sees, in the order of its prompt. Cost: O(log prompts)."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        rest = self.rests[bisect_right(self.rests, row, key=lambda r: r.rows.start) - 1]
        own = range(rest.columns.start, rest.columns.start + row - rest.rows.start + 1)
        return tuple(_merged((*rest.reused, own)))

    def dense(self) -> list[bytes]:
        """Return the mask as a list of rows, each one byte a column, 1 where the row sees it.

        For tests and small sets: it takes `rows * columns` bytes.
        """
        mask = []
        for row in range(self.rows):
            cells = bytearray(self.columns)
            for seen in self.sees(row):
                cells[seen.start : seen.stop] = b"\1" * len(seen)
            mask.append(bytes(cells))
        return mask


def pack(
    prompts: Sequence[Sequence[int]], *, block_size: int, cached: Iterable[Sequence[int]] = ()
) -> Packing:
    """Return how prompts are computed together, each block that begins alike once.

    A prompt reuses what is cached, and the whole blocks of the prompts before it; at the most all of its
    tokens but the last, which is always computed, for its logits.

    Args:
        prompts: token ids of each, in the order in which they came.
        block_size: tokens in a block.
        cached: token ids of what was computed before; its whole blocks may be reused.

    Raises:
        ValueError: a prompt is empty, or `block_size` is below 1.
    """
    _check(prompts, block_size)
    root = _Node()
    for tokens in cached:
        _follow(root, tokens, block_size, len(tokens) // block_size)
    return _laid_out([_planned(tokens, n, root, block_size) for n, tokens in enumerate(prompts)], block_size)


def apart(prompts: Sequence[Sequence[int]], *, block_size: int) -> Packing:
    """Return how prompts are computed without any reuse: each alone, with its full causal triangle.

    Args:
        prompts: token ids of each.
        block_size: tokens in a block.

    Raises:
        ValueError: a prompt is empty, or `block_size` is below 1.
    """
    _check(prompts, block_size)
    plans = [_planned(tokens, n, _Node(), block_size) for n, tokens in enumerate(prompts)]
    return _laid_out(plans, block_size)


@dataclass(eq=False, slots=True)
class _Node:
    """A block before it has columns; as a root, the start of all prompts."""

    tokens: int = 0
    first_token: int = 0
    before: _Node | None = None
    computed_by: int | None = None
    reused_by: list[int] = field(default_factory=list)
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One prompt's blocks."""

    reused: list[_Node]
    computed: list[_Node]


def _check(prompts: Sequence[Sequence[int]], block_size: int) -> None:
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; a block holds at least 1 token")
    for number, tokens in enumerate(prompts):
        if not tokens:
            raise ValueError(f"prompt {number} is empty; it needs at least one token")


def _follow(root: _Node, tokens: Sequence[int], block_size: int, blocks: int) -> None:
    """Put the leading blocks of something computed before into the tree."""
    node = root
    for index in range(blocks):
        key = tuple(tokens[index * block_size : (index + 1) * block_size])
        if key not in node.children:
            node.children[key] = _Node(block_size, index * block_size, _parent(node))
        node = node.children[key]


def _planned(tokens: Sequence[int], prompt: int, root: _Node, block_size: int) -> _Plan:
    plan = _Plan([], [])
    node = root
    for start in range(0, len(tokens), block_size):
        key = tuple(tokens[start : start + block_size])
        known = node.children.get(key)
        is_last = start + block_size >= len(tokens)
        if known is not None and not plan.computed and not is_last:
            known.reused_by.append(prompt)
            plan.reused.append(known)
            node = known
            continue
        made = _Node(len(key), start, _parent(node), prompt)
        plan.computed.append(made)
        # A block that ends early can't be shared, and one that is there already is not replaced.
        if len(key) == block_size and known is None:
            node.children[key] = made
        node = made
    return plan


def _parent(node: _Node) -> _Node | None:
    return node if node.tokens else None


def _laid_out(plans: Sequence[_Plan], block_size: int) -> Packing:
    """Give every block that is seen its columns, and every token that is computed its row."""
    cached = (node for plan in plans for node in plan.reused if node.computed_by is None)
    order = list(dict.fromkeys((*cached, *(node for plan in plans for node in plan.computed))))
    index = {node: n for n, node in enumerate(order)}
    blocks: list[Block] = []
    column = 0
    for node in order:
        before = None if node.before is None else index[node.before]
        columns = range(column, column + node.tokens)
        blocks.append(Block(columns, node.first_token, before, node.computed_by, tuple(node.reused_by)))
        column = columns.stop
    rests: list[Rest] = []
    row = 0
    for prompt, plan in enumerate(plans):
        reused = tuple(index[node] for node in plan.reused)
        first, last = (blocks[index[node]].columns for node in (plan.computed[0], plan.computed[-1]))
        own = range(first.start, last.stop)
        seen = tuple(_merged(blocks[n].columns for n in reused))
        rests.append(Rest(prompt, range(row, row + len(own)), own, seen, reused))
        row += len(own)
    return Packing(block_size, tuple(blocks), tuple(rests))


def _merged(ranges: Iterable[range]) -> Iterator[range]:
    """Yield the same columns in the same order, ranges that follow each other joined."""
    open_range: range | None = None
    for following in ranges:
        if open_range is not None and open_range.stop == following.start:
            open_range = range(open_range.start, following.stop)
            continue
        if open_range is not None:
            yield open_range
        open_range = following
    if open_range is not None:
        yield open_range
