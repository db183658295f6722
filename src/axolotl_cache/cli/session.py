"""Sessions on the command line: whose a request is, and what is said about sessions and layout at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from axolotl_cache.request import Answer

if TYPE_CHECKING:
    from axolotl_cache.pipeline import Pipeline


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say whose the requests are; the command gets `session` and `principal`."""
    session = click.option(
        "--session",
        metavar="ID",
        default="",
        help="The session of these requests, kept for session_timeout; of a file, of the lines that name "
        "none.  [default: --chat has one of its own, which ends with it]",
    )
    principal = click.option(
        "--principal", metavar="NAME", default="", help="Who asks: entity providers are asked about them."
    )
    return session(principal(command))


def session_json(answer: Answer) -> dict[str, Any] | None:
    """Return what an answer says about its session and entities, as JSON types."""
    return None if answer.session is None else asdict(answer.session)


def session_lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield what there is to say about sessions, records and the layout of prompts at the end of a run."""
    totals = pipeline.totals
    if totals.session_turns:
        yield (
            f"sessions: {totals.session_turns:,} turns; {totals.record_tokens:,} tokens of entities' records "
            f"in their prompts, of which {totals.record_cached_tokens:,} cached"
        )
    yield from pipeline.layout_advice()
