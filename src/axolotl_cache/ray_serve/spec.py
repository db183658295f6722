"""What is deployed, and on what: plain values that go to every process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axolotl_cache.config import Flag
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.server.asked import Rules
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.watching import Watching


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas of the engine there are, and what each gets."""

    min_replicas: int = 1
    max_replicas: int = 1
    """More than the least: Ray starts and stops some, by how much there is to do."""
    target_ongoing_requests: float = 16.0
    """Of a replica, running and waiting; Ray adds replicas above, and takes some away below."""
    upscale_delay_seconds: float = 10.0
    downscale_delay_seconds: float = 600.0
    """A replica that goes takes its cache with it: rather late than early."""
    cpus: float = 1.0
    gpus: float = 0.0
    doors: int = 1
    """Processes that read requests and choose replicas; one passes on some hundred requests a second."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigError(
                [
                    Problem(
                        "replicas",
                        f"{self.min_replicas}:{self.max_replicas}",
                        "give at least 1, and the least before the most, as 2 or 1:4",
                    )
                ]
            )


@dataclass(frozen=True, slots=True)
class Spec:
    """A server, as every process makes it anew."""

    yaml_file: Path
    """There on every node."""
    rules: Rules
    flags: Mapping[str, Flag] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    watching: Watching = field(default_factory=Watching)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    keys_file: Path | None = None
    """None: no keys, and only this machine is served."""


def scaling_of(replicas: str, *, cpus: float, gpus: float) -> Scaling:
    """Return what `--replicas` and its companions ask for.

    Args:
        replicas: a number, or the least and the most with a colon between.
        cpus: of each.
        gpus: of each.

    Raises:
        ConfigError: it is neither.
    """
    least, colon, most = replicas.partition(":")
    counts = [int(each) if each.isdecimal() else 0 for each in (least, most if colon else least)]
    if not 1 <= counts[0] <= counts[1]:
        message = f"{replicas!r}: give a number from 1 on, or the least and the most, as 2 or 1:4"
        raise ConfigError([Problem("command line", "--replicas", message)])
    return Scaling(counts[0], counts[1], cpus=cpus, gpus=gpus)


def plain(scaling: Scaling) -> dict[str, Any]:
    """Return Ray's own options for the number of replicas."""
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_seconds,
            "downscale_delay_s": scaling.downscale_delay_seconds,
        }
    }
