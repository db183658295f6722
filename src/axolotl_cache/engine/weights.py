"""The model's configuration and weights, its adapter attached, as an Axolotl YAML asks for them."""

from __future__ import annotations

import math
import warnings as python_warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers

from axolotl_cache.engine.choices import (
    choose_attention,
    choose_device_map,
    choose_dtype,
    choose_quantisation,
    use_tf32,
)
from axolotl_cache.engine.places import Places, Recipe
from axolotl_cache.errors import ModelLoadError

NEW_ROWS_SEED = 0


def load_config(recipe: Recipe, places: Places) -> Any:
    """Return the Hugging Face configuration with the YAML's overrides set on it.

    Raises:
        ModelLoadError: it can't be read, or has no such attribute.
    """
    kind = transformers.AutoConfig
    if recipe.get("cls_model_config"):
        kind = getattr(transformers, str(recipe.get("cls_model_config")), None)
        if kind is None:
            raise ModelLoadError(f"cls_model_config: transformers has no {recipe.get('cls_model_config')}.")
    trusted = recipe.get("trust_remote_code") is True
    try:
        config = kind.from_pretrained(places.config, trust_remote_code=trusted)
    except Exception as error:
        raise ModelLoadError(f"The configuration in {places.config} can't be read: {error}") from error
    overrides = dict(recipe.get("overrides_of_model_config") or {}) | dict(recipe.model_overrides)
    for name, value in overrides.items():
        if not hasattr(config, name):
            raise ModelLoadError(_unknown_override(name, config))
        try:
            setattr(config, name, value)
        except Exception as error:
            raise ModelLoadError(f"model_config: {name} can't be {value!r}: {error}") from error
    return config


def _unknown_override(name: str, config: Any) -> str:
    near = get_close_matches(name, config.to_dict(), n=1)
    hint = f" The nearest is `{near[0]}`." if near else ""
    return f"model_config: {type(config).__name__} has no attribute `{name}`.{hint}"


def load_weights(
    recipe: Recipe, places: Places, config: Any, tokenizer: Any
) -> tuple[Any, torch.dtype, list[str]]:
    """Return the model, adapter included, the dtype that it computes in, and warnings.

    Raises:
        ModelLoadError: the files do not hold what the YAML asks for, or this machine lacks something.
    """
    hardware, device_map, warnings = choose_device_map(recipe.axolotl, recipe.hardware)
    dtype, about_dtype = choose_dtype(recipe.axolotl, hardware)
    attention, about_attention = choose_attention(recipe.axolotl, hardware)
    quantisation, about_quantisation = choose_quantisation(recipe.axolotl, hardware, dtype, config.model_type)
    warnings += [*about_dtype, *about_attention, *about_quantisation]
    if use_tf32(recipe.axolotl, hardware):
        torch.set_float32_matmul_precision("high")
    arguments = _model_arguments(recipe, quantisation) | {"config": config, "dtype": dtype}
    if device_map is not None:
        arguments["device_map"] = device_map
    if attention is not None:
        arguments["attn_implementation"] = attention
    recipe.report(f"loading weights ({str(dtype).removeprefix('torch.')}, {hardware.device_type})")
    with _collected(warnings):
        model = _from_pretrained(recipe, places, arguments)
        warnings += _resize_embeddings(recipe, model, tokenizer)
        if places.adapter is not None:
            recipe.report("loading adapter")
            model = _attach_adapter(model, places.adapter, dtype)
        elif recipe.get("lora_model_dir"):
            warnings.append("lora_model_dir is not read, because `adapter` is not set (as in Axolotl).")
    _own_memory(model)
    model.eval()
    model.requires_grad_(False)
    if len(set(getattr(model, "hf_device_map", None) or {})) > 1:
        warnings.append(f"The model is spread over several devices: {sorted(map(str, _devices(model)))}.")
    return model, dtype, warnings


def _devices(model: Any) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters()}


