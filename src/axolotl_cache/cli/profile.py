"""`axolotl-cache profile`: what a log says, what caches would do for it, and the YAML to use."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from tqdm import tqdm

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.tokenizing import tokenizer_of
from axolotl_cache.config import Settings, parse_size
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.profiling.blocks import Cutter
from axolotl_cache.profiling.kv_bytes import kv_size
from axolotl_cache.profiling.outlook import TokenPrices
from axolotl_cache.profiling.profile import Profiler
from axolotl_cache.profiling.reading import Reading, read_logs
from axolotl_cache.profiling.report import make_report
from axolotl_cache.profiling.report_text import text_report
from axolotl_cache.profiling.speeds import Speeds


@click.command(cls=CleanCommand)
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")
@click.option(
    "--config",
    "yaml_file",
    type=click.Path(path_type=Path),
    metavar="YOUR_CONFIG.YAML",
    help="The model at hand: for its tokens, for bytes of keys and values, and prices.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Count tokens with the tokenizer in there. Default: the one of --config; estimated without either.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page with pictures."
)
@click.option(
    "--prefill-tokens-per-second", "prefill", type=float, help="Of your engine, where the log has no times."
)
@click.option(
    "--decode-tokens-per-second", "decode", type=float, help="Of one stream, where the log has no times."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Of the device that will serve, as 80GB: caches get a quarter. Default: this machine's memory.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def profile(
    logs: tuple[Path, ...],
    yaml_file: Path | None,
    tokenizer: Path | None,
    as_json: bool,
    html: Path | None,
    prefill: float | None,
    decode: float | None,
    memory: str | None,
    quiet: bool,
) -> None:
    """Find what repeats in LOG..., predict what caches would do for it, and print the YAML to use.

    Known by their content are our request log, OpenAI-style JSONL and batch files, LiteLLM and vLLM logs,
    Mooncake hash traces, Azure CSV, LMCache agent traces and files of prompts; gzipped or not; `-` is
    standard input. Lines that can't be read are counted, shown and left out.
    """
    settings = None if yaml_file is None else load_for_model(yaml_file, {})
    try:
        memory_bytes = _own_memory() if memory is None else parse_size(memory)
    except ValueError as error:
        raise ConfigError([Problem("command line", "--memory", str(error))]) from error
    reading = Reading()
    profiler = Profiler(Cutter(tokenize=tokenizer_of(settings, tokenizer)))
    with _uncollected():
        with bytes_bar(logs, quiet=quiet) as progress:
            for _ in profiler.see_all(read_logs(logs, reading, progress=progress)):
                pass
        found = profiler.result()
    kv = None if settings is None else kv_size(settings.axolotl, folder=settings.path.parent)
    speeds = Speeds(0.0, prefill, decode) if prefill else None
    report = make_report(
        tuple(map(str, logs)),
        reading,
        found,
        kv=kv,
        speeds=speeds,
        prices=_prices(settings),
        memory_bytes=memory_bytes,
    )
    if html is not None:
        from axolotl_cache.profiling.report_html import html_report

        html.write_text(html_report(report), encoding="utf-8")
        os.chmod(html, 0o600)  # it has prompts in it
    click.echo(json.dumps(report.as_json(), ensure_ascii=False) if as_json else text_report(report))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector of cycles from walking over what a long log leaves, again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def bytes_bar(logs: Sequence[Path], *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more bytes were read, and draws a bar on standard error."""
    sizes = [path.stat().st_size for path in logs if path.is_file()]
    with tqdm(
        desc="reading",
        total=sum(sizes) or None,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        leave=False,
        disable=quiet or None,
        delay=0.5,
        mininterval=0.5,
    ) as bar:

        def more(count: int) -> None:
            bar.update(count)

        yield more


def _own_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # no POSIX
        return None


def _prices(settings: Settings | None) -> TokenPrices | None:
    prices = settings.inference.prices if settings else None
    if settings is None or prices is None:
        return None
    model = prices.models.get(str(settings.axolotl.get("base_model"))) or prices.models.get("*")
    if model is None:
        return None
    cached = model.cached_input_per_million
    return TokenPrices(
        float(model.input_per_million),
        float(model.output_per_million),
        None if cached is None else float(cached),
    )
