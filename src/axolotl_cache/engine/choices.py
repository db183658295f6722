"""What an Axolotl YAML decides about numbers: dtype, attention kernel, quantisation, device.

The rules are Axolotl's. Where they lead to a worse place on this machine, the choice differs and a warning
says so. All of them are functions of the YAML and of `Hardware`, so that each can be tried on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from axolotl_cache.errors import ModelLoadError

LEGACY_ATTENTION = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
"""Axolotl's older keys, in its order of preference."""

ATTENTION_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}

SHORT_ATTENTION = {"flash": "flash_attention_2", "flex": "flex_attention", "sdp": "sdpa"}

BFLOAT16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that multiply bfloat16 in hardware (x86, x86, 64-bit Arm)."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this machine can do."""

    device_type: str
    """`cuda`, `mps` or `cpu`."""
    gpu_bfloat16: bool = False
    cpu_bfloat16: bool = False
    packages: frozenset[str] = frozenset()
    """Which of the optional packages are installed."""

    @classmethod
    def detect(cls) -> Hardware:
        """Ask torch and the operating system; as Axolotl, CUDA comes before MPS before the CPU."""
        optional = ("bitsandbytes", "flash_attn", "flash_attn_interface")
        packages = frozenset(name for name in optional if find_spec(name) is not None)
        if torch.cuda.is_available():
            return cls("cuda", torch.cuda.is_bf16_supported(), _cpu_multiplies_bfloat16(), packages)
        device_type = "mps" if torch.backends.mps.is_available() else "cpu"
        return cls(device_type, False, _cpu_multiplies_bfloat16(), packages)


def _cpu_multiplies_bfloat16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return any(not BFLOAT16_CPU_FLAGS.isdisjoint(line.split()) for line in flags)


def choose_device_map(axolotl: Mapping[str, Any], hardware: Hardware) -> tuple[Hardware, Any, list[str]]:
    """Return the hardware to use, the device map for transformers (None on a CPU), and warnings.

    Raises:
        ModelLoadError: `device_map` names a GPU and there is none.
    """
    wanted = axolotl.get("device_map") or "auto"
    places = {str(place) for place in wanted.values()} if isinstance(wanted, Mapping) else {str(wanted)}
    if places == {"cpu"}:
        return _on_cpu(hardware), None, []
    if hardware.device_type == "mps":
        return hardware, "mps:0", []
    if hardware.device_type == "cuda":
        return hardware, wanted, []
    named = sorted(place for place in places if place.isdigit() or place.startswith("cuda"))
    if named:
        raise ModelLoadError(
            f"device_map names the GPU {', '.join(named)}, and torch sees none on this machine. "
            "Write `device_map: cpu`, or leave it out."
        )
    return hardware, None, []


def _on_cpu(hardware: Hardware) -> Hardware:
    return Hardware("cpu", False, hardware.cpu_bfloat16, hardware.packages)


def choose_dtype(axolotl: Mapping[str, Any], hardware: Hardware) -> tuple[torch.dtype, list[str]]:
    """Return the dtype of weights and computation, and warnings.

    Axolotl's rule, but for `bf16: auto` on a CPU: Axolotl falls back to float16 there, which CPUs compute
    slowly. bfloat16 is taken where the processor multiplies it in hardware, else float32.

    Raises:
        ModelLoadError: `bf16` is neither true, false nor auto.
    """
    bf16, fp16 = axolotl.get("bf16"), axolotl.get("fp16")
    bfloat16, float16 = bool(axolotl.get("bfloat16")), bool(axolotl.get("float16"))
    if bf16 not in (None, True, False, "auto", "full"):
        raise ModelLoadError(f"bf16 is {bf16!r}: write true, false or auto.")
    if bf16 == "auto":
        bf16, fp16 = _resolve_auto(fp16, float16, hardware)
        if hardware.device_type == "cpu" and not (fp16 or float16):
            return _auto_on_cpu(hardware)
    if hardware.device_type == "mps":
        fp16 = fp16 or (bool(bf16) and fp16 is not False)
        bf16 = False
    if bf16 or bfloat16:
        return torch.bfloat16, _slow(torch.bfloat16, hardware)
    # MPS has no 8-bit weights: Axolotl drops the key there.
    eight_bit = bool(axolotl.get("load_in_8bit")) and hardware.device_type != "mps"
    if eight_bit or fp16 or float16:
        return torch.float16, _slow(torch.float16, hardware)
    return torch.float32, []


def _resolve_auto(fp16: Any, float16: bool, hardware: Hardware) -> tuple[bool, Any]:
    """Return bf16 and fp16 for `bf16: auto`, as Axolotl resolves it."""
    if fp16:
        return False, fp16
    if hardware.device_type == "cuda" and hardware.gpu_bfloat16:
        return True, fp16
    if hardware.device_type != "cpu" and fp16 is None and not float16:
        return False, True
    return False, fp16


def _auto_on_cpu(hardware: Hardware) -> tuple[torch.dtype, list[str]]:
    if hardware.cpu_bfloat16:
        return torch.bfloat16, [
            "bf16: auto on a CPU: bfloat16, which this processor computes fast (Axolotl would take the slow "
            "float16). To force another, write `bf16: false` for float32 or `fp16: true`."
        ]
    return torch.float32, [
        "bf16: auto on a CPU: float32, because this processor has no fast bfloat16 (Axolotl would take the "
        "slow float16). To force one, write `bf16: true` or `fp16: true`."
    ]


