"""`axolotl-cache serve`: the OpenAI-compatible server."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import click

from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.inference import cache_truncated_option
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.terminal import say, steps_bar
from axolotl_cache.config import Flag, Settings
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.request import CacheControl

_SWITCH_SECONDS: Final = 0.0005
"""How long one thread may keep the others from Python: hits wait for the engine's thread no longer."""


@click.command()
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any free one."
)
@click.option("--model-name", metavar="NAME", help="What clients call the model.  [default: base_model]")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=1.0,
    show_default=True,
    help="Of requests that name none. Only answers with temperature 0, or with a seed, are cached.",
)
@click.option(
    "--cache-sampled",
    is_flag=True,
    help="Serve stored answers again even if they were sampled without a seed.",
)
@cache_truncated_option
def serve(yaml_file: Path, flags: dict[str, Flag], **options: Any) -> None:
    """Serve the model that YOUR_CONFIG.YAML describes to OpenAI's clients, through the caches."""
    settings = load_for_model(yaml_file, flags)
    with ExitStack() as stack:
        run(settings, stack, **options)


def run(
    settings: Settings,
    stack: ExitStack,
    *,
    host: str,
    port: int,
    model_name: str | None,
    temperature: float,
    cache_sampled: bool,
    cache_truncated: bool,
) -> None:
    """Load the model, and serve until told to stop."""
    try:
        from axolotl_cache.server.app import App
        from axolotl_cache.server.run import address_of, is_loopback, listen, make_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            [Problem("serve", str(error.name), "is not installed: pip install 'axolotl-cache[server]'")]
        ) from error
    from axolotl_cache.assembly import load, open_pipeline, open_response_cache
    from axolotl_cache.server.asked import Rules
    from axolotl_cache.server.engine_backend import EngineBackend
    from axolotl_cache.server.limits import Limits
    from axolotl_cache.server.service import Service

    if not is_loopback(host):
        raise ConfigError([Problem("command line", "--host", f"{host!r} is not this machine alone")])
    limits = Limits()
    listening = stack.enter_context(closing(listen(host, port)))
    loaded = load(settings, say)
    response = stack.enter_context(closing(open_response_cache(settings, concurrency=limits.most_running)))
    with steps_bar("computing system prompts") as progress:
        pipeline = open_pipeline(
            settings,
            loaded,
            say,
            response=response,
            use_prefix_cache=settings.model.enable_prefix_cache,
            progress=progress,
        )
    stack.enter_context(closing(pipeline))
    stack.enter_context(pipeline.engine.in_background())
    name = model_name or str(settings.axolotl.get("base_model", "model"))
    control = CacheControl(sampled=cache_sampled, truncated=cache_truncated)
    rules = Rules(name, temperature=temperature, control=control)
    service = Service(EngineBackend(pipeline, rules, most_running=limits.most_running), limits)
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = make_server(App(service), grace_seconds=limits.grace_seconds, stopping=service.drain)
    say(f"serving {name} at {address_of(listening)}")
    server.run(sockets=[listening])
