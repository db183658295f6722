"""The profile of a log: everything that is found in one pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from axolotl_cache.layout import ChangingPart, HeadSample, ShuffledParts
from axolotl_cache.profiling.blocks import Cutter
from axolotl_cache.profiling.concurrency import Concurrency, ConcurrencyCounter
from axolotl_cache.profiling.entities import Entities, EntityCounter
from axolotl_cache.profiling.prefixes import PrefixCounter, SharedPrefix, SystemPrompt
from axolotl_cache.profiling.record import Record
from axolotl_cache.profiling.repeats import RepeatCounter, Repeats
from axolotl_cache.profiling.sampled import SampledTrace
from axolotl_cache.profiling.sessions import SessionCounter, Sessions
from axolotl_cache.profiling.speeds import SpeedFit, Speeds

BLOCKS_HELD: Final = 400_000
KEYS_HELD: Final = 400_000


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all requests."""

    requests: int
    with_text: int
    with_blocks: int
    """Requests whose prompts can be compared: with text, or hashes."""
    prompt_tokens: int
    """An estimate where `tokens_are` says so."""
    completion_tokens: int
    tokens_are: str
    """`counted` (by the log or a tokenizer), or how they were estimated."""
    block_tokens: int
    served: dict[str, int]
    """Requests by what served them, where the log says."""
    unrepeatable: int
    """Requests sampled without a seed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a log says. The two traces are what predictions are made from."""

    totals: Totals
    repeats: Repeats
    systems: tuple[SystemPrompt, ...]
    different_systems: int
    shared: tuple[SharedPrefix, ...]
    sessions: Sessions
    entities: Entities
    changing: tuple[ChangingPart, ...]
    shuffled: tuple[ShuffledParts, ...]
    concurrency: Concurrency
    speeds: Speeds
    prefix_trace: SampledTrace
    """Blocks, for the prefix cache."""
    response_trace: SampledTrace
    """Whole prompts, for the response cache."""
    has_times: bool


class Profiler:
    """Takes requests one by one.

    Args:
        cutter: cuts prompts into blocks; is calibrated by the first requests.
    """

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._repeats = RepeatCounter()
        self._prefixes = PrefixCounter()
        self._sessions = SessionCounter()
        self._entities = EntityCounter()
        self._concurrency = ConcurrencyCounter()
        self._heads = HeadSample()
        self._speeds = SpeedFit()
        self._prefix_trace = SampledTrace(BLOCKS_HELD)
        self._response_trace = SampledTrace(KEYS_HELD)
        self._requests = self._with_text = self._with_blocks = self._counted = self._timed = 0
        self._prompt_tokens = self._completion_tokens = self._block_tokens = self._unrepeatable = 0
        self._served: dict[str, int] = {}

    def see_all(self, records: Iterable[Record]) -> Iterator[Record]:
        """Take every request, and yield it on."""
        records = iter(records)
        first = list(islice(records, self._cutter.calibration_requests))
        self._cutter.calibrate(first)
        for record in chain(first, records):
            self.see(record)
            yield record

    def see(self, record: Record) -> None:
        """Take a request. Cost: one pass over its prompt."""
        blocks = self._cutter.cut(record)
        self._requests += 1
        self._with_text += record.has_text
        self._counted += record.prompt_tokens is not None
        self._timed += record.arrived_seconds is not None
        self._prompt_tokens += blocks.tokens
        self._completion_tokens += record.completion_tokens or 0
        self._unrepeatable += not record.is_repeatable
        if record.served:
            self._served[record.served] = self._served.get(record.served, 0) + 1
        self._concurrency.see(record)
        self._speeds.see(record)
        if not blocks.key:
            return
        self._with_blocks += 1
        self._block_tokens = blocks.block_tokens
        # Without times, one second a request: policies want to see them in an order.
        at = float(self._requests) if record.arrived_seconds is None else record.arrived_seconds
        self._prefix_trace.add(at, blocks.ids, blocks.asked)
        self._response_trace.add(at, (blocks.key,), int(record.is_repeatable))
        self._prefixes.see(record, blocks, self._cutter.bytes_per_token)
        self._sessions.see(record, blocks)
        self._repeats.see(record, blocks)
        if record.has_text or record.entities:
            self._entities.see(record)
            self._heads.see(
                record.messages, prompt=record.prompt, tools=record.tools, principal=record.principal
            )

    def result(self) -> Profile:
        """Return the profile of what was taken so far."""
        counted = self._counted == self._requests or not self._with_text or self._cutter.counts_tokens
        return Profile(
            Totals(
                requests=self._requests,
                with_text=self._with_text,
                with_blocks=self._with_blocks,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                tokens_are="counted"
                if counted
                else f"estimated at {self._cutter.bytes_per_token:.2f} bytes of text a token",
                block_tokens=self._block_tokens,
                served=dict(sorted(self._served.items())),
                unrepeatable=self._unrepeatable,
            ),
            self._repeats.result(),
            self._prefixes.systems(),
            self._prefixes.different_systems,
            self._prefixes.shared(),
            self._sessions.result(),
            self._entities.result(),
            self._heads.changing(),
            self._heads.shuffled(),
            self._concurrency.result(),
            self._speeds.result(),
            self._prefix_trace,
            self._response_trace,
            has_times=self._timed * 2 > self._requests,
        )
