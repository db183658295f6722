"""The command `axolotl-cache`: its subcommands, each imported only when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

from axolotl_cache import __version__
from axolotl_cache.cli.errors import clean_errors

COMMANDS: Final = {
    # name: (where it lives, its line in --help); in the order of a first acquaintance
    "inference": (
        "axolotl_cache.cli.inference:inference",
        "Answer prompts with a model, through the caches.",
    ),
    "serve": ("axolotl_cache.cli.serve:serve", "Serve a model to OpenAI's clients, through the caches."),
    "keys": ("axolotl_cache.cli.keys:keys", "Make, list and remove the API keys of a server's tenants."),
    "bench": (
        "axolotl_cache.cli.bench:bench",
        "Measure your model and your requests with the cache off and on.",
    ),
    "profile": (
        "axolotl_cache.cli.profile:profile",
        "Find what repeats in a log, predict hits, and print the YAML to use.",
    ),
    "doctor": (
        "axolotl_cache.cli.doctor:doctor",
        "Say why the hit rate is low, memory high, or answers inconsistent.",
    ),
    "mask": (
        "axolotl_cache.cli.mask:mask",
        "Draw the attention mask of prompts, before and after, with the reused blocks in red.",
    ),
    "invalidate": (
        "axolotl_cache.cli.invalidate:invalidate",
        "Remove stored answers: by tag, entity, session, tenant, version, age; or report one wrong.",
    ),
    "erase": (
        "axolotl_cache.cli.erase:erase",
        "Erase everything of a tenant, a user or a session from every file.",
    ),
    "config": ("axolotl_cache.cli.config:config", "Show what is in force, and where each value came from."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and help line, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what the library refuses becomes a message and exit status 2."""
        with clean_errors():
            return super().invoke(ctx)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="axolotl-cache")
def main() -> None:
    """An inference cache for language models trained with Axolotl."""


if __name__ == "__main__":
    main()
