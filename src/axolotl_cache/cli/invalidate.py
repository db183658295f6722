"""`axolotl-cache invalidate`: stored answers removed, without loading a model."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.config import Flag, parse_duration
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.session import entity_of, names_of
from axolotl_cache.stored_answers import open_response_cache, response_folder
from axolotl_cache.stored_sessions import drop_stored_entity, end_stored_session


@click.command(cls=CleanCommand)
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option("--key", help="The answer with this key, which `inference --json` prints.")
@click.option("--tag", help="Answers to requests with this tag.")
@click.option("--entity", help="Answers about this entity, as `order 67890` or `#67890`, and its record.")
@click.option("--session", help="Answers of this session, which is ended.")
@click.option("--user", help="Answers to this principal.")
@click.option("--tenant", help="Answers of this tenant.")
@click.option(
    "--model", help="Answers of this adapter, by name, or of weights or an adapter with this digest."
)
@click.option("--version", help="Answers under this cache_version.")
@click.option("--older-than", metavar="TIME", help="Answers older than this: 7200, 90s, 1h30m, 48h.")
@click.option("--everything", is_flag=True, help="All stored answers, of all namespaces.")
@click.option(
    "--wrong",
    is_flag=True,
    help="With --key: the answer is wrong. It is removed, and the same one is never stored there again.",
)
def invalidate(
    yaml_file: Path,
    flags: dict[str, Flag],
    key: str | None,
    older_than: str | None,
    everything: bool,
    wrong: bool,
    **owners: str | None,
) -> None:
    """Remove stored answers from the folder that YOUR_CONFIG.YAML names, and print how many that were.

    What meets every condition given is removed, for running programs, too. At most one of --tag, --entity,
    --session, --user, --tenant, --model and --version. No model is loaded. Keys and values of prefixes
    stay: they hold no answers, and a namespace keeps them from being served to others. Those behind an
    entity's record go, too: on disk now, in running programs with the next request about it, for which the
    record is fetched anew. A session is ended, and its next turn begins another one. With cluster_cache
    answers are removed from its servers, too, and every machine hears of it.
    """
    settings = load_for_model(yaml_file, flags)
    folder = response_folder(settings)
    if folder is None and settings.cluster is None:
        raise _refused("enable_persistence is off, so that answers are in the memory of the running program")
    named = [name for name, value in owners.items() if value is not None]
    if len(named) > 1:
        raise _refused("give one of " + ", ".join(f"--{name}" for name in named))
    age = _age(older_than)
    conditions = key is not None or age is not None or bool(named)
    if everything == conditions:
        raise _refused("say which answers: by an option, see --help, or else --everything")
    if wrong and (key is None or age is not None or named):
        raise _refused("--wrong reports the one answer with the key that --key gives")
    # First: else a running program would store an answer with the old record in between.
    if named == ["entity"] and key is None and age is None:
        entity = entity_of(str(owners["entity"]))
        if entity is not None:
            drop_stored_entity(settings, entity.canonical)
    if named == ["session"] and key is None and age is None:
        end_stored_session(settings, str(owners["session"]))
    if settings.cluster is None and folder is not None and not folder.is_dir():  # looking must not make one
        click.echo(0)
        return
    with closing(open_response_cache(settings)) as cache:
        if wrong:
            click.echo(int(cache.report_wrong(key or "")))
        elif everything:
            click.echo(cache.cache_clear())
        else:
            try:
                click.echo(
                    sum(cache.invalidate(key, older_than_seconds=age, **each) for each in _each(owners))
                )
            except ValueError as error:
                raise _refused(str(error)) from error


def _each(owners: dict[str, str | None]) -> list[dict[str, str | None]]:
    """Return the owners to go by, one after another: an entity goes by two names."""
    name = owners["entity"]
    return [owners] if not name else [owners | {"entity": each} for each in names_of(name)]


def _age(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise _refused(str(error)) from error


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("command line", "invalidate", message)])
