"""The settings of a YAML, with the model's own keys known where the model is at hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from axolotl_cache.config import Flag, Settings, load_settings


def load_for_model(yaml_file: Path, flags: Mapping[str, Flag]) -> Settings:
    """Load settings, asking the model's configuration about keys in `model_config` that are not ours.

    The model is asked only if there are such keys, and only where transformers is installed.
    """

    def keys_of_the_model(axolotl: Mapping[str, Any]) -> Collection[str] | None:
        try:
            from axolotl_cache.engine.config_keys import model_config_keys
        except ModuleNotFoundError:
            return None
        return model_config_keys(axolotl, config_path=yaml_file)

    return load_settings(yaml_file, flags=flags, model_config_keys=keys_of_the_model)
