"""The application that Ray Serve runs: a door, and engines behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ray.serve.config import RequestRouterConfig

from axolotl_cache.config import Flag
from axolotl_cache.model_settings import load_for_model
from axolotl_cache.ray_serve.door import Door
from axolotl_cache.ray_serve.replica import EngineReplica
from axolotl_cache.ray_serve.router import PrefixRouter
from axolotl_cache.ray_serve.spec import Scaling, Spec, plain
from axolotl_cache.request import CacheControl
from axolotl_cache.server import opening
from axolotl_cache.server.asked import Rules
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.watching import Watching
from ray import serve

__all__ = ["Scaling", "application", "build_app"]

_ENGINE: Final = "engine"
_TELLS_EVERY_SECONDS: Final = 2.0
_MOST_AT_A_DOOR: Final = 10_000
_HEALTH_SECONDS: Final = 5.0
_LOGGING: Final = {"enable_access_log": False}
"""The request log and the figures have all of it; a line a request on a terminal hides the warnings."""
_ANSWER_SECONDS: Final = 5.0
"""By which a door outlives the replicas that it passes answers on from."""


def build_app(
    yaml_file: str | Path,
    *,
    scaling: Scaling | None = None,
    limits: Limits | None = None,
    keys_file: str | Path | None = None,
    model_name: str | None = None,
    flags: Mapping[str, Flag] | None = None,
    cache_truncated: bool = False,
) -> Any:
    """Return an application for `serve.run`, or for `import_path` in a Serve configuration.

    Args:
        yaml_file: the configuration; at the same place on every node.
        scaling: how many replicas, and what each gets; one, if not given.
        limits: of each replica; those of `axolotl-cache serve`, if not given.
        keys_file: who may ask; without one, only this machine is served.
        model_name: what clients call the model; as the configuration does, if not given.
        flags: settings that win over the configuration's.
        cache_truncated: whether answers that were cut off are stored.

    Raises:
        ConfigError: a setting is wrong.
    """
    path = Path(yaml_file).resolve()
    settings = load_for_model(path, flags or {})
    rules = Rules(
        model_name or str(settings.axolotl.get("base_model", "")),
        control=CacheControl(truncated=cache_truncated),
    )
    keys = None if keys_file is None else Path(keys_file).resolve()
    watching = Watching(keeps_text=keys is None)
    spec = Spec(path, rules, flags or {}, limits or Limits(), watching, {}, keys)
    return application(spec, scaling or Scaling())


def application(spec: Spec, scaling: Scaling) -> Any:
    """Return the application for a server that is described in full."""
    router = RequestRouterConfig(
        request_router_class=PrefixRouter, request_routing_stats_period_s=_TELLS_EVERY_SECONDS
    )
    engine = serve.deployment(
        EngineReplica,
        name=_ENGINE,
        # So many that the engine's batch is full while the next ones wait beside it.
        max_ongoing_requests=2 * spec.limits.most_running,
        max_queued_requests=spec.limits.most_waiting,
        ray_actor_options={"num_cpus": scaling.cpus, "num_gpus": scaling.gpus},
        request_router_config=router,
        graceful_shutdown_timeout_s=spec.limits.grace_seconds,
        logging_config=_LOGGING,
        health_check_period_s=_HEALTH_SECONDS,
        **plain(scaling),
    )

    def open_door() -> Door:
        return Door(
            opening.doors_of(spec.keys_file),
            spec.limits.most_body_bytes,
            lambda: serve.get_deployment_handle(_ENGINE),
        )

    door = serve.deployment(
        serve.ingress(open_door)(),
        name="door",
        num_replicas=scaling.doors,
        max_ongoing_requests=_MOST_AT_A_DOOR,
        graceful_shutdown_timeout_s=spec.limits.grace_seconds + _ANSWER_SECONDS,
        logging_config=_LOGGING,
        ray_actor_options={"num_cpus": 0.1},
    )
    return door.bind(engine.bind(spec))
