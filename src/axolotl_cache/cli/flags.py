"""The cache flags that all commands share, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from axolotl_cache.config import Flag


def cache_flags(
    *, use_prefix_cache: bool = False, enable_cache_optimization: bool = False, cache_ttl: str | None = None
) -> dict[str, Flag]:
    """Return the settings that the flags stand for, as `load_settings` takes them.

    Args:
        use_prefix_cache: `--use-prefix-cache`, the prefix cache on.
        enable_cache_optimization: `--enable-cache-optimization`, all tiers on and tuned by themselves.
        cache_ttl: `--cache-ttl`, how long an answer, and the keys and values of a prefix that is not
            pinned, may be served: seconds, or a time as 48h.
    """
    flags: dict[str, Flag] = {}
    if enable_cache_optimization:
        name = "--enable-cache-optimization"
        flags["model_config.enable_prefix_cache"] = Flag(name, True)
        flags["inference_settings.max_cache_entries"] = Flag(name, "auto")
    if use_prefix_cache:
        flags["model_config.enable_prefix_cache"] = Flag("--use-prefix-cache", True)
    if cache_ttl is not None:
        flags["inference_settings.entry_timeout"] = Flag("--cache-ttl", cache_ttl)
    return flags


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
