"""`axolotl-cache inference`, and `python -m axolotl.cli.inference` where Axolotl is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from axolotl_cache.cli.desk import Desk
from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.opening import open_model
from axolotl_cache.cli.sampling import cache_truncated_option, choose_sampling, sampling_options
from axolotl_cache.cli.session import session_lines, session_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.terminal import print_summary, say
from axolotl_cache.config import Flag, Settings
from axolotl_cache.errors import ConfigError, Problem, RequestError
from axolotl_cache.prompts_file import from_file
from axolotl_cache.request import CacheControl, Request

_INTERRUPTED: Final = 130
_REFUSED: Final = 2


def _command(name: str, *, caches_by_default: bool) -> click.Command:
    @click.command(name, cls=CleanCommand)
    @click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
    @cache_options
    @click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Answer this; may be repeated.")
    @click.option(
        "--prompts-file",
        type=click.Path(path_type=Path),
        metavar="FILE.JSONL",
        help="Answer each line: a JSON string, or an object with user, messages or prompt. Implies --json.",
    )
    @click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="With --prompts-file: answer so many at once. Answers come out in the file's order.",
    )
    @click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="NAME=FOLDER",
        help="Load another LoRA adapter, for lines of the prompts file with `adapter`; may be repeated.",
    )
    @click.option(
        "--chat", is_flag=True, help="A conversation: a line is a turn, and what was said is known."
    )
    @click.option(
        "--system",
        metavar="TEXT",
        help="System message.  [default: the first of model_config.system_prompts; '' for none of them]",
    )
    @session_options
    @sampling_options
    @click.option(
        "--json", "as_json", is_flag=True, help="One JSON object an answer, with where it came from."
    )
    @click.option(
        "--cache-sampled",
        is_flag=True,
        help="Serve stored answers again even if they were sampled without a seed.",
    )
    @cache_truncated_option
    @click.option("--quiet", is_flag=True, help="Nothing on standard error but warnings and errors.")
    def command(yaml_file: Path, flags: dict[str, Flag], **options: Any) -> None:
        settings = load_for_model(yaml_file, flags)
        caching = caches_by_default or bool(flags) or settings.cache_blocks_present
        answer_prompts(settings, caching=caching, **options)

    when = "" if caches_by_default else "Nothing is cached unless the YAML has cache blocks or a flag asks."
    command.help = f"""Answer prompts with the model that YOUR_CONFIG.YAML describes, through the caches.

    Prompts come from --prompt, --prompts-file, a pipe, or the terminal. Standard output holds the answers
    and nothing else. {when}
    """
    return command


inference = _command("inference", caches_by_default=True)
axolotl_inference = _command("python -m axolotl.cli.inference", caches_by_default=False)
"""The same under Axolotl's name, where nothing is cached unless it is asked for."""


def answer_prompts(
    settings: Settings,
    *,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    chat: bool,
    system: str | None,
    sampling: dict[str, Any],
    as_json: bool,
    cache_sampled: bool,
    cache_truncated: bool,
    quiet: bool,
    concurrency: int = 1,
    adapters: Sequence[str] = (),
    session: str = "",
    principal: str = "",
    caching: bool = True,
) -> None:
    """Run the command on settings that are in force.

    Args:
        settings: what is in force.
        prompts: texts to answer.
        prompts_file: a JSON Lines file of requests to answer.
        chat: hold a conversation on the terminal.
        system: the system message; None for the first of `system_prompts`, "" for none of ours.
        sampling: the options given on the command line.
        as_json: print objects.
        cache_sampled: store and serve answers that were sampled without a seed.
        cache_truncated: store answers that were cut off.
        quiet: say nothing on standard error but warnings.
        concurrency: requests of a file that are computed at once.
        adapters: further adapters, each as NAME=FOLDER.
        session: of all requests that name none themselves.
        principal: who asks, where a request does not say so itself.
        caching: False answers as if this library were not there.
    """
    if sum([bool(prompts), prompts_file is not None, chat]) > 1:
        raise ConfigError([Problem("command line", "--prompt, --prompts-file, --chat", "give one of them")])
    chosen_system = next(iter(settings.model.system_prompts), None) if system is None else system or None
    # What can be wrong in a file is said before the model is loaded.
    control = CacheControl(sampled=cache_sampled, truncated=cache_truncated)
    asked = Request(cache_control=control, session=session, principal=principal)
    named = from_file(prompts_file, asked, chosen_system) if prompts_file else None
    folders = adapter_folders(adapters)
    pipeline, loaded = open_model(settings, quiet=quiet, caching=caching, adapters=folders)
    template = replace(asked, sampling=choose_sampling(loaded.default_sampling, sampling))
    desk = Desk(pipeline, loaded, template, chosen_system, as_json=as_json or named is not None)
    with closing(pipeline):
        try:
            if named is not None:
                desk.answer_many([desk.with_sampling(n) for n in named], concurrency)
            elif prompts:
                desk.answer_all(desk.named(i, text) for i, text in enumerate(prompts, 1))
            elif chat:
                desk.chat()
            elif sys.stdin.isatty():
                desk.terminal()
            else:
                text = sys.stdin.read().strip()
                if not text:
                    raise RequestError("standard input is empty; pipe a prompt in, or use --prompt")
                desk.answer_all([desk.named(1, text)])
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            sys.exit(_INTERRUPTED)
        finally:
            if not quiet:
                print_summary(pipeline.totals, pipeline.semantic)
                for line in session_lines(pipeline):
                    say(line)
    if desk.refused:
        sys.exit(_REFUSED)


def adapter_folders(given: Sequence[str]) -> dict[str, Path]:
    """Return the folders of adapters given as NAME=FOLDER, by name."""
    folders: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ConfigError([Problem("command line", "--adapter", f"{text!r} is not NAME=FOLDER")])
        folders[name] = Path(folder)
    return folders
