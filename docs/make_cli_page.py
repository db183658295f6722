"""Print docs/cli.md: every command's own help. Run by scripts/docs."""

import click

from axolotl_cache.cli.inference import axolotl_inference
from axolotl_cache.cli.main import COMMANDS, main

HEAD = """# Command line

Made from the commands' own help by `scripts/docs`.

Standard output holds answers (or the report that was asked for) and nothing else. Exit status: 0, or 2 for a
mistake in the configuration or the request, or 130 after Ctrl-C.
"""


def section(title: str, command: click.Command) -> str:
    """Return one command's help as a section."""
    context = click.Context(command, info_name=title, max_content_width=100, terminal_width=100)
    return f"## `{title}`\n\n```\n{command.get_help(context)}\n```\n"


def page() -> str:
    """Return the whole page."""
    group = click.Context(main)
    parts = [HEAD, section("axolotl-cache", main)]
    for name in COMMANDS:
        command = main.get_command(group, name)
        assert command is not None  # noqa: S101 - the names are the group's own
        parts.append(section(f"axolotl-cache {name}", command))
    parts.append(section("python -m axolotl.cli.inference", axolotl_inference))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
