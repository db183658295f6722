"""Our keys in Axolotl's configuration: read by our settings, and taken out before Axolotl reads the rest."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from axolotl_cache.config import BLOCKS, Flag, ModelSettings, Settings, cache_flags, load_settings, shown
from axolotl_cache.config.settings import HOME_OF
from axolotl_cache.config.source import read_document
from axolotl_cache.errors import ConfigError, Problem

FIELD: Final = "axolotl_cache"
"""The one field of Axolotl's configuration that is ours."""

FLAGS: Final = ("use_prefix_cache", "cache_ttl", "enable_cache_optimization")
"""Our flags as Axolotl's command line passes them on."""

_TOP: Final = tuple(key for key, home in HOME_OF.items() if not home)


class AxolotlCacheArgs(BaseModel):
    """What this plugin adds to Axolotl's schema: what is in force, for Axolotl's log and for later hooks."""

    axolotl_cache: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a configuration asks of us."""

    settings: Settings
    is_inference: bool
    is_asked: bool
    """Whether any cache key or flag is written: without one, nothing is cached, as without the plugin."""


def take_keys(cfg: MutableMapping[str, Any], *, argv: Sequence[str] | None = None) -> Wish:
    """Read our keys and flags, and move them out of the way.

    Changes: `model_config` keeps only overrides for Hugging Face, or goes; our blocks and flags go; the field
    `axolotl_cache` says what is in force.

    Args:
        cfg: Axolotl's configuration after its command line and before its validation.
        argv: the command line, for flags that Axolotl does not pass on; by default this process's.

    Raises:
        ConfigError: with every mistake in them, or a flag that `strict: true` keeps from arriving.
    """
    _refuse_lost_flags(cfg, sys.argv[1:] if argv is None else argv)
    path = Path(str(cfg["axolotl_config_path"]))
    flags = _overrides(cfg, path) | _flags(cfg)

    def keys_of_the_model(axolotl: Mapping[str, Any]) -> Collection[str] | None:
        from axolotl_cache.engine.config_keys import model_config_keys

        return model_config_keys(axolotl, config_path=path)

    settings = load_settings(path, flags=flags, model_config_keys=keys_of_the_model)
    wish = Wish(settings, bool(cfg.get("inference")), bool(flags) or settings.cache_blocks_present)
    _remove(cfg)
    cfg[FIELD] = {
        "inference": wish.is_inference,
        "asked": wish.is_asked,
        "sources": {name: str(source) for name, source in settings.sources.items()},
    }
    return wish


def _flags(cfg: Mapping[str, Any]) -> dict[str, Flag]:
    ttl = cfg.get("cache_ttl")
    flags = cache_flags(
        use_prefix_cache=bool(cfg.get("use_prefix_cache")),
        enable_cache_optimization=bool(cfg.get("enable_cache_optimization")),
        # As text, so that what no time is gets one message, however the command line read it.
        cache_ttl=None if ttl is None else str(ttl),
    )
    if cfg.get("use_prefix_cache") is False:
        flags["model_config.enable_prefix_cache"] = Flag("--use-prefix-cache=False", False)
    return flags


def _overrides(cfg: Mapping[str, Any], path: Path) -> dict[str, Flag]:
    """Return what Axolotl's command line has changed in our blocks, as `--model_config__prefix_length=64`."""
    written = read_document(path).values
    return {name: flag for name, flag in _values(cfg) if flag.value != _value_at(written, name)}


def _values(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Flag]]:
    for block, settings in BLOCKS.items():
        content = cfg.get(block)
        if not isinstance(content, Mapping):
            continue
        for key in settings.model_fields:
            if content.get(key) is not None:
                yield f"{block}.{key}", Flag(f"--{block}__{key}", _plain(content[key]))
    for key in _TOP:
        if cfg.get(key) is not None:
            yield key, Flag(f"--{key}", _plain(cfg[key]))


def _value_at(written: Mapping[Any, Any], name: str) -> Any:
    value: Any = written
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> Any:
    """Return a value without Axolotl's own dictionary class."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _remove(cfg: MutableMapping[str, Any]) -> None:
    for name in (*FLAGS, *_TOP, *(block for block in BLOCKS if block != "model_config")):
        if name in cfg:
            del cfg[name]
    content = cfg.get("model_config")
    if isinstance(content, Mapping):
        rest = {key: value for key, value in content.items() if key not in ModelSettings.model_fields}
        if rest:
            cfg["model_config"] = rest
        else:
            del cfg["model_config"]


def _refuse_lost_flags(cfg: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Refuse a flag that was typed and did not arrive: under `strict: true` Axolotl drops it."""
    if not cfg.get("strict"):
        return
    typed = {word.partition("=")[0].lstrip("-").replace("-", "_"): word for word in argv if word[:1] == "-"}
    lost = [typed[name] for name in FLAGS if name in typed and name not in cfg]
    if lost:
        message = (
            "the YAML says `strict: true`, and Axolotl then drops every flag that the YAML has not as a key"
        )
        instead = "take that line out, or write the cache blocks into the YAML"
        raise ConfigError([Problem("command line", shown(word), f"{message}; {instead}") for word in lost])
