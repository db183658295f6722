"""Replicas of the engine on Ray Serve, requests sent where their prefix is. The only home of Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axolotl_cache.ray_serve.app import Scaling, build_app

__all__ = ["Scaling", "build_app"]


def __getattr__(name: str) -> Any:
    # The choice and what it knows are used without Ray, by the benchmark and its tests.
    if name in __all__:
        from axolotl_cache.ray_serve import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