def _model_arguments(recipe: Recipe, quantisation: dict[str, Any] | None) -> dict[str, Any]:
    arguments = dict(recipe.get("overrides_of_model_kwargs", "model_kwargs") or {})
    for name in ("subfolder", "variant", "use_safetensors"):
        if arguments.get(name) is not None:
            raise ModelLoadError(
                f"model_kwargs: {name} chooses other weight files than those that name the model in the "
                "cache. Point base_model at a folder that holds just the weights to load."
            )
    # `gguf_file`: the converted copy is loaded. The rest is set from keys of their own, as in Axolotl.
    for name in ("gguf_file", "torch_dtype", "dtype", "device_map", "config"):
        arguments.pop(name, None)
    arguments["trust_remote_code"] = bool(recipe.get("trust_remote_code"))
    if quantisation is not None:
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**quantisation)
    return arguments


def _from_pretrained(recipe: Recipe, places: Places, arguments: dict[str, Any]) -> Any:
    wanted = recipe.get("type_of_model", "model_type") or "AutoModelForCausalLM"
    kind = transformers.AutoModelForCausalLM
    if wanted != "AutoModelForCausalLM" and not arguments["trust_remote_code"]:
        kind = getattr(transformers, str(wanted), None)
        if kind is None:
            raise ModelLoadError(
                f"model_type: transformers {transformers.__version__} has no {wanted}. Leave it out, or "
                "write AutoModelForCausalLM."
            )
    try:
        model, found = kind.from_pretrained(places.model, output_loading_info=True, **arguments)
    except Exception as error:
        raise ModelLoadError(f"The model in {places.model} can't be loaded: {error}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        # transformers fills them with random numbers, other ones in each process.
        raise ModelLoadError(
            f"The weights in {places.model} lack {len(missing)} tensors of {type(model).__name__} "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}). Does model_type fit them?"
        )
    return model


def _resize_embeddings(recipe: Recipe, model: Any, tokenizer: Any) -> list[str]:
    """Give every token a row, as Axolotl does; return warnings."""
    wanted = len(tokenizer)
    if recipe.get("resize_token_embeddings_to_32x"):
        wanted = math.ceil(wanted / 32) * 32
    rows = model.get_input_embeddings().num_embeddings
    if rows == wanted or (rows > wanted and not recipe.get("shrink_embeddings")):
        return []
    arguments = {}
    if recipe.get("mean_resizing_embeddings") is not None:
        arguments["mean_resizing"] = recipe.get("mean_resizing_embeddings")
    # transformers draws the new rows at random: the same ones every time, or equal names would not mean
    # equal weights.
    with torch.random.fork_rng():
        torch.manual_seed(NEW_ROWS_SEED)
        model.resize_token_embeddings(wanted, **arguments)
    if wanted < rows:
        return []
    return [
        f"The tokenizer has {wanted} tokens and the weights have {rows} rows: {wanted - rows} untrained rows "
        "were added. They are meant to come with the model or the adapter that was trained on these tokens."
    ]


def _attach_adapter(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    from peft import PeftModel  # slow to import, and most models have no adapter

    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
    except Exception as error:
        raise ModelLoadError(
            f"lora_model_dir: the adapter in {folder} does not load on this model: {error}"
        ) from error
    for name, config in adapted.peft_config.items():
        kind = getattr(config.peft_type, "value", str(config.peft_type))
        if kind != "LORA" or getattr(config, "alora_invocation_tokens", None):
            raise ModelLoadError(
                f"lora_model_dir: adapter {name} is of kind {kind}"
                f"{' (activated)' if kind == 'LORA' else ''}, whose effect depends on more than the tokens "
                "before a position; a prefix can't be reused under it. Merge it, or use plain LoRA."
            )
    for parameter in adapted.parameters():
        # PEFT widens adapters for training; Axolotl narrows them again for inference.
        if parameter.is_floating_point() and not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.to(dtype)
    return adapted


def _own_memory(model: Any) -> None:
    """Move weights out of the mapped file.

    On a CPU transformers leaves them there: a file rewritten in place would change the model under its
    old name, and one cut short would kill the process.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


@contextmanager
def _collected(warnings: list[str]) -> Iterator[None]:
    """Turn Python warnings into sentences for the user; what libraries tell each other is dropped."""
    with python_warnings.catch_warnings(record=True) as caught:
        python_warnings.simplefilter("always")
        yield
    spoken = (UserWarning, RuntimeWarning)
    warnings += [str(item.message) for item in caught if item.category in spoken]
