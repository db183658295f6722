"""What a YAML decides about dtype, attention, quantisation and device, on machines of every kind."""

import pytest
import torch

from axolotl_cache.engine.choices import (
    Hardware,
    choose_attention,
    choose_device_map,
    choose_dtype,
    choose_quantisation,
    use_tf32,
)
from axolotl_cache.errors import ModelLoadError

AMPERE = Hardware("cuda", gpu_bfloat16=True, packages=frozenset({"bitsandbytes", "flash_attn"}))
TURING = Hardware("cuda", packages=frozenset({"bitsandbytes"}))
NEW_CPU = Hardware("cpu", cpu_bfloat16=True)
OLD_CPU = Hardware("cpu")
APPLE = Hardware("mps")

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("axolotl", "hardware", "dtype"),
    [
        # Axolotl's rule, on GPUs.
        ({}, AMPERE, FP32),
        ({"bf16": "auto"}, AMPERE, BF16),
        ({"bf16": "auto"}, TURING, FP16),
        ({"bf16": "auto", "fp16": False}, TURING, FP32),
        ({"bf16": "auto", "fp16": True}, AMPERE, FP16),
        ({"bf16": "auto", "float16": True}, TURING, FP16),
        ({"bf16": True}, TURING, BF16),
        ({"bf16": True, "fp16": True}, AMPERE, BF16),
        ({"bf16": False, "fp16": True}, AMPERE, FP16),
        ({"bf16": False, "fp16": False}, AMPERE, FP32),
        ({"bfloat16": True}, AMPERE, BF16),
        ({"float16": True}, AMPERE, FP16),
        ({"bfloat16": True, "float16": True}, AMPERE, BF16),
        ({"load_in_8bit": True}, AMPERE, FP16),
        ({"load_in_8bit": True, "bf16": True}, AMPERE, BF16),
        ({"load_in_8bit": True, "bf16": "auto"}, AMPERE, BF16),
        ({"load_in_4bit": True}, AMPERE, FP32),
        # Apple's GPUs.
        ({"bf16": "auto"}, APPLE, FP16),
        ({"bf16": True}, APPLE, FP16),
        ({"bf16": True, "fp16": False}, APPLE, FP32),
        ({"load_in_8bit": True}, APPLE, FP32),
        # CPUs: what is written is done.
        ({}, OLD_CPU, FP32),
        ({"bf16": True}, OLD_CPU, BF16),
        ({"fp16": True}, NEW_CPU, FP16),
        ({"bf16": "auto", "fp16": True}, NEW_CPU, FP16),
        ({"bf16": "auto", "float16": True}, NEW_CPU, FP16),
        ({"bf16": False}, NEW_CPU, FP32),
        # CPUs: `auto` is what is fast.
        ({"bf16": "auto"}, NEW_CPU, BF16),
        ({"bf16": "auto"}, OLD_CPU, FP32),
        ({"bf16": "auto", "fp16": False}, OLD_CPU, FP32),
    ],
)
def test_dtype(axolotl, hardware, dtype):
    assert choose_dtype(axolotl, hardware)[0] == dtype


def test_auto_on_a_cpu_says_what_it_took_and_how_to_force_another():
    for hardware in (NEW_CPU, OLD_CPU):
        _, (warning,) = choose_dtype({"bf16": "auto"}, hardware)
        assert "bf16: auto on a CPU" in warning
        assert "`fp16: true`" in warning


def test_what_is_slow_here_is_said():
    assert "slow" in choose_dtype({"fp16": True}, NEW_CPU)[1][0]
    assert "slow" in choose_dtype({"bf16": True}, OLD_CPU)[1][0]
    assert choose_dtype({"bf16": True}, NEW_CPU)[1] == []
    assert choose_dtype({"fp16": True}, AMPERE)[1] == []


def test_another_bf16_is_refused():
    with pytest.raises(ModelLoadError, match="write true, false or auto"):
        choose_dtype({"bf16": "yes please"}, AMPERE)


@pytest.mark.parametrize(
    ("axolotl", "hardware", "kernel", "warned"),
    [
        ({}, AMPERE, None, False),
        ({"attn_implementation": "eager"}, OLD_CPU, "eager", False),
        ({"sdp_attention": True}, OLD_CPU, "sdpa", False),
        ({"eager_attention": True}, AMPERE, "eager", False),
        ({"flash_attention": False}, OLD_CPU, None, False),
        ({"flash_attention": True}, AMPERE, "flash_attention_2", False),
        ({"flash_attention": True}, TURING, "sdpa", True),
        ({"flash_attention": True}, OLD_CPU, "sdpa", True),
        ({"attn_implementation": "flash_attention_2"}, APPLE, "sdpa", True),
        # Specific before generic, as Axolotl.
        ({"flash_attention": True, "flex_attention": True}, AMPERE, "flex_attention", False),
        ({"xformers_attention": True}, AMPERE, "sdpa", True),
        ({"attn_implementation": "kernels-community/flash-attn3"}, AMPERE, "sdpa", True),
    ],
)
def test_attention(axolotl, hardware, kernel, warned):
    found, warnings = choose_attention(axolotl, hardware)
    assert found == kernel
    assert bool(warnings) is warned


