"""What a loaded model is called: digests of its files and settings, and of what computes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from axolotl_cache.engine import sources
from axolotl_cache.engine.digest import combine, digest_file, digest_tensors
from axolotl_cache.engine.places import Places, Recipe, adapter_files

VOLATILE = frozenset({"_name_or_path", "_commit_hash", "transformers_version", "_from_model_config"})
"""Entries of a configuration that say where it came from, and change no answer."""


def digest_weights(recipe: Recipe, places: Places, model: Any) -> str:
    """Return the digest of the base weights' files and of the configuration in force."""
    files = list(sources.weight_files(places.model))
    if recipe.get("trust_remote_code"):
        files += sorted({*places.model.glob("*.py"), *places.config.glob("*.py")})
    return combine("weights", [_digest_files(recipe, "weights", files), _settings(model)])


def digest_adapter(recipe: Recipe, places: Places) -> str:
    """Return the digest of the adapter's files; empty without an adapter."""
    if places.adapter is None:
        return ""
    files = [path for path in adapter_files(places.adapter) if path.is_file()]
    return combine("adapter", _digest_files(recipe, "adapter", files))


def digest_model(model: Any) -> str:
    """Return the digest of a model in memory: every tensor, and the configuration in force."""
    # Buffers that are not saved are no part of the state, and yet of the answer.
    tensors = dict(model.named_buffers()) | {
        name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)
    }
    adapters = getattr(model, "peft_config", None) or {}
    parts = {
        "tensors": digest_tensors(tensors.items()),
        "adapters": {name: config.to_dict() for name, config in adapters.items()},
        "active": list(model.active_adapters) if adapters and hasattr(model, "active_adapters") else [],
    }
    return combine("model in memory", [parts, _settings(model)])


def _digest_files(recipe: Recipe, what: str, files: list[Path]) -> list[list[str]]:
    """Return [name, digest] pairs; folders are left out, so that a model that was moved keeps its name."""
    start = time.perf_counter()
    digests = [digest_file(path, memo=recipe.memo) for path in files]
    megabytes = sum(item.stamp.size_bytes for item in digests) / 1e6
    remembered = all(item.from_memo for item in digests)
    seconds = time.perf_counter() - start
    recipe.report(f"digested {what}: {megabytes:.0f} MB ({'memo' if remembered else f'{seconds:.1f} s'})")
    return [[path.name, item.digest] for path, item in zip(files, digests, strict=True)]


def _settings(model: Any) -> dict[str, Any]:
    """Return the model's class and its configuration in force, overrides included."""
    generation = model.generation_config
    return {
        "class": _base(model).__class__.__name__,
        "config": _without_volatile(model.config.to_dict()),
        "generation": {} if generation is None else _without_volatile(generation.to_diff_dict()),
    }


def _without_volatile(settings: dict[str, Any]) -> dict[str, Any]:
    # The quantisation has a field of its own.
    return {key: value for key, value in settings.items() if key not in VOLATILE | {"quantization_config"}}


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def describe_quantisation(model: Any) -> str:
    """Return the method and its settings, and the version of the library that computes it."""
    config = getattr(model.config, "quantization_config", None)
    if not config:
        return ""
    settings = dict(config) if isinstance(config, Mapping) else config.to_dict()
    method = settings.pop("quant_method", "unknown")
    method = str(getattr(method, "value", method))
    version = ""
    if method == "bitsandbytes":
        import bitsandbytes  # optional, and certain to be there if the model is

        version = f" {bitsandbytes.__version__}"
    shown = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()) if not key.startswith("_"))
    return f"{method}{version}: {shown}"


def describe_compute(model: Any) -> str:
    """Return what else decides the last bit: processor, kernels, and the versions of what computes."""
    device = model.device
    if device.type == "cuda":
        processor = f"cuda {torch.cuda.get_device_name(device)}"
        if torch.get_float32_matmul_precision() != "highest":
            processor += " tf32"
    elif device.type == "cpu":
        processor = f"cpu {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()} threads"
    else:
        processor = str(device.type)
    kernel = getattr(model.config, "_attn_implementation", None)
    return f"{processor}, torch {torch.__version__}, transformers {transformers.__version__}, {kernel}"
