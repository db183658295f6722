"""`axolotl-cache config`: what is in force, and where each value came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from pydantic import BaseModel

from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.config import (
    Flag,
    Settings,
    Source,
    format_duration,
    format_size,
    mask_connection,
    shown,
)

PLUGIN: Final = "axolotl_cache.AxolotlCachePlugin"
OVERRIDES_HEADING: Final = "overrides of the Hugging Face configuration"


def _prompts_text(prompts: tuple[str, ...]) -> str:
    if not prompts:
        return "none (the chat template's own system message)"
    return f"{len(prompts)}: {', '.join(shown(prompt) for prompt in prompts)}"


def _rules_text(rules: dict[str, Any] | None) -> str:
    if rules is None:
        return "none"
    kinds = {kind: rules[kind] for kind in ("static", "dynamic", "realtime")}
    texts = [f"{kind} {format_duration(ttl) if ttl else 'never'}" for kind, ttl in kinds.items()]
    return ", ".join([*texts, f"{len(rules['rules'])} rule(s)"])


def _prices_text(prices: dict[str, Any] | None) -> str:
    return "none" if prices is None else f"{prices['currency']}, of {len(prices['models'])} model(s)"


_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "prefix_length": lambda tokens: f"{tokens} tokens",
    "system_prompts": _prompts_text,
    "max_cache_size": format_size,
    "entry_timeout": format_duration,
    "session_timeout": format_duration,
    "persistence_path": lambda path: shown(path) if path else "the user's cache folder",
    "encryption_key_from": lambda place: place or "none: answers on disk are not encrypted",
    "ttl_rules": _rules_text,
    "prices": _prices_text,
    "connection_string": mask_connection,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One setting in force."""

    block: str
    key: str
    value: Any
    """As JSON takes it; a password is masked."""
    source: Source
    no_effect: str = ""
    """Why nothing reads it; empty if something does."""

    @property
    def has_effect(self) -> bool:
        """Whether anything reads it."""
        return not self.no_effect

    @property
    def text(self) -> str:
        """The value for people."""
        return human(self.key, self.value)


def human(key: str, value: Any) -> str:
    """Return the value of a setting as people write it: `2GB`, `30m`, `true`."""
    if key in _TEXTS:
        return _TEXTS[key](value)
    return value if isinstance(value, str) and value else shown(value)


def lines(settings: Settings) -> Iterator[Line]:
    """Yield every setting in force, in the order of the documentation, and then the overrides."""
    blocks = {
        "model_config": settings.model,
        "inference_settings": settings.inference,
        "session_management": settings.session,
        "cluster_cache": settings.cluster,
        "": settings,
    }
    overrides = [name for name in settings.sources if name.rpartition(".")[2] in settings.model_overrides]
    for name, source in settings.sources.items():
        block, _, key = name.rpartition(".")
        if name in overrides:
            continue
        value = getattr(blocks[block], key)
        value = mask_connection(value) if key == "connection_string" else value
        value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        yield Line(block, key, value, source, _no_effect(name, settings))
    for name in overrides:
        key = name.rpartition(".")[2]
        yield Line(OVERRIDES_HEADING, key, settings.model_overrides[key], settings.sources[name])


def _no_effect(name: str, settings: Settings) -> str:
    is_for_semantic = name == "session_management.similarity_threshold"
    return "without semantic_matching" if is_for_semantic and not settings.inference.semantic_matching else ""


@click.command()
@click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
@cache_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def config(yaml_file: Path, flags: dict[str, Flag], as_json: bool) -> None:
    """Show what is in force, and where each value came from.

    A flag wins over the environment (AXOLOTL_CACHE_ and the key in capitals), which wins over the file.
    """
    settings = load_for_model(yaml_file, flags)
    click.echo(_json(settings) if as_json else _table(settings))
    note = about_plugin(settings)
    if note:
        click.echo(note, err=True)


def about_plugin(settings: Settings) -> str:
    """Return what to add to the YAML if Axolotl's own commands would read it without us; else nothing."""
    if PLUGIN in (settings.axolotl.get("plugins") or ()) or not settings.cache_blocks_present:
        return ""
    return (
        f"note: without `plugins: [{PLUGIN}]` in this YAML, Axolotl's own commands drop the cache blocks and "
        "flags without a word, and cache nothing. axolotl-cache does not need that line."
    )


def _table(settings: Settings) -> str:
    found = list(lines(settings))
    key_width = max(len(line.key) for line in found)
    value_width = min(40, max(len(line.text) for line in found))
    rows = [f"# {settings.path}"]
    block = None
    for line in found:
        if line.block != block:
            block = line.block
            rows += ["", block or "at the top of the file"]
        note = "" if line.has_effect else f"  (no effect {line.no_effect})"
        rows.append(f"  {line.key:<{key_width}}  {line.text:<{value_width}}  {line.source}{note}")
    if settings.cluster is None:
        rows += ["", "cluster_cache", "  off (not written)"]
    return "\n".join(rows)


def _json(settings: Settings) -> str:
    def entry(line: Line) -> dict[str, Any]:
        source = {"kind": line.source.kind, "detail": line.source.detail}
        return {"value": line.value, "text": line.text, "source": source, "has_effect": line.has_effect}

    found = list(lines(settings))
    ours = [line for line in found if line.block != OVERRIDES_HEADING]
    content = {
        "path": str(settings.path),
        "cache_blocks_present": settings.cache_blocks_present,
        "settings": {f"{line.block}.{line.key}".lstrip("."): entry(line) for line in ours},
        "model_overrides": {line.key: entry(line) for line in found if line.block == OVERRIDES_HEADING},
    }
    return json.dumps(content, ensure_ascii=False, indent=2, default=str)
