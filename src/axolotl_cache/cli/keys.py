"""`axolotl-cache keys`: make, list and remove the API keys of a server's tenants."""

from __future__ import annotations

from pathlib import Path

import click

from axolotl_cache.config import parse_size
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.paths import config_home
from axolotl_cache.server.keys import Role, Tenant, read_keys, write_keys

keys_file_option = click.option(
    "--keys",
    "keys_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the keys' digests are.  [default: keys.json in the user's configuration folder]",
)


def default_keys_file() -> Path:
    """Return where the keys are, unless told otherwise."""
    return config_home() / "keys.json"


@click.group()
def keys() -> None:
    """Make, list and remove the keys that a server asks for."""


@keys.command("add")
@click.argument("name")
@click.option("--operator", is_flag=True, help="For /metrics and /dashboard: the figures of all tenants.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N")
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that are computed; what comes from a cache is free.",
)
@click.option(
    "--cache-bytes",
    metavar="SIZE",
    help="What is held for the tenant: stored answers, and in what they leave, keys and values in memory.",
)
@keys_file_option
def add(
    name: str,
    operator: bool,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    cache_bytes: str | None,
    keys_file: Path | None,
) -> None:
    """Make a key for the tenant NAME, and print it: it is kept nowhere.

    A tenant may have several keys. The quotas are the tenant's, and are set anew each time.
    """
    try:
        most_bytes = None if cache_bytes is None else parse_size(cache_bytes)
    except ValueError as error:
        raise ConfigError([Problem("command line", "--cache-bytes", str(error))]) from error
    path = keys_file or default_keys_file()
    ring = read_keys(path)
    role: Role = "operator" if operator else "tenant"
    key = ring.add(Tenant(name, role, requests_per_minute, tokens_per_minute, most_bytes))
    write_keys(path, ring)
    click.echo(f"a key of {name}, in {path}:", err=True)
    click.echo(key)


@keys.command("list")
@keys_file_option
def list_keys(keys_file: Path | None) -> None:
    """Print the keys' ids and tenants, one a line."""
    ring = read_keys(keys_file or default_keys_file())
    for key in ring.keys.values():
        tenant = ring.tenants[key.tenant]
        bounds = {
            "requests/min": tenant.requests_per_minute,
            "tokens/min": tenant.tokens_per_minute,
            "cache bytes": tenant.cache_bytes,
        }
        told = ", ".join(f"{name} {bound:,}" for name, bound in bounds.items() if bound is not None)
        click.echo(f"{key.id}  {tenant.role:<8}  {tenant.name}{'  ' + told if told else ''}")


@keys.command("remove")
@click.argument("name_or_id")
@keys_file_option
def remove(name_or_id: str, keys_file: Path | None) -> None:
    """Remove one key by its id, or a tenant with all keys. A running server knows within a second."""
    path = keys_file or default_keys_file()
    ring = read_keys(path)
    gone = ring.remove(name_or_id)
    if not gone:
        raise ConfigError([Problem("keys", "NAME_OR_ID", f"there is no {name_or_id!r} in {path}")])
    write_keys(path, ring)
    click.echo(f"removed {gone} key(s)", err=True)
