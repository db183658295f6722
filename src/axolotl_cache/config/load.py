"""From a YAML, flags and the environment to `Settings`, or to the list of everything that is wrong."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from axolotl_cache.config.layers import Flag, Layer, from_environment, from_file, from_flags
from axolotl_cache.config.names import CLOSE, nearest, unknown_key
from axolotl_cache.config.overrides import OVERRIDES_BLOCK, ModelConfigKeys, take_overrides
from axolotl_cache.config.secrets import shown
from axolotl_cache.config.settings import (
    BLOCKS,
    HOME_OF,
    CacheBlocks,
    ModelPrices,
    ModelSettings,
    Prices,
    Settings,
    TtlRule,
    TtlRules,
)
from axolotl_cache.config.source import DEFAULT, Document, Finding, Location, Source, read_document
from axolotl_cache.errors import ConfigError, Problem

_AXOLOTL_KEYS_LIKE_OURS: Final = frozenset({"base_model_config", "cls_model_config", "strict"})
_OURS_AT_THE_TOP: Final = (*BLOCKS, *(key for key, home in HOME_OF.items() if not home))


def load_settings(
    path: str | Path,
    *,
    flags: Mapping[str, Flag] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
    model_config_keys: ModelConfigKeys | None = None,
) -> Settings:
    """Read a YAML with cache blocks; a flag wins over the environment, which wins over the file.

    Reads the YAML and the prompt files that it names; changes nothing.

    Args:
        path: an Axolotl YAML.
        flags: by full setting name, as `inference_settings.entry_timeout`.
        environ: instead of the process's environment.
        model_config_keys: given the Axolotl part, returns the keys of the model's Hugging Face
            configuration, or None if they are unknown. Called only when `model_config` has a key that is
            not ours, to tell overrides from slips.

    Raises:
        ConfigError: with every mistake found, the file's first, in the order of its lines.
    """
    path = Path(path)
    document = read_document(path)
    findings = list(document.findings)
    ours = {*_OURS_AT_THE_TOP, OVERRIDES_BLOCK}
    axolotl = {key: value for key, value in document.values.items() if key not in ours}
    findings += _misplaced(document, axolotl)

    file = from_file(document, findings)
    overrides = take_overrides(document, file, axolotl, model_config_keys, findings)
    environment = from_environment(os.environ if environ is None else environ, findings)
    layer = file | environment | from_flags(flags, findings)

    blocks, errors = _validated(layer, path.parent)
    findings += [_finding(details, document, layer, overrides.valid_keys) for details in errors]
    findings += _without_cluster(layer)
    for lower in (file, environment):  # what another source overrules must be right all the same
        overruled = {place: written for place, written in lower.items() if layer[place] is not written}
        for details in _validated(layer | overruled, path.parent)[1] if overruled else ():
            if details["loc"][:2] in overruled:
                findings.append(_finding(details, document, overruled, ()))
    if blocks is None or findings:
        raise _config_error(findings)
    return Settings(
        model=blocks.model,
        inference=blocks.inference,
        session=blocks.session,
        cluster=blocks.cluster,
        max_memory_usage=blocks.max_memory_usage,
        axolotl=axolotl,
        model_overrides=overrides.values,
        sources=_sources(blocks, layer) | overrides.sources,
        cache_blocks_present=_has_cache_keys(document),
        path=path,
    )


def _validated(layer: Layer, folder: Path) -> tuple[CacheBlocks | None, list[ErrorDetails]]:
    """Return the settings, or None and everything that is wrong with them."""
    try:
        return CacheBlocks.model_validate(_nested(layer), context=folder), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _nested(layer: Layer) -> dict[str, Any]:
    """Return the layer in the YAML's form."""
    raw: dict[Any, Any] = {}
    for place, written in layer.items():
        if len(place) == 2:
            raw.setdefault(place[0], {})[place[1]] = written.value
        elif place[0] in BLOCKS:
            raw.setdefault(place[0], {})
        else:
            raw[place[0]] = written.value
    return raw


def _misplaced(document: Document, axolotl: Mapping[Any, Any]) -> Iterator[Finding]:
    """Yield keys at the top that Axolotl would drop without a word and that are most likely ours."""
    for key, value in axolotl.items():
        if not isinstance(key, str) or key in _AXOLOTL_KEYS_LIKE_OURS:
            continue
        if key in HOME_OF or nearest(key, _OURS_AT_THE_TOP)[1] >= CLOSE:
            yield Finding(document.source((key,)), key, unknown_key(key, value, _OURS_AT_THE_TOP))


def _finding(
    details: ErrorDetails, document: Document, layer: Layer, model_config_keys: Collection[str]
) -> Finding:
    """Return one of pydantic's errors in our words."""
    place, value = details["loc"], details["input"]
    key = place[-1]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    written = layer.get(place[:2]) or layer[place[:1]]
    from_deep_in_file = len(place) > 2 and written.source.kind == "file"
    source = document.source(place) if from_deep_in_file else written.source
    if details["type"] in ("extra_forbidden", "invalid_key"):
        in_model_config = place[:-1] == ("model_config",)
        hint = f"an override for Hugging Face can go under `{OVERRIDES_BLOCK}`" if in_model_config else ""
        others = model_config_keys if in_model_config else ()
        value = written.value if details["type"] == "invalid_key" else value
        return Finding(source, name, unknown_key(key, value, _home(place).model_fields, others, hint))
    if details["type"] == "missing":
        return Finding(source, name, "is missing")
    accepted = {
        "tuple_type": "a list",
        "model_type": "a block of keys and values",
        "dict_type": "a block of keys and values",
        "string_type": "a text",
    }
    text = accepted.get(details["type"], details["msg"])
    return Finding(source, name, f"{shown(value, str(key))} is not {text}")


def _home(place: Location) -> type[BaseModel]:
    """Return the settings that the key at `place` would have to be one of."""
    if len(place) == 2:
        return BLOCKS[str(place[0])]
    if place[1] == "prices":
        return Prices if len(place) == 3 else ModelPrices
    return TtlRules if len(place) == 3 else TtlRule


def _without_cluster(layer: Layer) -> Iterator[Finding]:
    """Yield a backend that has no servers to go to."""
    written = layer.get(("model_config", "cache_backend"))
    if (
        written is not None
        and written.value == "redis"
        and all(place[0] != "cluster_cache" for place in layer)
    ):
        yield Finding(
            written.source,
            "model_config.cache_backend",
            '"redis" needs the block cluster_cache, which says where the servers are (cluster_cache: '
            '{connection_string: "redis://HOST:6379/0"}); write that, or "memory" or "disk"',
        )


def _sources(blocks: CacheBlocks, layer: Layer) -> dict[str, Source]:
    sources = {}
    for key, block in HOME_OF.items():
        if block != "cluster_cache" or blocks.cluster is not None:
            place: Location = (block, key) if block else (key,)
            sources[".".join(map(str, place))] = layer[place].source if place in layer else DEFAULT
    return sources


def _has_cache_keys(document: Document) -> bool:
    model_config = document.values.get("model_config")
    return any(name in document.values for name in _OURS_AT_THE_TOP if name != "model_config") or (
        isinstance(model_config, dict) and any(key in model_config for key in ModelSettings.model_fields)
    )


def _config_error(findings: Iterable[Finding]) -> ConfigError:
    ordered = sorted(findings, key=lambda finding: finding.source.order)
    return ConfigError([Problem(str(found.source), found.key, found.message) for found in ordered])
