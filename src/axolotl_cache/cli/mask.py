"""`axolotl-cache mask`: the attention mask of a set of prompts, computed each alone and together."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.mask_picture import LEAST_WIDTH as LEAST_PICTURE_WIDTH
from axolotl_cache.cli.mask_picture import draw
from axolotl_cache.cli.mask_sheet import Masks, draw_on_terminal
from axolotl_cache.cli.picture import to_png, to_svg
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.terminal import say
from axolotl_cache.errors import ConfigError, Problem, RequestError
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS
from axolotl_cache.prefix.packing import Packing, apart, pack
from axolotl_cache.prompts_file import Named, fit, from_file, from_text
from axolotl_cache.request import Request

if TYPE_CHECKING:
    from axolotl_cache.config import Settings
    from axolotl_cache.engine.prompt import PromptRenderer

PICTURES: Final = (".svg", ".png")
PICTURE_WIDTH: Final = 1080
PLAIN_WIDTH: Final = 100
PLAIN_LINES: Final = 40
"""Of the drawing, where standard output is no terminal."""
LEAST_LINES: Final = 24
MOST_PROMPTS_LISTED: Final = 20
MOST_PROMPTS_DRAWN: Final = 64
"""With more, a picture shows nothing."""


@click.command(cls=CleanCommand)
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Draw this; may be repeated.")
@click.option(
    "--prompts-file",
    type=click.Path(path_type=Path),
    metavar="FILE.JSONL",
    help="Draw each line, as for `inference --prompts-file`.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many prompts of the file.")
@click.option("--system", metavar="TEXT", help="System message, as for `inference`.")
@click.option(
    "--pinned",
    is_flag=True,
    help="With the system prompts computed already, as `inference` does when it starts.",
)
@click.option(
    "--cached-file",
    type=click.Path(path_type=Path),
    metavar="FILE.JSONL",
    help="With these requests computed already.",
)
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=BLOCK_SIZE_TOKENS,
    show_default=True,
    help="Tokens in a block; 128 for a model that runs in grid mode.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a picture: .svg, or .png (needs matplotlib).",
)
@click.option(
    "--width",
    type=click.IntRange(min=40),
    help=f"Of the picture in pixels [default: {PICTURE_WIDTH}], or of the drawing in characters "
    "[default: the terminal's].",
)
def mask(
    yaml_file: Path,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    limit: int | None,
    system: str | None,
    pinned: bool,
    cached_file: Path | None,
    block_size: int,
    output: Path | None,
    width: int | None,
) -> None:
    """Draw the attention mask of prompts for YOUR_CONFIG.YAML, before and after, reused blocks in red.

    Before: every prompt computed alone. After: together, blocks that begin alike computed once. Without
    prompts, 4 samples are drawn. Only tokenizer and chat template are loaded, and nothing is computed.
    """
    settings = load_for_model(yaml_file, {})
    _check(prompts, prompts_file, output, width)
    chosen = next(iter(settings.model.system_prompts), None) if system is None else system or None
    named = _requests(prompts, prompts_file, chosen)[:limit]
    if not named:
        raise RequestError(f"{prompts_file} holds no requests")
    before_them = from_file(cached_file, Request(), chosen) if cached_file else []

    from axolotl_cache.engine.renderer import load_renderer

    renderer = load_renderer(settings.axolotl, config_path=settings.path, report=say)
    tokens = _tokens(renderer, named, str(prompts_file or "command line"))
    cached = _tokens(renderer, before_them, str(cached_file))
    if pinned:
        cached += _pinned(renderer, settings)
    if not settings.model.enable_prefix_cache:
        say("model_config.enable_prefix_cache is false: drawn as if it were true")
    names = tuple(n.name for n in named)
    masks = _masks(names, tokens, cached, block_size)
    drawn = masks
    if len(names) > MOST_PROMPTS_DRAWN:
        say(f"drawn are the first {MOST_PROMPTS_DRAWN} of {len(names):,} prompts; the table is of all")
        drawn = _masks(names[:MOST_PROMPTS_DRAWN], tokens[:MOST_PROMPTS_DRAWN], cached, block_size)
    if output is None:
        click.echo(_drawing(drawn, width), color=True)
    else:
        _write(drawn, output, width or PICTURE_WIDTH)
        say(f"written: {output}")
    click.echo("\n".join(_table(masks)))


def _masks(
    names: tuple[str, ...], tokens: Sequence[Sequence[int]], cached: Sequence[Sequence[int]], block_size: int
) -> Masks:
    before, after = apart(tokens, block_size=block_size), pack(tokens, block_size=block_size, cached=cached)
    return Masks(names, before, after)


def _check(prompts: Sequence[str], prompts_file: Path | None, output: Path | None, width: int | None) -> None:
    if prompts and prompts_file is not None:
        raise ConfigError([Problem("command line", "--prompt, --prompts-file", "give one of them")])
    if output is not None and output.suffix.lower() not in PICTURES:
        raise ConfigError([Problem("command line", "--output", f"{output}: end it in .svg or .png")])
    if output is not None and width is not None and width < LEAST_PICTURE_WIDTH:
        raise ConfigError(
            [Problem("command line", "--width", f"a picture has at least {LEAST_PICTURE_WIDTH} pixels")]
        )


def _requests(prompts: Sequence[str], prompts_file: Path | None, system: str | None) -> list[Named]:
    if prompts_file is not None:
        return from_file(prompts_file, Request(), system)
    if not prompts:
        from axolotl_cache.cli.bench import SAMPLE_QUESTIONS

        prompts = SAMPLE_QUESTIONS[:4]
    return [Named(str(n), from_text(text, Request(), system)) for n, text in enumerate(prompts, 1)]


def _tokens(renderer: PromptRenderer, named: Sequence[Named], where: str) -> list[list[int]]:
    """Return each request's token ids, or name all that can't be had."""
    found: list[list[int]] = []
    problems: list[Problem] = []
    for n in named:
        try:
            request = fit(n.request, takes_messages=renderer.takes_messages)
            found.append(renderer.tokens(renderer.text(request), is_plain=request.prompt is not None))
        except RequestError as error:
            problems.append(Problem(where, f"request {n.name}", str(error)))
            continue
        if not found[-1]:
            problems.append(Problem(where, f"request {n.name}", "the prompt is empty"))
    if problems:
        raise ConfigError(problems)
    return found


def _pinned(renderer: PromptRenderer, settings: Settings) -> list[list[int]]:
    """Return what a start computes and pins: see `Pipeline.precompute`."""
    if not renderer.takes_messages:
        return []
    wanted: list[str | None] = [*dict.fromkeys(settings.model.system_prompts)] or [None]
    return [renderer.shared_prefix(text)[: settings.model.prefix_length] for text in wanted]


def _drawing(masks: Masks, width: int | None) -> str:
    size = shutil.get_terminal_size()
    is_terminal = sys.stdout.isatty()
    return draw_on_terminal(
        masks,
        width=width or (size.columns if is_terminal else PLAIN_WIDTH),
        max_lines=max(size.lines - 4, LEAST_LINES) if is_terminal else PLAIN_LINES,
        colour=is_terminal and _shows_colours(),
    )


def _shows_colours() -> bool:
    # https://no-color.org: set, and not to nothing.
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _write(masks: Masks, output: Path, width: int) -> None:
    picture = draw(masks, totals(masks), width)
    try:
        if output.suffix.lower() == ".png":
            to_png(picture, output)
        else:
            output.write_text(to_svg(picture), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("command line", "--output", f"can't be written: {error}")]) from error


def totals(masks: Masks) -> list[tuple[str, int, int]]:
    """Return what both sides come to: (what, before, after)."""
    before, after = masks.before, masks.after
    return [
        ("tokens computed", before.rows, after.rows),
        ("cells (a token that sees a key)", before.cells, after.cells),
        ("blocks held", len(before.blocks), len(after.blocks)),
        ("blocks reused", 0, after.reused_blocks),
    ]


def origins(packing: Packing, prompt: int, names: Sequence[str]) -> str:
    """Return where a prompt's reused blocks come from, in words."""
    found = (packing.blocks[n].computed_by for n in packing.rests[prompt].reused_blocks)
    return ", ".join("the cache" if p is None else names[p] for p in dict.fromkeys(found))