def _slow(dtype: torch.dtype, hardware: Hardware) -> list[str]:
    fast = dtype == torch.bfloat16 and hardware.cpu_bfloat16
    if hardware.device_type != "cpu" or fast:
        return []
    name = str(dtype).removeprefix("torch.")
    return [f"{name} is slow on this processor; `bf16: auto` takes what is fast."]


def choose_attention(axolotl: Mapping[str, Any], hardware: Hardware) -> tuple[str | None, list[str]]:
    """Return the attention kernel for transformers (None: its default for the model), and warnings.

    Raises:
        ModelLoadError: an unknown kernel, or one named twice.
    """
    wanted = axolotl.get("attn_implementation")
    flags = [name for flag, name in LEGACY_ATTENTION.items() if axolotl.get(flag)]
    if wanted and flags:
        raise ModelLoadError(
            f"attn_implementation: {wanted} and an older attention key: keep one of the two."
        )
    wanted = wanted or (flags[0] if flags else None)
    if wanted in (None, "sdpa", "eager"):
        return wanted, []
    return _optional_attention(str(wanted), hardware)


def _optional_attention(wanted: str, hardware: Hardware) -> tuple[str, list[str]]:
    known = {
        *LEGACY_ATTENTION.values(),
        *ATTENTION_PACKAGES,
        "flash_attention_4",
        "flash_attention_torch",
        "fp8",
    }
    if wanted not in known and "/" not in wanted:
        right = SHORT_ATTENTION.get(wanted)
        raise ModelLoadError(
            f"attn_implementation: {wanted} is not known. "
            + (f"Write {right}." if right else f"Write one of: {', '.join(sorted(known))}.")
        )
    package = ATTENTION_PACKAGES.get(wanted)
    on_gpu = hardware.device_type == "cuda"
    if on_gpu and (wanted == "flex_attention" or (package is not None and package in hardware.packages)):
        return wanted, []
    if not on_gpu:
        reason = "it needs a GPU"
    elif package is not None:
        reason = f"the package {package} is not installed"
    else:
        reason = "it is a kernel for training, or one that would be fetched from the network"
    return "sdpa", [f"attention {wanted}: {reason}; sdpa, the same mathematics, is used."]


def choose_quantisation(
    axolotl: Mapping[str, Any], hardware: Hardware, dtype: torch.dtype, model_type: str
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the arguments of transformers' BitsAndBytesConfig, or None, and warnings.

    The values are Axolotl's: nf4 with double quantisation, computed in `dtype`. Axolotl quantises with
    `adapter: qlora` and 4 bits, or `adapter: lora` and 8; here the `load_in_` key alone decides.

    Raises:
        ModelLoadError: the YAML contradicts itself, or bitsandbytes is missing.
    """
    four, eight = bool(axolotl.get("load_in_4bit")), bool(axolotl.get("load_in_8bit"))
    adapter = axolotl.get("adapter")
    if four and eight:
        raise ModelLoadError("load_in_4bit and load_in_8bit are both true: keep one.")
    if adapter == "qlora" and not four:
        raise ModelLoadError(
            "adapter: qlora needs `load_in_4bit: true`, as in Axolotl. To serve the adapter on weights that "
            "are not quantised, write `adapter: lora`."
        )
    if not (four or eight):
        return None, []
    key = "load_in_4bit" if four else "load_in_8bit"
    _check_quantisable(key, dtype, hardware)
    warnings = []
    if adapter != ("qlora" if four else "lora"):
        warnings.append(
            f"{key} is applied as written; Axolotl itself ignores it with `adapter: {adapter or 'none'}`, so "
            "that the model may have been trained on weights that were not quantised."
        )
    arguments: dict[str, Any] = _four_bits(dtype, model_type) if four else {"load_in_8bit": True}
    skipped = {"jamba": ["mamba"] if eight else None, "falcon_h1": ["out_proj"]}.get(model_type)
    if skipped:
        arguments["llm_int8_skip_modules"] = skipped
    return arguments | (dict(axolotl.get("bnb_config_kwargs") or {}) if four else {}), warnings


def _four_bits(dtype: torch.dtype, model_type: str) -> dict[str, Any]:
    wide = model_type in ("jamba", "qwen2_moe", "nemotron_h")
    return {
        "load_in_4bit": True,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": torch.float32 if wide else torch.bfloat16,
    }


def _check_quantisable(key: str, dtype: torch.dtype, hardware: Hardware) -> None:
    name = str(dtype).removeprefix("torch.")
    instead = f"or take `{key}` out of the YAML: the model is then loaded in {name} (answers differ slightly)"
    if hardware.device_type == "mps":
        raise ModelLoadError(
            f"{key}: bitsandbytes does not run on Apple GPUs. Write `device_map: cpu`, {instead}."
        )
    if "bitsandbytes" not in hardware.packages:
        raise ModelLoadError(
            f"{key} needs the package bitsandbytes, which is not installed here. "
            f"Install it: pip install 'axolotl-cache[quantized]', {instead}."
        )


def use_tf32(axolotl: Mapping[str, Any], hardware: Hardware) -> bool:
    """Whether float32 products may run as TF32: `tf32: true`, or `auto` on a GPU that has it."""
    wanted = axolotl.get("tf32")
    if hardware.device_type != "cuda" or not wanted:
        return False
    return wanted is True or torch.cuda.get_device_capability() >= (8, 0)
