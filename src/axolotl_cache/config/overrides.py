"""Hugging Face overrides, which share the name `model_config` with our cache keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from axolotl_cache.config.layers import Layer
from axolotl_cache.config.names import CLOSE, nearest, unknown_key
from axolotl_cache.config.secrets import shown
from axolotl_cache.config.settings import BLOCKS, HOME_OF, ModelSettings
from axolotl_cache.config.source import Document, Finding, Source

OVERRIDES_BLOCK: Final = "overrides_of_model_config"
"""Axolotl's own name for the block; it reads `model_config` as an alias of it."""

ModelConfigKeys = Callable[[Mapping[str, Any]], Collection[str] | None]
"""Given the Axolotl part of the YAML, returns the keys of the model's configuration, or None if unknown."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is to be set on the model's Hugging Face configuration."""

    values: dict[str, Any]
    sources: dict[str, Source]
    """By full name, as `model_config.rope_theta`."""
    valid_keys: Collection[str]
    """The keys of the model's configuration as far as they are known: what a slip may have meant."""


def take_overrides(
    document: Document,
    layer: Layer,
    axolotl: Mapping[str, Any],
    model_config_keys: ModelConfigKeys | None,
    findings: list[Finding],
) -> Overrides:
    """Move what is meant for Hugging Face out of `layer`; what is meant for nobody stays, to be refused.

    A key that is not ours is an override if the model's configuration has it. Where its keys are unknown,
    whatever does not look like a slip of ours is one. Under `overrides_of_model_config` everything is.
    """
    foreign = [
        place for place in layer if place[0] == "model_config" and len(place) == 2 and not _is_ours(place[1])
    ]
    known = model_config_keys(axolotl) if foreign and model_config_keys else None
    overrides = Overrides({}, {}, known or ())
    for place in foreign:
        key = str(place[1])
        if key in known if known is not None else nearest(key, ModelSettings.model_fields)[1] < CLOSE:
            written = layer.pop(place)
            overrides.values[key] = written.value
            overrides.sources[f"model_config.{key}"] = written.source
    _read_axolotls_own(document, overrides, findings)
    return overrides


def _is_ours(key: object) -> bool:
    return not isinstance(key, str) or key in HOME_OF or key in BLOCKS


def _read_axolotls_own(document: Document, overrides: Overrides, findings: list[Finding]) -> None:
    content = document.values.get(OVERRIDES_BLOCK)
    if content is None:
        return
    if not isinstance(content, dict):
        source = document.source((OVERRIDES_BLOCK,))
        findings.append(
            Finding(source, OVERRIDES_BLOCK, f"{shown(content)} is not a block of keys and values")
        )
        return
    for key, value in content.items():
        source, name = document.source((OVERRIDES_BLOCK, key)), f"{OVERRIDES_BLOCK}.{key}"
        if key in HOME_OF or key in BLOCKS:
            findings.append(Finding(source, name, unknown_key(key, value, ())))
        elif key in overrides.values and overrides.values[key] != value:
            other = overrides.sources[f"model_config.{key}"]
            findings.append(Finding(source, name, f"{shown(value)} contradicts {other}; keep one of the two"))
        else:
            overrides.values[str(key)] = value
            overrides.sources[name] = source
