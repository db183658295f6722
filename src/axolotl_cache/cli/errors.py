"""Errors as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from axolotl_cache.errors import AxolotlCacheError

EXTRA_OF: Final = {
    **dict.fromkeys(
        ("torch", "transformers", "peft", "accelerate", "safetensors", "gguf", "psutil"), "engine"
    ),
    "numpy": "engine",
    "bitsandbytes": "quantized",
    "matplotlib": "pictures",
    "cryptography": "encryption",
}
"""The extra to install for a missing package."""


class Refusal(click.ClickException):
    """A message on standard error and exit status 2, without a traceback."""

    exit_code = 2


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn what this library raises on purpose, and a missing extra, into a `Refusal`.

    For use around a block (`with clean_errors():`) or as a decorator (`@clean_errors()`).
    """
    try:
        yield
    except AxolotlCacheError as error:
        raise Refusal(str(error)) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        extra = EXTRA_OF[package]
        raise Refusal(
            f"{package} is not installed; it comes with: pip install 'axolotl-cache[{extra}]'"
        ) from error


class CleanCommand(click.Command):
    """A command that may stand alone: what the library refuses becomes a message and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with clean_errors():
            return super().invoke(ctx)