def test_attention_that_is_no_kernel_is_refused():
    with pytest.raises(ModelLoadError, match="Write flash_attention_2"):
        choose_attention({"attn_implementation": "flash"}, AMPERE)
    with pytest.raises(ModelLoadError, match="is not known"):
        choose_attention({"attn_implementation": "fastest"}, AMPERE)
    with pytest.raises(ModelLoadError, match="keep one"):
        choose_attention({"attn_implementation": "sdpa", "flash_attention": True}, AMPERE)


def test_four_bits_are_axolotls():
    found, warnings = choose_quantisation({"adapter": "qlora", "load_in_4bit": True}, AMPERE, BF16, "llama")
    assert found == {
        "load_in_4bit": True,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "bnb_4bit_compute_dtype": BF16,
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": BF16,
    }
    assert warnings == []


def test_the_yamls_own_arguments_win():
    axolotl = {"adapter": "qlora", "load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}
    found, _ = choose_quantisation(axolotl, AMPERE, BF16, "llama")
    assert found["bnb_4bit_quant_type"] == "fp4"


def test_eight_bits():
    axolotl = {"adapter": "lora", "load_in_8bit": True}
    assert choose_quantisation(axolotl, AMPERE, FP16, "llama") == ({"load_in_8bit": True}, [])
    assert choose_quantisation(axolotl, AMPERE, FP16, "falcon_h1")[0]["llm_int8_skip_modules"] == ["out_proj"]


def test_no_quantisation():
    assert choose_quantisation({}, OLD_CPU, FP32, "llama") == (None, [])
    assert choose_quantisation({"load_in_4bit": False}, OLD_CPU, FP32, "llama") == (None, [])


def test_quantisation_that_axolotl_would_drop_is_applied_and_said():
    found, (warning,) = choose_quantisation({"load_in_4bit": True}, AMPERE, BF16, "llama")
    assert found is not None
    assert "Axolotl itself ignores it" in warning


def test_without_bitsandbytes_the_error_says_what_to_do():
    with pytest.raises(ModelLoadError, match="bitsandbytes") as caught:
        choose_quantisation({"adapter": "qlora", "load_in_4bit": True}, OLD_CPU, FP32, "llama")
    assert "pip install" in str(caught.value)
    assert "take `load_in_4bit` out" in str(caught.value)
    with pytest.raises(ModelLoadError, match="Apple"):
        choose_quantisation({"load_in_4bit": True}, APPLE, FP16, "llama")


def test_contradictions_are_refused():
    with pytest.raises(ModelLoadError, match="keep one"):
        choose_quantisation({"load_in_4bit": True, "load_in_8bit": True}, AMPERE, BF16, "llama")
    with pytest.raises(ModelLoadError, match="needs `load_in_4bit: true`"):
        choose_quantisation({"adapter": "qlora"}, AMPERE, BF16, "llama")


def test_device_map():
    assert choose_device_map({}, OLD_CPU) == (OLD_CPU, None, [])
    assert choose_device_map({"device_map": "auto"}, OLD_CPU)[1] is None
    assert choose_device_map({}, AMPERE)[1] == "auto"
    assert choose_device_map({"device_map": {"": 0}}, AMPERE)[1] == {"": 0}
    assert choose_device_map({}, APPLE)[1] == "mps:0"
    for wanted in ("cpu", {"": "cpu"}):
        hardware, device_map, _ = choose_device_map({"device_map": wanted}, AMPERE)
        assert (hardware.device_type, device_map) == ("cpu", None)
    with pytest.raises(ModelLoadError, match="torch sees none"):
        choose_device_map({"device_map": {"": "cuda:1"}}, OLD_CPU)


def test_tf32_is_for_gpus():
    assert use_tf32({"tf32": True}, AMPERE)
    assert not use_tf32({"tf32": True}, NEW_CPU)
    assert not use_tf32({}, AMPERE)


def test_this_machine_is_recognised():
    assert Hardware.detect().device_type in ("cuda", "mps", "cpu")
