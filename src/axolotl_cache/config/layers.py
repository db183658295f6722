"""What was written where: the file, the environment and the flags, one layer each, not validated yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from axolotl_cache.config.names import nearest, unknown_key
from axolotl_cache.config.secrets import shown
from axolotl_cache.config.settings import BLOCKS, HOME_OF, CacheBlocks
from axolotl_cache.config.source import Document, Finding, Location, Source

ENVIRONMENT_PREFIX: Final = "AXOLOTL_CACHE_"
OTHER_VARIABLES: Final = frozenset(
    {
        "AXOLOTL_CACHE_HOME",
        "AXOLOTL_CACHE_TRACES",
        "AXOLOTL_CACHE_UPSTREAM_KEY",
        "AXOLOTL_CACHE_REDIS_USERNAME",
        "AXOLOTL_CACHE_REDIS_PASSWORD",
        "AXOLOTL_CACHE_SENTINEL_USERNAME",
        "AXOLOTL_CACHE_SENTINEL_PASSWORD",
    }
)
"""Variables with our prefix that are no settings."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting given on the command line."""

    name: str
    """As the user typed it: `--cache-ttl`."""
    value: Any
    """A value of the setting's type, or its text as an environment variable would hold it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A value that somebody wrote."""

    value: Any
    source: Source


Layer = dict[Location, Written]
"""By place: (block, key), or (key,) at the top of the file; (block,) says that the block is written."""


def location(key: str) -> Location:
    """Return the place where a key of ours belongs."""
    return (HOME_OF[key], key) if HOME_OF[key] else (key,)


def from_file(document: Document, findings: list[Finding]) -> Layer:
    """Return what the cache blocks of the file say, unknown keys included; null is as good as not written."""
    layer: Layer = {}
    for block, settings in BLOCKS.items():
        if block not in document.values:
            continue
        content = document.values[block]
        layer[block,] = Written({}, document.source((block,)))
        if content is not None and not isinstance(content, dict):
            findings.append(
                Finding(
                    document.source((block,)), block, f"{shown(content)} is not a block of keys and values"
                )
            )
            continue
        for key, value in (content or {}).items():
            if value is not None or key not in settings.model_fields:
                layer[block, key] = Written(value, document.source((block, key)))
    for key in (key for key, home in HOME_OF.items() if not home):
        if document.values.get(key) is not None:
            layer[key,] = Written(document.values[key], document.source((key,)))
    return _with_error_rate(layer, findings, document)


def from_environment(environ: Mapping[str, str], findings: list[Finding]) -> Layer:
    """Return what the variables `AXOLOTL_CACHE_...` say."""
    layer: Layer = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
            continue
        key, source = name.removeprefix(ENVIRONMENT_PREFIX).lower(), Source("environment", name)
        if key not in HOME_OF:
            variable = ENVIRONMENT_PREFIX + nearest(key, HOME_OF)[0].upper()
            # Its value is not shown: nothing is known about it, and the environment is where secrets live.
            findings.append(Finding(source, key, f"no such setting; the nearest variable is {variable}"))
            continue
        value = _from_text(key, environ[name])
        if value is not None:
            layer[location(key)] = Written(value, source)
    return _with_error_rate(layer, findings)


def from_flags(flags: Mapping[str, Flag], findings: list[Finding]) -> Layer:
    """Return what the command line says; `flags` go by full setting name."""
    layer: Layer = {}
    for name, flag in flags.items():
        key = name.rpartition(".")[2]
        value = _from_text(key, flag.value) if isinstance(flag.value, str) else flag.value
        layer[location(key)] = Written(value, Source("flag", flag.name))
    return _with_error_rate(layer, findings)


_YAML_SURPRISE: Final = re.compile(r"0\d+|\d+(:\d+)+")
"""What YAML 1.1 reads as octal, or to the base of 60: nobody who types `--cache-ttl 1:30` means 90."""


def _from_text(key: str, text: str) -> Any:
    """Return the value that `text` would be in the YAML; a text stays as it is, digits and all."""
    home = BLOCKS[HOME_OF[key]] if HOME_OF[key] else CacheBlocks
    annotation = home.model_fields[key].annotation
    if key == "semantic_matching" and text in ("0", "1"):
        return text == "1"
    if annotation is str:
        return text
    if annotation is bool and text in ("0", "1"):  # as environment variables commonly say it
        return text == "1"
    if _YAML_SURPRISE.fullmatch(text):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _with_error_rate(layer: Layer, findings: list[Finding], document: Document | None = None) -> Layer:
    """Read `semantic_matching: {max_error_rate: 0.01}` as the two settings that it is."""
    place, rate_place = location("semantic_matching"), location("max_error_rate")
    written = layer.get(place)
    if written is None or not isinstance(written.value, dict):
        return layer
    layer[place] = Written(True, written.source)
    for key, value in written.value.items():
        source = document.source((*place, key)) if document else written.source
        if key != "max_error_rate":
            message = unknown_key(key, value, ["max_error_rate"])
            findings.append(Finding(source, f"inference_settings.semantic_matching.{key}", message))
        elif rate_place in layer:
            message = f"stands here and at {layer[rate_place].source}; keep one of the two"
            findings.append(Finding(source, "inference_settings.semantic_matching.max_error_rate", message))
        elif value is not None:
            layer[rate_place] = Written(value, source)
    return layer
