"""Which keys a model's Hugging Face configuration has: what may stand beside ours in `model_config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_cache.engine import sources


def model_config_keys(axolotl: Mapping[str, Any], *, config_path: Path) -> frozenset[str] | None:
    """Return the attributes that can be set on the model's configuration.

    Reads local folders only and runs none of their code.

    Args:
        axolotl: the YAML without this library's blocks.
        config_path: the YAML.

    Returns:
        None when the configuration is not on this machine, or transformers does not know its kind.
    """
    name = axolotl.get("base_model_config") or axolotl.get("base_model")
    folder = sources.find_path(str(name), config_path) if name else None
    if folder is None or not (folder / "config.json").is_file():
        return None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
    attributes = {a for a in dir(config) if not a.startswith("_") and not callable(getattr(config, a, None))}
    return frozenset(config.to_dict()) | attributes
