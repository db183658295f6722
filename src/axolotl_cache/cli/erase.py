"""`axolotl-cache erase`: everything of somebody gone from the files, without loading a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import click

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.config import Flag, Settings
from axolotl_cache.erasure import ErasureReport, erased_in_all
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.paths import keys_and_values_home
from axolotl_cache.stored_answers import open_response_cache, response_folder
from axolotl_cache.stored_sessions import erase_stored_sessions
from axolotl_cache.stores import SqliteStore


@click.command(cls=CleanCommand)
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option("--tenant", help="Everything of this tenant.")
@click.option("--user", help="Everything of this principal.")
@click.option("--session", help="Everything of this session.")
@click.option(
    "--keys-and-values",
    is_flag=True,
    help="Also all keys and values of prompts on disk, everybody's, as they do not say whose they are. "
    "They are computed again when they are wanted.",
)
def erase(yaml_file: Path, flags: dict[str, Flag], keys_and_values: bool, **owner: str | None) -> None:
    """Erase everything of a tenant, a user or a session from the files that YOUR_CONFIG.YAML names.

    Afterwards no file holds a byte of their answers, of whatever model, and running programs let go of
    them with their next call. Prints how many entries, files and bytes that were, and below it, one a
    line, what may still hold something. What could not be erased is an error: exit status 2. No model is
    loaded. What running programs hold as keys and values, in memory, goes with them or when its time is up.
    """
    settings = load_for_model(yaml_file, flags)
    named = {name: value for name, value in owner.items() if value is not None}
    if len(named) != 1:
        raise _refused("say whose: by one of --tenant, --user and --session")
    if "" in named.values():
        raise _refused("the name is empty")
    if response_folder(settings) is None and settings.cluster is None:
        raise _refused("enable_persistence is off, so that answers are in the memory of the running program")
    folders = sorted(path.parent for path in keys_and_values_home().glob("kv-*/cache.sqlite3"))
    steps: list[Callable[[], ErasureReport]] = [
        partial(_answers, settings, named),
        partial(_sessions, settings, named),
    ]
    if keys_and_values:
        steps += [partial(_blocks, folder) for folder in folders]
    elif folders:
        steps.append(lambda: ErasureReport(left=tuple(_left(folders))))
    if settings.cluster is not None and settings.model.cache_backend == "redis":
        steps.append(lambda: ErasureReport(left=(_IN_REDIS,)))
    report = erased_in_all(steps)
    click.echo(f"erased: {report.entries:,} entries, {report.files:,} files, {report.bytes:,} bytes")
    for each in report.left:
        click.echo(f"left: {each}")


_IN_REDIS: Final = (
    "keys and values of prompts in Redis, which do not say whose they are: they go when their time is up, or "
    "with redis-cli, as every key of theirs begins with {axolotl-cache:1:kv-"
)


def _answers(settings: Settings, owner: dict[str, str]) -> ErasureReport:
    folder = response_folder(settings)
    if settings.cluster is None and (folder is None or not folder.is_dir()):  # looking must not make one
        return ErasureReport()
    with closing(open_response_cache(settings)) as cache:
        return cache.erase(**owner)


def _sessions(settings: Settings, owner: dict[str, str]) -> ErasureReport:
    ((kind, name),) = owner.items()
    return erase_stored_sessions(settings, f"{kind}:{name}")


def _blocks(folder: Path) -> ErasureReport:
    # No bound: whatever is in there, it all goes.
    with closing(SqliteStore(folder, sys.maxsize)) as store:
        return store.erase(None)


def _left(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        yield (
            f"keys and values of prompts in {folder}, which do not say whose they are: they go when their "
            "time is up, or all of them now with --keys-and-values"
        )


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("command line", "erase", message)])
