"""What people see while they wait: lines and bars on standard error. Standard output holds answers only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from axolotl_cache.config import format_duration
from axolotl_cache.request import Served

if TYPE_CHECKING:
    from axolotl_cache.pipeline import Kept, Totals
    from axolotl_cache.pipeline.semantic import SemanticMatching

SERVED_IN_WORDS = {
    Served.HIT_EXACT: "from the response cache",
    Served.HIT_SEMANTIC: "from the response cache, asked in other words",
    Served.HIT_SESSION: "from this session, asked in other words",
    Served.HIT_PREFIX: "computed behind a cached prefix",
    Served.MISS: "computed in full",
}


def say(line: str) -> None:
    """Write a line for people."""
    tqdm.write(line, file=sys.stderr)


@contextmanager
def steps_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that draws a bar on standard error, where that is a terminal."""
    with tqdm(desc=title, file=sys.stderr, leave=False, disable=quiet or None, delay=0.5) as bar:

        def draw(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield draw


def summary(totals: Totals) -> str:
    """Return the account of a run: requests, hits by tier, tokens cached and computed, time saved."""
    if not totals.requests:
        return "no requests"
    computed = totals.prompt_tokens - totals.stored_tokens - totals.cached_tokens
    lines = [f"{totals.requests} request{'s' if totals.requests > 1 else ''}"]
    for served, words in SERVED_IN_WORDS.items():
        if totals.served[served]:
            lines.append(f"  {totals.served[served]:>6}  {words} ({served.value})")
    lines += [
        f"prompt tokens: {totals.prompt_tokens:,}, of which {totals.stored_tokens:,} of stored answers, "
        f"{totals.cached_tokens:,} cached, {computed:,} computed",
        f"answer tokens: {totals.completion_tokens:,}",
        f"time saved: {totals.response_saved_seconds:.1f} s by stored answers, "
        f"about {totals.prefix_saved_seconds:.1f} s by cached prefixes",
    ]
    if totals.saved_money is not None:
        lines.append(f"money saved: {totals.saved_money:.6f} {totals.currency}, at the prices given")
    lines += [_kept(kept, kind, why) for (kind, why), kept in totals.kept.items()]
    lines += [f"not stored: {count}, {reason}" for reason, count in totals.not_stored.items()]
    return "\n".join(lines)


def _kept(kept: Kept, kind: str, why: str) -> str:
    ttl = kept.mean_ttl_seconds
    time = "for ever" if ttl is None else f"for {format_duration(round(ttl, 3))}"
    return f"stored: {kept.count} {time}, {f'{kind}: ' if kind else ''}{why}"


def print_summary(totals: Totals, semantic: SemanticMatching | None = None) -> None:
    """Write the account of a run to standard error."""
    click.echo("\n" + summary(totals), err=True)
    if semantic is not None:
        click.echo(semantic.report(), err=True)
