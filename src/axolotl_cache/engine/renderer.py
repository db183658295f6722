"""The tokenizer and the chat template that an Axolotl YAML means, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_cache.engine import sources
from axolotl_cache.engine.choices import Hardware
from axolotl_cache.engine.digest import DigestMemo
from axolotl_cache.engine.places import Recipe, Report, find_places
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.engine.templates import resolve_template
from axolotl_cache.engine.tokenizer import load_tokenizer
from axolotl_cache.errors import ModelLoadError


def load_renderer(axolotl: Mapping[str, Any], *, config_path: Path, report: Report) -> PromptRenderer:
    """Return what cuts requests into tokens, as it does for the model that this YAML names.

    No weights are read, nor fetched. The exception is a model in a GGUF file, which holds its tokenizer: it
    is converted as for inference, once.

    Args:
        axolotl: the YAML without this library's blocks.
        config_path: the YAML; relative paths count from the working directory, then from its folder.
        report: gets a line when something is fetched, and one for each warning.

    Raises:
        ModelLoadError: tokenizer or template can't be had; the message says what to do.
    """
    folder = _tokenizer_folder(axolotl, config_path, report)
    tokenizer, warnings = load_tokenizer(axolotl, folder)
    template = resolve_template(
        axolotl, tokenizer, find_file=lambda name: sources.find_path(name, config_path)
    )
    for warning in (*warnings, *template.warnings):
        report(f"warning: {warning}")
    if template.text is not None:
        tokenizer.chat_template = template.text
    return PromptRenderer(tokenizer, template.text)


def _tokenizer_folder(axolotl: Mapping[str, Any], config_path: Path, report: Report) -> Path:
    """Return where the tokenizer is: as `find_places`, but that the weights may be missing."""
    recipe = Recipe(
        axolotl=axolotl,
        config_path=config_path,
        model_overrides={},
        environment_tag="",
        cache_version="",
        report=report,
        memo=DigestMemo(),
        hardware=Hardware.detect(),
        packed=False,
    )
    model = recipe.get("base_model")
    if not model:
        raise ModelLoadError("base_model is missing: name the folder, GGUF file or hub id of the model.")
    beside = (
        key for key in ("tokenizer_config", "base_model_config") if recipe.get(key) not in (None, "", model)
    )
    key = next(beside, "base_model")
    if key == "base_model" and (recipe.get("overrides_of_model_kwargs", "model_kwargs") or {}).get(
        "gguf_file"
    ):
        return find_places(recipe).tokenizer
    folder = recipe.find_folder(
        str(recipe.get(key)),
        key,
        revision=recipe.revision,
        patterns=["*.json", "*.jinja", "*.model", "*.txt", "*.py"],
        is_complete=lambda place: any((place / file).is_file() for file in sources.TOKENIZER_FILES),
    )
    if key == "base_model" and (folder.is_file() or sources.gguf_files(folder)):
        return find_places(recipe).tokenizer
    return folder
