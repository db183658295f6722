"""Where replicas write what they use, for each other's dashboards: one small actor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import ray

_NAME: Final = "axolotl-cache-board"
_NAMESPACE: Final = "axolotl-cache"
_KEPT_SECONDS: Final = 30.0
_MOST_ROWS: Final = 1000


class Board:
    """Rows by name; those not renewed for 30 seconds are gone."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def tell(self, name: str, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Put a row in place of that of the same name; return all others."""
        now = time.monotonic()
        self._rows = {
            known: (at, other)
            for known, (at, other) in self._rows.items()
            if known != name and now - at < _KEPT_SECONDS
        }
        others = [other for _, other in self._rows.values()]
        if len(self._rows) < _MOST_ROWS:
            self._rows[name] = (now, row)
        return others


def board(app: str) -> Any:
    """Return the handle of an application's board, made if it is not there."""
    actor = ray.remote(num_cpus=0, max_restarts=-1)(Board)
    name = f"{_NAME}-{app}"
    return actor.options(name=name, namespace=_NAMESPACE, get_if_exists=True, lifetime="detached").remote()
