"""`axolotl-cache bench`: the cache off and on, with the user's own model and requests."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from tqdm import tqdm

from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.opening import open_model
from axolotl_cache.cli.sampling import cache_truncated_option, choose_sampling, sampling_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.config import Flag
from axolotl_cache.errors import ConfigError, Problem, RequestError
from axolotl_cache.prompts_file import Named, fit, from_file, from_text
from axolotl_cache.request import CacheControl, Request

if TYPE_CHECKING:
    from axolotl_cache.pipeline import Pipeline

SAMPLE_QUESTIONS: Final = (
    "How do I reset my password?",
    "What are your opening hours on Saturdays?",
    "Can I change the delivery address of my order?",
    "How long does a refund take?",
    "Do you ship abroad, and what does it cost?",
    "My parcel has not arrived. What should I do?",
    "Which payment methods do you accept?",
    "How can I cancel my subscription?",
)
SAMPLE_ORDER: Final = (0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 3)
"""12 requests, 4 of them repeats."""


@click.command()
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option(
    "--workload",
    type=click.Path(path_type=Path),
    metavar="FILE.JSONL",
    help="Your requests in the order they came, as for `inference --prompts-file`. Without it: 12 samples.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many requests.")
@click.option("--system", metavar="TEXT", help="System message, as for `inference`.")
@sampling_options
@cache_truncated_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def bench(
    yaml_file: Path,
    flags: dict[str, Flag],
    workload: Path | None,
    limit: int | None,
    system: str | None,
    sampling: dict[str, Any],
    cache_truncated: bool,
    as_json: bool,
) -> None:
    """Measure the model that YOUR_CONFIG.YAML describes with the cache off and on.

    Each request is answered both ways, the sides taking turns to go first, so that what else the machine
    does falls on both. The response cache starts empty and is not persisted: your real one is not touched.
    Answers are greedy unless you say otherwise, and compared.
    """
    settings = load_for_model(yaml_file, flags)
    chosen = next(iter(settings.model.system_prompts), None) if system is None else system or None
    asked = Request(cache_control=CacheControl(truncated=cache_truncated))
    named = from_file(workload, asked, chosen) if workload else None
    if named == []:
        raise RequestError(f"{workload} holds no requests")

    from axolotl_cache.measure import compare, figures, table

    pipeline, loaded = open_model(settings, stored_answers=False, persistent=False)
    if named is None:
        named = [Named("", from_text(SAMPLE_QUESTIONS[i], asked, chosen)) for i in SAMPLE_ORDER]
    # Greedy unless asked otherwise: only then can the answers of the two sides be compared.
    from_model = loaded.default_sampling | {"do_sample": "temperature" in sampling}
    chosen_sampling = choose_sampling(from_model, sampling)
    takes_messages = pipeline.renderer.takes_messages
    wanted = [
        Named(n.name, replace(fit(n.request, takes_messages=takes_messages), sampling=chosen_sampling))
        for n in named[:limit]
    ]
    _check_all(pipeline, wanted, where=str(workload))
    requests = [n.request for n in wanted]
    with (
        closing(pipeline),
        tqdm(total=2 * len(requests), desc="requests, off and on", file=sys.stderr, disable=None) as bar,
    ):
        comparison = compare(pipeline, requests, done=bar.update)
    click.echo(json.dumps(figures(comparison)) if as_json else table(comparison))


def _check_all(pipeline: Pipeline, requests: list[Named], where: str) -> None:
    """Name every request that can't be served, before minutes are spent on the others."""
    problems = []
    for named in requests:
        try:
            pipeline.check(named.request)
        except RequestError as error:
            problems.append(Problem(where, f"request {named.name}", str(error)))
    if problems:
        raise ConfigError(problems)
