"""The cache flags as options of our commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from axolotl_cache.config import cache_flags


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the cache flags to a click command, which gets them as one argument, `flags`.

    Written below `@click.command()`: `def serve(flags: dict[str, Flag]) -> None`.
    """

    @click.option(
        "--use-prefix-cache",
        is_flag=True,
        help="Reuse the keys and values of prompts that begin alike (model_config.enable_prefix_cache).",
    )
    @click.option(
        "--enable-cache-optimization",
        is_flag=True,
        help="All tiers on, tuned by themselves (inference_settings.max_cache_entries: auto).",
    )
    @click.option(
        "--cache-ttl",
        metavar="TIME",
        help="How long answers, and prefixes that are not pinned, are kept: 7200, 90s, 1h30m, 48h "
        "(inference_settings.entry_timeout).",
    )
    @wraps(command)
    def with_flags(
        *args: Any,
        use_prefix_cache: bool,
        enable_cache_optimization: bool,
        cache_ttl: str | None,
        **rest: Any,
    ) -> Any:
        flags = cache_flags(
            use_prefix_cache=use_prefix_cache,
            enable_cache_optimization=enable_cache_optimization,
            cache_ttl=cache_ttl,
        )
        return command(*args, flags=flags, **rest)

    return with_flags