def _table(masks: Masks) -> Iterator[str]:
    yield ""
    lines = [
        (what, f"{before:,}", f"{after:,}", _ratio(before, after)) for what, before, after in totals(masks)
    ]
    wide = max(len(what) for what, *_ in lines)
    yield f"{'':<{wide}}  {'before':>14}  {'after':>14}"
    for what, before, after, ratio in lines:
        yield f"{what:<{wide}}  {before:>14}  {after:>14}  {ratio}".rstrip()
    yield ""
    wide = max(6, *(len(name) for name in masks.names))
    yield f"{'prompt':<{wide}}  {'tokens':>7}  {'computed':>8}  blocks reused"
    for rest in masks.after.rests[:MOST_PROMPTS_LISTED]:
        reused = len(rest.reused_blocks)
        whence = f"{reused} from {origins(masks.after, rest.prompt, masks.names)}" if reused else "none"
        yield (
            f"{masks.names[rest.prompt]:<{wide}}  {rest.prompt_tokens:>7,}  {len(rest.rows):>8,}  {whence}"
        )
    more = len(masks.names) - MOST_PROMPTS_LISTED
    if more > 0:
        yield f"... and {more} more"


def _ratio(before: int, after: int) -> str:
    return f"{before / after:.1f} x less" if before > after else ""
