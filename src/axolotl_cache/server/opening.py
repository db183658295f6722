"""From settings to what a server is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from axolotl_cache.config import Settings
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.request import CacheControl
from axolotl_cache.response.ttl_rules import TtlPolicy
from axolotl_cache.server.asked import Rules
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.engine_backend import EngineBackend
from axolotl_cache.server.keys import KeyFile
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.run import is_loopback
from axolotl_cache.server.upstream_backend import Terms, UpstreamBackend
from axolotl_cache.server.upstreams import Upstreams, make_client
from axolotl_cache.stored_answers import open_response_cache


def open_doors(keys_file: Path | None, default: Path, host: str) -> Doors:
    """Return who may come in.

    Args:
        keys_file: given by the user; None takes `default`, if it is there.
        default: where keys are unless told otherwise.
        host: where the server will listen.

    Raises:
        ConfigError: there are no keys, and others than this machine would reach it; or the file is damaged.
    """
    path = keys_file or default
    doors = doors_of(path if keys_file is not None or default.exists() else None)
    if not doors.has_keys and keys_file is not None:
        raise ConfigError([_problem("--keys", f"there is no key in {path}: axolotl-cache keys add NAME")])
    if not doors.has_keys and not is_loopback(host):
        raise ConfigError(
            [
                _problem(
                    "--host",
                    f"{host} is open to others, and there are no keys in {path}: make one (axolotl-cache "
                    "keys add NAME), or listen on 127.0.0.1",
                )
            ]
        )
    return doors


def doors_of(keys_file: Path | None) -> Doors:
    """Return who may come in by a file of keys; without one, or with none in it, only this machine.

    Raises:
        ConfigError: the file is damaged.
    """
    keys = None if keys_file is None else KeyFile(keys_file, time.monotonic)
    return Doors(keys if keys is not None and keys.ring.keys else None)


def open_engine(
    settings: Settings,
    stack: ExitStack,
    rules: Rules,
    limits: Limits,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
    adapters: Mapping[str, Path],
) -> EngineBackend:
    """Return our own engine, loaded and running; `stack` closes it."""
    from axolotl_cache.assembly import load, open_pipeline  # with torch, which upstreams do without

    loaded = load(settings, report)
    response = stack.enter_context(
        closing(open_response_cache(settings, concurrency=limits.most_running, report=report))
    )
    pipeline = open_pipeline(
        settings,
        loaded,
        report,
        response=response,
        use_prefix_cache=settings.model.enable_prefix_cache,
        adapters=adapters,
        progress=progress,
    )
    stack.enter_context(closing(pipeline))
    pipeline.most_prompt_tokens = rules.most_prompt_tokens
    stack.enter_context(pipeline.engine.in_background())
    return EngineBackend(pipeline, rules, most_running=limits.most_running)


def open_upstreams(
    settings: Settings,
    stack: ExitStack,
    urls: Sequence[str],
    key: str | None,
    control: CacheControl,
    limits: Limits,
    report: Callable[[str], None],
) -> UpstreamBackend:
    """Return other servers behind the response cache; `stack` closes that.

    Raises:
        ConfigError: there is no `cache_version`, or a URL is none.
    """
    problems = [
        _problem("--upstream", f"{url!r} is no URL: write http://HOST:PORT")
        for url in urls
        if not url.startswith(("http://", "https://"))
    ]
    if not settings.inference.cache_version:
        problems.append(
            Problem(
                str(settings.path),
                "inference_settings.cache_version",
                "must be given with --upstream: nobody here sees the weights there, so that a new mark from "
                'you (as "2026-11") is what ends the old answers',
            )
        )
    if problems:
        raise ConfigError(problems)
    cache = stack.enter_context(
        closing(open_response_cache(settings, concurrency=limits.most_running, report=report))
    )
    inference = settings.inference
    terms = Terms(
        inference.environment_tag,
        inference.cache_version,
        control,
        TtlPolicy(inference.ttl_rules, inference.entry_timeout),
    )
    client = make_client(key, most=2 * limits.most_running, seconds=limits.deadline_seconds)
    return UpstreamBackend(Upstreams(urls, client), cache, terms)


def _problem(flag: str, message: str) -> Problem:
    return Problem("command line", flag, message)
