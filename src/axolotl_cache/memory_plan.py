"""How the share of memory that caches may take is split among them at the start, and by whom it moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from axolotl_cache.adjustments import Change
from axolotl_cache.budget import Claim, MemoryBudget, Move
from axolotl_cache.config import Settings, format_size
from axolotl_cache.engine.engine import Engine
from axolotl_cache.response import SmartInferenceCache


def prefix_cache_bytes(settings: Settings, share: int) -> int:
    """Return the most that keys and values held for reuse may take, those of sessions included."""
    return min(settings.model.max_cache_size, share // 2)


def response_cache_bytes(share: int) -> int:
    """Return what answers in memory begin with."""
    return share // 32


def records_bytes(share: int) -> int:
    """Return what sessions and records of entities may take beside keys and values: some KB each."""
    return share // 64


def share_memory(
    settings: Settings,
    engine: Engine,
    response: SmartInferenceCache | None,
    share: int,
    report: Callable[[str], None],
    *,
    has_sessions: bool,
) -> None:
    """Let the caches that are in the same memory share one bound. On a GPU answers are in another.

    Args:
        settings: what is in force.
        engine: whose prefix cache it is; it looks at the budget as it computes.
        response: the response cache; None if it is off.
        share: bytes of the device's memory that caches and running requests may take.
        report: gets a line for each move.
        has_sessions: whether any keys and values are held by sessions.
    """
    parts = engine.cache_parts
    if parts is None or engine.cache_tenant is None:
        return
    prefix_bytes = prefix_cache_bytes(settings, share)

    def told(move: Move) -> None:
        kept, lost = move.lost_seconds
        engine.adjustments.note(
            Change.MOVE,
            f"{move.giver} to {move.taker}",
            move.taker_bytes - move.moved_bytes,
            move.taker_bytes,
            f"what they had evicted lately cost {kept:.2f} and {lost:.2f} seconds",
        )
        report(f"{format_size(move.moved_bytes)} of memory went from the {move.giver} to the {move.taker}")

    kept = partial(Claim, most_bytes=prefix_bytes, within="keys and values")
    claims = [kept("prefix cache", engine.cache_tenant, prefix_bytes)]
    if has_sessions:
        half = max(1, prefix_bytes // 2)
        claims = [
            kept("prefix cache", parts.others, max(1, prefix_bytes - half)),
            kept("sessions", parts.sessions, half),
        ]
    if response is not None and engine.device.type == "cpu":
        claims.append(Claim("response cache", response.memory_tenant, response_cache_bytes(share)))
    if len(claims) > 1:
        engine.share_memory(MemoryBudget(claims, report=told))
