"""What there is at a moment: memory by tier against its bound, queues, machines. Read when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from axolotl_cache.adjustments import Adjustment

RUNNING: Final = "running"
"""Name of what running requests hold, which is no cache."""


@dataclass(frozen=True, slots=True)
class TierState:
    """One place where something is kept."""

    name: str
    """As a label: `response_memory`, `response_disk`, `prefix_memory`, `prefix_disk`, `prefix_redis`,
    `running`, `session_memory`."""
    title: str
    """For people."""
    held_bytes: int
    max_bytes: int | None = None
    """None is no bound in bytes."""
    entries: int = 0
    """Answers, or blocks of keys and values."""
    max_entries: int | None = None
    pinned_bytes: int = 0
    leased_bytes: int = 0
    """Held by sessions."""
    evicted: int = 0
    """Entries that went because there was no room, since the start."""
    expired: int = 0
    refused: int = 0
    """Entries that did not fit, all else being pinned or in use."""
    is_up: bool = True
    """Whether it could be asked; what it holds is not known if not."""

    @property
    def is_in_memory(self) -> bool:
        """Whether what it holds is in this process's memory, and not on a disk or on servers."""
        return self.name.endswith("_memory") or self.name == RUNNING


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine has computed since the start."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    right_drafted_tokens: int = 0
    loaded_tokens: int = 0
    """Tokens whose keys and values came from a lower tier."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """One machine."""

    name: str
    version: str = ""
    device: str = ""
    is_up: bool = True
    uptime_seconds: float = 0.0
    cpu_share: float | None = None
    """Of all cores, 0 to 1; None if it is not known."""
    cores: int = 0
    memory_bytes: int | None = None
    """Of the process."""
    total_memory_bytes: int | None = None
    running: int = 0
    waiting: int = 0
    requests: int = 0
    held_bytes: int = 0
    """Bytes of all tiers in memory."""
    gpu_memory_bytes: int | None = None
    """In use, by everybody; None without a GPU."""
    gpu_total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All of it at one moment."""

    tiers: tuple[TierState, ...] = ()
    running: int = 0
    waiting: int = 0
    engine: EngineState | None = None
    nodes: tuple[NodeState, ...] = ()
    exactness: str = ""
    """The engine's mode."""
    block_size: int = 0
    """Tokens in a block; 0 if it is not known."""
    switches: dict[str, bool] = field(default_factory=dict)
    """Tiers that can be turned off at run time, and whether they are on."""
    adjustments: tuple[Adjustment, ...] = ()
    """What the caches did to their own bounds lately, the newest last."""
    adjustment_counts: dict[str, int] = field(default_factory=dict)
    """Steps of each kind since the start."""


@dataclass(frozen=True, slots=True)
class PrefixView:
    """A run of blocks in the prefix tree that has no branch in it."""

    id: int
    parent: int | None
    """The run it hangs from; None at the start of prompts."""
    namespace: str
    start_tokens: int
    """Tokens in front of it."""
    blocks: int
    """Of the run itself."""
    subtree_blocks: int
    """Of it and all that hangs from it."""
    hits: int
    """How often all of it was matched."""
    age_seconds: float
    """Since it was used."""
    is_pinned: bool
    references: int
    """Running requests that use it."""
    tokens: tuple[int, ...]
    """The ids it begins with."""
    block_bytes: int
    text: str = ""
    """Its beginning, where texts may be shown."""


class Source(Protocol):
    """Where the gauges come from. Both calls may wait for the engine's step under way, not more."""

    def state(self) -> State:
        """Return what there is now."""
        ...

    def prefixes(self, limit: int) -> list[PrefixView]:
        """Return the largest runs of the prefix tree, at most `limit`, parents before children."""
        ...
