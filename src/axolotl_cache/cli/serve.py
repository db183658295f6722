"""`axolotl-cache serve`: the OpenAI-compatible server."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.inference import adapter_folders
from axolotl_cache.cli.keys import default_keys_file, keys_file_option
from axolotl_cache.cli.sampling import cache_truncated_option
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.terminal import say, steps_bar
from axolotl_cache.config import Flag, parse_size
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.request import CacheControl
from axolotl_cache.server.limits import Limits

UPSTREAM_KEY: Final = "AXOLOTL_CACHE_UPSTREAM_KEY"

_LIMITS: Final = Limits()
_BY_SIGNAL: Final = 128
"""What shells add to a signal's number."""
_SWITCH_SECONDS: Final = 0.0005
"""How long one thread may keep the others from Python: hits wait for the engine's thread no longer."""


@click.command()
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="URL",
    help="Have another OpenAI-compatible server compute; may be repeated. Needs cache_version. Its API key, "
    f"if it wants one, is taken from ${UPSTREAM_KEY}.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any free one."
)
@keys_file_option
@click.option("--model-name", metavar="NAME", help="What clients call the model.  [default: base_model]")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Load another LoRA adapter, which requests name as their model; may be repeated.",
)
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
@click.option(
    "--max-running", type=click.IntRange(min=1), help="Computed at once.  [default: 32; 64 an upstream]"
)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=0),
    default=_LIMITS.most_waiting,
    show_default=True,
    help="Requests that may wait for that; a further one gets a 429.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.  [default: what the context leaves]"
)
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(min=1),
    help="Longest prompt that is computed; a longer one gets a 400.  [default: what the context allows]",
)
@click.option(
    "--max-body",
    default="8MiB",
    show_default=True,
    metavar="SIZE",
    help="Longest body of a request; a longer one gets a 413.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=_LIMITS.deadline_seconds,
    show_default=True,
    metavar="SECONDS",
    help="For a request, from its arrival to its last byte.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=_LIMITS.grace_seconds,
    show_default=True,
    metavar="SECONDS",
    help="How long what runs may go on after SIGTERM or Ctrl + C; a second one ends it at once.",
)
@click.option(
    "--request-log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append a line for each request: figures, and hashes of its prompt's blocks.",
)
@click.option("--request-log-text", is_flag=True, help="With the prompts themselves.")
@click.option(
    "--otlp-endpoint",
    envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
    metavar="URL",
    help="Send OpenTelemetry traces there.  [default: $OTEL_EXPORTER_OTLP_ENDPOINT]",
)
@click.option(
    "--show-prompts/--no-show-prompts",
    default=None,
    help="Whether the dashboard shows the last prompts.  [default: only without keys]",
)
@click.option("--ray", "on_ray", is_flag=True, help="Run replicas of the engine on Ray Serve.")
@click.option(
    "--replicas",
    default="1",
    show_default=True,
    metavar="N|MIN:MAX",
    help="With --ray: how many; with two numbers, as many as there is work for.",
)
@click.option(
    "--replica-cpus",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="With --ray: CPUs that each replica reserves.",
)
@click.option(
    "--replica-gpus",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="With --ray: GPUs that each replica gets.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="With --ray: of a running cluster, or auto.  [default: one is started on this machine]",
)
def serve(
    yaml_file: Path,
    flags: dict[str, Flag],
    upstreams: tuple[str, ...],
    host: str,
    port: int,
    keys_file: Path | None,
    model_name: str | None,
    adapters: tuple[str, ...],
    temperature: float,
    cache_sampled: bool,
    cache_truncated: bool,
    max_running: int | None,
    max_waiting: int,
    max_new_tokens: int | None,
    max_prompt_tokens: int | None,
    max_body: str,
    timeout: float,
    grace: float,
    request_log: Path | None,
    request_log_text: bool,
    otlp_endpoint: str | None,
    show_prompts: bool | None,
    on_ray: bool,
    replicas: str,
    replica_cpus: float,
    replica_gpus: float,
    ray_address: str | None,
) -> None:
    """Serve OpenAI's clients, through the caches.

    The model is the one that YOUR_CONFIG.YAML describes; with --upstream, that of other servers. Without
    keys (axolotl-cache keys add NAME), only this machine is served.
    """
    settings = load_for_model(yaml_file, flags)
    for flag, given in (("--max-new-tokens", max_new_tokens), ("--max-prompt-tokens", max_prompt_tokens)):
        if upstreams and given is not None:
            message = "an upstream counts its own tokens: bound them there"
            raise ConfigError([Problem("command line", flag, message)])
    most_body_bytes = _size("--max-body", max_body)
    limits = Limits(
        most_running=max_running or (64 * len(upstreams) or _LIMITS.most_running),
        most_waiting=max_waiting,
        deadline_seconds=timeout,
        most_body_bytes=most_body_bytes,
        grace_seconds=grace,
    )
    if on_ray and upstreams:
        raise ConfigError([Problem("command line", "--ray", "runs our own engine; leave --upstream out")])
    folders = adapter_folders(adapters)
    control = CacheControl(sampled=cache_sampled, truncated=cache_truncated)
    with ExitStack() as stack, _needs_extra():
        from axolotl_cache.server import opening
        from axolotl_cache.server.app import App
        from axolotl_cache.server.asked import Rules
        from axolotl_cache.server.run import address_of, listen, make_server
        from axolotl_cache.server.service import Service
        from axolotl_cache.server.watching import Watching, operator_routes

        doors = opening.open_doors(keys_file, default_keys_file(), host)
        rules = Rules(
            model_name or str(settings.axolotl.get("base_model", "")),
            adapters=tuple(folders),
            temperature=temperature,
            most_new_tokens=max_new_tokens,
            most_prompt_tokens=max_prompt_tokens,
            control=control,
        )
        watching = Watching(
            keeps_text=not doors.has_keys if show_prompts is None else show_prompts,
            log=request_log,
            log_has_text=request_log_text,
            otlp_endpoint=otlp_endpoint,
        )
        if on_ray:
            from axolotl_cache.ray_serve.run import run
            from axolotl_cache.ray_serve.spec import Spec, scaling_of

            keys = (keys_file or default_keys_file()).resolve() if doors.has_keys else None
            spec = Spec(yaml_file.resolve(), rules, flags, limits, watching, folders, keys)
            scaling = scaling_of(replicas, cpus=replica_cpus, gpus=replica_gpus)
            run(spec, scaling, address=ray_address, host=host, port=port, report=say)
            return
        listening = stack.enter_context(closing(listen(host, port)))
        if upstreams:
            backend: Any = opening.open_upstreams(
                settings, stack, upstreams, os.environ.get(UPSTREAM_KEY), control, limits, say
            )
        else:
            with steps_bar("computing system prompts") as progress:
                backend = opening.open_engine(settings, stack, rules, limits, say, progress, folders)
        name = ", ".join(upstreams) or rules.model
        pipeline = None if upstreams else backend.pipeline
        service = Service(backend, limits, doors, watching.open(stack, name, pipeline, say))
        app = App(service, operator_routes(service, pipeline))
        sys.setswitchinterval(_SWITCH_SECONDS)
        # What is loaded stays. Looked through for garbage each time, a model's modules stop all for 180 ms.
        gc.collect()
        gc.freeze()
        server = make_server(app, grace_seconds=grace, stopping=service.drain)
        say(f"serving {name} at {address_of(listening)}/v1")
        if not doors.has_keys:
            say("without keys, only this machine is served: axolotl-cache keys add NAME")
        server.run(sockets=[listening])
    if server.forced_by is not None:
        raise SystemExit(_BY_SIGNAL + server.forced_by)


def _size(flag: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError([Problem("command line", flag, str(error))]) from error


@contextmanager
def _needs_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "ray":
            missing = "is not installed: pip install 'axolotl-cache[ray]'"
            raise ConfigError([Problem("serve --ray", "ray", missing)]) from error
        if str(error.name).partition(".")[0] not in ("httptools", "httpx2", "starlette", "uvicorn", "uvloop"):
            raise
        raise ConfigError(
            [Problem("serve", str(error.name), "is not installed: pip install 'axolotl-cache[server]'")]
        ) from error
