"""Stored answers of a log's requests, held against the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from axolotl_cache.cli.opening import open_model
from axolotl_cache.cli.terminal import steps_bar
from axolotl_cache.config import Settings
from axolotl_cache.errors import NotCached, RequestError
from axolotl_cache.profiling.doctor.finding import Cause, Finding, Symptom
from axolotl_cache.profiling.record import Record
from axolotl_cache.request import CacheControl, Message, Request, Sampling

_LOOKED_FOR = 50
"""So many requests of the log are looked up for each answer that is wanted."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the model said."""

    compared: int
    different: tuple[str, ...]
    """The questions whose stored answer the model would not give now, shortened."""

    @property
    def lines(self) -> tuple[str, ...]:
        """For people."""
        return (f"{self.compared} stored answers compared with the model's, {len(self.different)} differ",)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One, if any answer differs."""
        if not self.different:
            return ()
        return (
            Finding(
                Symptom.INCONSISTENT_ANSWERS,
                Cause.UNEXPLAINED,
                "Stored answers are not what the model says now",
                tuple(f"question: {each}" for each in self.different[:3]),
                "report each with `axolotl-cache invalidate --wrong --key KEY`, and look for what "
                "changed since it was stored and the namespace does not cover",
            ),
        )


def check_answers(settings: Settings, records: Iterable[Record], wanted: int) -> Checked:
    """Compare stored answers with new ones of the model.

    Loads the model. Nothing is stored, and no stored answer is changed.

    Args:
        settings: of the model and the folder of stored answers.
        records: of a log.
        wanted: how many stored answers to compare at the most.
    """
    pipeline, _ = open_model(settings, persistent=False)
    compared, different = 0, []
    with closing(pipeline), steps_bar("asking the model again") as progress:
        for request in islice(_requests(records), wanted * _LOOKED_FOR):
            if compared == wanted:
                break
            try:
                stored = pipeline.answer(replace(request, cache_control=CacheControl(only_if_cached=True)))
                fresh = pipeline.answer(
                    replace(request, cache_control=CacheControl(no_cache=True, no_store=True))
                )
            except (NotCached, RequestError):
                continue
            compared += 1
            progress(compared, wanted)
            if stored.text != fresh.text:
                different.append(" ".join(request.messages[-1].content.split())[:100])
    return Checked(compared, tuple(different))


def _requests(records: Iterable[Record]) -> Iterator[Request]:
    """Yield different requests that can be asked again as they were."""
    seen: set[Request] = set()
    for record in records:
        if not record.messages or not record.is_repeatable or record.tools:
            continue
        settings = record.sampling
        limit = settings.get("max_tokens")
        request = Request(
            messages=tuple(Message(role, text) for role, text in record.messages),
            sampling=Sampling(
                max_new_tokens=limit if isinstance(limit, int) else None,
                temperature=float(settings.get("temperature") or 0.0),
                seed=settings.get("seed"),
            ),
            tenant=record.tenant,
            principal=record.principal,
        )
        if request not in seen:
            seen.add(request)
            yield request
