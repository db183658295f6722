"""The size of a token's keys and values, from the model's configuration alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_BYTES_OF: Final = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class KvSize:
    """What one token takes in the prefix cache."""

    layers: int
    kv_heads: int
    head_dim: int
    number_bytes: int
    """Bytes of one number."""
    model: str

    @property
    def token_bytes(self) -> int:
        """Bytes of one token: keys and values of all heads in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.number_bytes

    def __str__(self) -> str:
        return (
            f"2 x {self.layers} layers x {self.kv_heads} heads x {self.head_dim} numbers x "
            f"{self.number_bytes} bytes = {self.token_bytes:,} bytes a token"
        )


def kv_size(axolotl: Mapping[str, Any], *, folder: Path) -> KvSize | None:
    """Return the size for the model that a YAML names; None if its configuration is not on this machine.

    Reads `config.json` in the model's folder or in Hugging Face's cache; nothing is downloaded.

    Args:
        axolotl: the YAML's Axolotl part.
        folder: where the YAML is; `base_model` may be a path seen from there.
    """
    model = axolotl.get("base_model")
    config = _config(str(model), folder) if model else None
    if config is None:
        return None
    config = config.get("text_config", config)
    try:
        layers = int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
    except (KeyError, TypeError, ValueError):
        return None
    return KvSize(layers, kv_heads, dim, _number_bytes(axolotl, config), str(model))


def _number_bytes(axolotl: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    if any(axolotl.get(key) for key in ("bf16", "bfloat16", "fp16", "float16")):
        return 2
    if axolotl.get("float32"):
        return 4
    written = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return _BYTES_OF.get(written.removeprefix("torch."), 4)


def _config(model: str, folder: Path) -> dict[str, Any] | None:
    places = [folder / model, Path(model)]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    places += sorted((hub / f"models--{model.replace('/', '--')}" / "snapshots").glob("*"))
    for place in places:
        try:
            found = json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return None
