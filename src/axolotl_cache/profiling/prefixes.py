"""Shared prefixes: which beginnings prompts have in common, how long they are, and what they are worth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final

from axolotl_cache.profiling.blocks import Blocks, digest
from axolotl_cache.profiling.counting import FrequentItems
from axolotl_cache.profiling.record import Record

_DEPTHS: Final = tuple(chain((1, 2, 3), *((2**n, 3 * 2 ** (n - 1)) for n in range(2, 16))))
"""In blocks: 1, 2, 3, 4, 6, 8, 12, ...: a length is known to within a third."""
_HELD: Final = 200_000
_SHOWN: Final = 10
_EXAMPLE_CHARACTERS: Final = 160
_GOES_ON: Final = 0.8
"""A longer prefix stands for a shorter one if so many of its requests go on with it."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """A beginning that several prompts have."""

    requests: int
    tokens: int
    """At least so many; a block is the grain."""
    example: str
    """How it begins; empty if the log has no text."""

    @property
    def saved_tokens(self) -> int:
        """Tokens that need not be computed if it is kept: all but the first time."""
        return (self.requests - 1) * self.tokens


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """A system message, by its exact text."""

    requests: int
    characters: int
    tokens: int
    text: str
    """Its first characters."""
    first_request: int
    """Number of the first request that has it, from 1."""


@dataclass(slots=True)
class _Node:
    index: int
    """Of its depth in `_DEPTHS`."""
    parent: int
    example: str
    rest: tuple[int, ...]
    """What the only prompt that came here goes on with; empty once there was a second."""


class PrefixCounter:
    """Counts beginnings at growing depths."""

    def __init__(self) -> None:
        self._nodes: FrequentItems[_Node] = FrequentItems(_HELD)
        self._systems: FrequentItems[SystemPrompt] = FrequentItems(_HELD // 10)
        self._block_tokens = 1
        self.requests = 0
        self.different_systems = 0

    def see(self, record: Record, blocks: Blocks, bytes_per_token: float) -> None:
        """Count a request's beginnings. Cost: O(log of its length)."""
        self.requests += 1
        self._block_tokens = blocks.block_tokens
        ids, asked = blocks.ids, blocks.asked
        self._count([ids[depth - 1] for depth in _DEPTHS if depth <= asked], record)
        system = record.system
        if system:
            key = digest(system.encode("utf-8", "surrogatepass"))
            first = partial(_system, system, bytes_per_token, self.requests)
            self.different_systems += self._systems.add(key, first) == 1

    def _count(self, path: list[int], record: Record) -> None:
        """Count the blocks at the depths looked at, as far as they were seen before, and one more.

        What is behind a block that is new is new, too. It waits there until somebody else comes so far: most
        prompts' ends come once, and would be counted for nothing.
        """
        nodes, parent = self._nodes, 0
        for index, block in enumerate(path):
            count = nodes.add(block, partial(_node, index, parent, path, record))
            if count == 1:
                return
            if count == 2:
                self._unfold(block)
            parent = block

    def _unfold(self, block: int) -> None:
        node = self._nodes.note(block)
        if node.rest:
            child = _Node(node.index + 1, block, "", node.rest[1:])
            self._nodes.add(node.rest[0], lambda: child)
            node.rest = ()

    def shared(self) -> tuple[SharedPrefix, ...]:
        """Return the prefixes that are worth most, the most valuable first."""
        found = {item: (count, node) for item, count, node in self._nodes}
        longest = defaultdict[int, int](int)
        for count, node in found.values():
            longest[node.parent] = max(longest[node.parent], count)
        result = [
            SharedPrefix(count, _DEPTHS[node.index] * self._block_tokens, self._example(item))
            for item, (count, node) in found.items()
            if count > 1 and longest[item] < _GOES_ON * count
        ]
        return tuple(sorted(result, key=lambda each: -each.saved_tokens)[:_SHOWN])

    def _example(self, item: int) -> str:
        for _ in _DEPTHS:
            node = self._nodes.note(item)
            if not node.parent or not self._nodes.count(node.parent):
                return node.example
            item = node.parent
        return ""

    def systems(self) -> tuple[SystemPrompt, ...]:
        """Return the most frequent system prompts."""
        found = sorted(self._systems, key=lambda each: -each[1])[:_SHOWN]
        return tuple(
            SystemPrompt(count, note.characters, note.tokens, note.text, note.first_request)
            for _, count, note in found
        )


def _node(index: int, parent: int, path: list[int], record: Record) -> _Node:
    return _Node(index, parent, "" if index else _beginning(record), tuple(path[index + 1 :]))


def _system(text: str, bytes_per_token: float, request: int) -> SystemPrompt:
    tokens = max(1, round(len(text.encode("utf-8", "surrogatepass")) / bytes_per_token))
    return SystemPrompt(0, len(text), tokens, text[:_EXAMPLE_CHARACTERS], request)


def _beginning(record: Record) -> str:
    if record.prompt is not None:
        return record.prompt[:_EXAMPLE_CHARACTERS]
    return "".join(text for _, text in record.messages)[:_EXAMPLE_CHARACTERS] if record.messages else ""
