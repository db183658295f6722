"""The provider that a configuration names."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.session.provider import EntityProvider

ENTRY_POINTS: Final = "axolotl_cache.entity_providers"
KEY: Final = "session_management.entity_provider"


def load_provider(name: str, *, folder: Path, where: str = "configuration") -> EntityProvider:
    """Return the provider that a name stands for.

    This imports and runs the user's own code, as the one who wrote the YAML wants it.

    Args:
        name: `module:name`, or the name of an entry point of the group `axolotl_cache.entity_providers`. What
            is found is a provider, or a class or function without arguments that makes one.
        folder: where modules are looked for, too, behind all other places: the YAML's.
        where: what the error names.

    Raises:
        ConfigError: there is none, or it lacks something; the message says what to do.
    """
    try:
        found = _by_path(name, folder) if ":" in name else _by_entry_point(name)
        provider = found() if callable(found) and not _is_provider(found) else found
    except Exception as error:  # the user's code may raise anything; all of it is about this key
        raise _wrong(where, f"{name!r} can't be loaded: {type(error).__name__}: {error}") from error
    if isinstance(provider, type) or not _is_provider(provider):
        raise _wrong(
            where,
            f"{name!r} is no provider: it needs `kinds`, `may_see(entity, who)` and `fetch(entity, tenant)`",
        )
    if isinstance(provider.kinds, str) or not all(isinstance(kind, str) for kind in provider.kinds):
        raise _wrong(where, f'`kinds` of {name!r} is several texts, as ("order",)')
    checked: EntityProvider = provider
    return checked


def _is_provider(found: Any) -> bool:
    return not isinstance(found, type) and all(hasattr(found, name) for name in ("kinds", "may_see", "fetch"))


def _by_path(name: str, folder: Path) -> Any:
    module, _, attribute = name.partition(":")
    sys.path.append(str(folder))  # last: it must not stand in for what is installed
    try:
        return getattr(import_module(module), attribute)
    finally:
        sys.path.remove(str(folder))


def _by_entry_point(name: str) -> Any:
    found = [each for each in entry_points(group=ENTRY_POINTS) if each.name == name]
    if len(found) != 1:
        known = ", ".join(sorted(each.name for each in entry_points(group=ENTRY_POINTS))) or "none"
        raise LookupError(
            f"{len(found)} entry points {ENTRY_POINTS} have this name (known: {known}); "
            "or write `module:name`"
        )
    return found[0].load()


def _wrong(where: str, message: str) -> ConfigError:
    return ConfigError([Problem(where, KEY, message)])
