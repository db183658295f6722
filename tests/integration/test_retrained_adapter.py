"""An adapter is retrained in place: same path, same size. Nothing stale may be served, in any tier."""

import os
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from axolotl_cache import SmartInferenceCache
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import CacheControl, Message, Request, Sampling, Served

REQUEST = Request(
    messages=(Message("system", "You help the customers of a bank. " * 12), Message("user", "Hello?")),
    sampling=Sampling(max_new_tokens=6),
    cache_control=CacheControl(truncated=True),
)


@pytest.fixture
def adapter(small_model_folder, tmp_path):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(small_model_folder)
    lora = LoraConfig(target_modules=["q_proj", "v_proj", "o_proj"], r=8, init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def retrain(adapter):
    file = adapter / "adapter_model.safetensors"
    before = file.stat()
    retrained = {name: weight * -4 for name, weight in load_file(file).items()}
    save_file(retrained, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the worst case: only ctime tells
    assert file.stat().st_size == before.st_size


def load(small_model_folder, adapter, tmp_path):
    axolotl = {
        "base_model": str(small_model_folder),
        "chat_template": "tokenizer_default",
        "adapter": "lora",
        "lora_model_dir": str(adapter),
    }
    return load_model(axolotl, config_path=tmp_path / "c.yaml")


def build(loaded, tmp_path, response=None) -> Pipeline:
    engine = Engine(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        max_cache_bytes=10**8,
        memo=tmp_path / "exactness",
    )
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    return Pipeline(engine, renderer, loaded.namespace, response)


def test_nothing_stale_is_served_after_retraining_in_place(small_model_folder, adapter, tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path / "answers") as response:
        before = load(small_model_folder, adapter, tmp_path)
        running = build(before, tmp_path, response)
        old = running.answer(REQUEST)
        assert running.answer(REQUEST).served is Served.HIT_EXACT

        retrain(adapter)
        # The running engine still computes with what it loaded, under its own name, and says so.
        assert [f.name for f in before.changed_files()] == ["adapter_model.safetensors"]
        assert running.answer(REQUEST).text == old.text

        after = before.reload()
        assert after.namespace.difference(before.namespace) == ("adapter",)
        fresh = build(after, tmp_path, response).answer(REQUEST)
        assert fresh.served is Served.MISS
        assert fresh.text == build(after, tmp_path).answer(REQUEST).text
        assert fresh.text != old.text


def test_the_control_without_the_digest_in_the_key_the_stale_answer_comes(
    small_model_folder, adapter, tmp_path
):
    with SmartInferenceCache(persistence_path=tmp_path / "answers") as response:
        before = load(small_model_folder, adapter, tmp_path)
        old = build(before, tmp_path, response).answer(REQUEST)
        retrain(adapter)
        blind = build(before.reload(), tmp_path, response)
        blind.namespace = replace(blind.namespace, adapter=before.namespace.adapter)
        stale = blind.answer(REQUEST)
        assert stale.served is Served.HIT_EXACT
        assert stale.text == old.text
