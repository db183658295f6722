"""Logs as the simulator reads them: requests in order of time, each a list of numbered blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from axolotl_cache.profiling.blocks import Cutter
from axolotl_cache.profiling.reading import Reading, read_logs
from axolotl_cache.profiling.simulate import BlockRequest


@dataclass(frozen=True, slots=True)
class BlockLog:
    """What was asked for."""

    requests: tuple[BlockRequest, ...]
    block_size: int
    """Tokens in a block: as the log has it, else as it was asked for."""


def read_requests(paths: Iterable[Path], *, block_tokens: int = 32) -> BlockLog:
    """Return the requests of logs, ordered by time; where they have none, a second apart.

    All of it is in memory: 100 bytes for a request and 8 for each of its blocks.

    Args:
        paths: of the logs, of any format that `axolotl-cache profile` reads.
        block_tokens: where the log has text and not blocks.

    Raises:
        OSError: a file can't be read.
    """
    cutter = Cutter(block_tokens=block_tokens)
    numbers: dict[int, int] = {}
    requests: list[BlockRequest] = []
    size = block_tokens
    for place, record in enumerate(read_logs(list(paths), Reading())):
        blocks = cutter.cut(record)
        size = blocks.block_tokens
        ids = blocks.ids[: min(len(blocks.ids), blocks.tokens // size)]
        # Without a tokenizer, tokens are an estimate: a prompt has no more than its blocks say.
        tokens = min(blocks.tokens, (len(ids) + 1) * size - 1)
        at_seconds = float(place) if record.arrived_seconds is None else record.arrived_seconds
        numbered = tuple(numbers.setdefault(name, len(numbers)) for name in ids)
        requests.append(BlockRequest(at_seconds, numbered, tokens))
    return BlockLog(tuple(sorted(requests, key=lambda request: request.at_seconds)), size)
