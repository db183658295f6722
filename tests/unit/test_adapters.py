"""Several adapters over one model: each computes as if it were alone, and nothing of it stays behind."""

import copy
import json
import os
import shutil
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from axolotl_cache.engine.adapters import Adapters
from axolotl_cache.engine.digest import DigestMemo
from axolotl_cache.engine.exactness import Comparer, probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.plan import invariant
from axolotl_cache.engine.pool import KVPool, read_layout
from axolotl_cache.engine.speed import prepare
from axolotl_cache.errors import ModelLoadError, RequestError
from axolotl_cache.namespace import Namespace

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMESPACE = Namespace(weights="w", adapter="", tokenizer="t", chat_template="c", dtype="float32")


def base_model(**changes):
    torch.manual_seed(0)
    settings = {
        "vocab_size": 200,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


def save_adapter(folder, seed, *, model=None, **options):
    """Make an adapter with random weights, and save it as a training would."""
    torch.manual_seed(seed)
    settings = {
        "target_modules": ["q_proj", "v_proj"],
        "r": 4,
        "init_lora_weights": False,
        "lora_dropout": 0.1,
    }
    adapted = get_peft_model(model or base_model(), LoraConfig(task_type="CAUSAL_LM", **settings | options))
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name or "trainable_tokens" in name or "magnitude" in name:
            parameter.data += torch.randn_like(parameter) / 10
    with warnings.catch_warnings(action="ignore"):  # embeddings are saved along; see below
        adapted.save_pretrained(folder)
    return folder


def logits(model, length=40):
    ids = torch.randint(1, 200, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(input_ids=ids).logits


def alone(folder, dtype=torch.float32, model=None):
    """The logits of the base model with one adapter, as transformers and PEFT have them."""
    model = model or base_model()
    adapted = PeftModel.from_pretrained(model.to(dtype), str(folder)).eval()
    for parameter in adapted.parameters():
        parameter.data = parameter.data.to(dtype)
    return logits(adapted)


@pytest.fixture
def one(tmp_path):
    return save_adapter(tmp_path / "one", 1)


@pytest.fixture
def two(tmp_path):
    return save_adapter(tmp_path / "two", 2, target_modules=LINEAR, r=8, lora_alpha=12)


@pytest.fixture
def model():
    return base_model()


@pytest.fixture
def adapters(model, tmp_path):
    return Adapters(model, NAMESPACE, memo=DigestMemo(tmp_path / "memo"))


def with_adapter(adapters, model, name):
    adapters.use(name)
    return logits(model)


def test_each_computes_as_if_it_were_alone_in_any_order(adapters, model, one, two):
    plain = logits(model)
    adapters.load("one", one)
    adapters.load("two", two)
    expected = {"one": alone(one), "two": alone(two), None: plain, "": plain}
    assert adapters.names == ("one", "two")
    assert torch.equal(logits(model), plain), "loading alone changes nothing"
    for name in ["one", None, "two", "one", "two", "", "two", None, "one", ""]:
        assert torch.equal(with_adapter(adapters, model, name), expected[name]), name
    different = [expected["one"], expected["two"], plain]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i]), (
        "or the above shows nothing"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": LINEAR, "lora_alpha": 16},  # the factor is a power of two, ...
        {"target_modules": LINEAR, "lora_alpha": 6},  # ... and is none
        {"use_rslora": True, "r": 6},
        {"use_dora": True},
        {"target_modules": ["o_proj"], "rank_pattern": {"layers.1.self_attn.o_proj": 2}},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["embed_tokens", "lm_head", "up_proj"]},
        {"trainable_token_indices": [3, 5, 8]},
        {"modules_to_save": ["mlp"]},
    ],
    ids=lambda options: "-".join(options),
)
def test_kinds_of_lora(tmp_path, dtype, options):
    folder = save_adapter(tmp_path / "adapter", 5, **options)
    model = base_model().to(dtype)
    plain = logits(model)
    adapters = Adapters(model, NAMESPACE)
    loaded = adapters.load("a", folder)
    expected = alone(folder, dtype)
    assert not torch.equal(expected, plain)
    assert torch.equal(with_adapter(adapters, model, "a"), expected)
    assert torch.equal(with_adapter(adapters, model, None), plain)
    assert torch.equal(with_adapter(adapters, model, "a"), expected)
    assert loaded.nbytes > 0


def test_tied_embeddings(tmp_path):
    tied = {"tie_word_embeddings": True}
    model = base_model(**tied)
    folder = save_adapter(
        tmp_path / "adapter", 5, model=base_model(**tied), trainable_token_indices=[3, 5], use_dora=True
    )
    plain = logits(model)
    adapters = Adapters(model, NAMESPACE)
    adapters.load("a", folder)
    expected = alone(folder, model=base_model(**tied))
    assert torch.equal(with_adapter(adapters, model, "a"), expected)
    assert torch.equal(with_adapter(adapters, model, None), plain)
    assert not torch.equal(plain, expected)


def test_an_adapter_with_a_bias_of_its_own(tmp_path):
    biased = {"attention_bias": True}
    folder = save_adapter(tmp_path / "adapter", 5, model=base_model(**biased), lora_bias=True)
    model = base_model(**biased)
    plain = logits(model)
    adapters = Adapters(model, NAMESPACE)
    adapters.load("a", folder)
    expected = alone(folder, model=base_model(**biased))
    assert torch.equal(with_adapter(adapters, model, "a"), expected)
    assert torch.equal(with_adapter(adapters, model, None), plain)
    assert not torch.equal(plain, expected)


def test_a_model_whose_linear_layers_are_of_another_class(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    def gpt2():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=48, n_layer=2, n_head=4)).eval()

    options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    folder = save_adapter(tmp_path / "adapter", 5, model=gpt2(), **options)
    model = gpt2()
    plain = logits(model)
    adapters = Adapters(model, NAMESPACE)
    adapters.load("a", folder)
    expected = alone(folder, model=gpt2())
    assert torch.equal(with_adapter(adapters, model, "a"), expected)
    assert torch.equal(with_adapter(adapters, model, None), plain)
    assert not torch.equal(plain, expected)


def test_a_mixture_of_experts_with_an_adapter_on_its_experts(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    def mixtral():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 4}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return MixtralForCausalLM(MixtralConfig(vocab_size=200, **sizes, **heads)).eval()

    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"target_parameters": parameters, "lora_dropout": 0.0}
    folder = save_adapter(tmp_path / "adapter", 5, model=mixtral(), **options)
    model = mixtral()
    plain = logits(model)
    adapters = Adapters(model, NAMESPACE)
    adapters.load("a", folder)
    expected = alone(folder, model=mixtral())
    for _ in range(2):
        assert torch.equal(with_adapter(adapters, model, "a"), expected)
        assert torch.equal(with_adapter(adapters, model, None), plain)
    assert not torch.equal(plain, expected)


def test_layers_of_another_shape_of_tree(adapters, model, tmp_path, two):
    """One adapter takes the place of a module in which another one takes the places of parts."""
    whole = save_adapter(tmp_path / "whole", 5, modules_to_save=["mlp"])
    adapters.load("whole", whole)
    adapters.load("two", two)
    expected = {"whole": alone(whole), "two": alone(two), None: logits(model)}
    for name in ["whole", "two", "whole", None, "two", None]:
        assert torch.equal(with_adapter(adapters, model, name), expected[name]), name


def test_a_reload_brings_the_new_weights_under_a_new_digest_and_namespace(adapters, model, one):
    before = adapters.load("one", one)
    old = with_adapter(adapters, model, "one")
    old_namespace = adapters.namespace_for("one")
    file = one / "adapter_model.safetensors"
    stat = file.stat()
    save_file({n: w * -2 for n, w in load_file(file).items()}, file, metadata={"format": "pt"})
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert adapters.changed_files("one") == (file,)
    assert torch.equal(logits(model), old), "the file on disk is not the adapter in memory"

    after = adapters.reload("one")
    assert adapters.changed_files("one") == ()
    assert after.digest == adapters.digest("one") != before.digest
    assert old_namespace.difference(adapters.namespace_for("one")) == ("adapter",)
    new = with_adapter(adapters, model, "one")
    assert torch.equal(new, alone(one))
    assert not torch.equal(new, old)
    # An answer that began with the old one ends with it.
    assert torch.equal(with_adapter(adapters, model, before), old)
    assert adapters.namespace_for(before) == old_namespace


def test_a_reload_of_unchanged_files_is_the_same_namespace(adapters, model, one):
    adapters.load("one", one)
    first, bits = adapters.namespace_for("one"), with_adapter(adapters, model, "one")
    adapters.reload("one")
    assert adapters.namespace_for("one") == first
    assert torch.equal(with_adapter(adapters, model, "one"), bits)


def test_namespaces(adapters, one, two):
    adapters.load("one", one)
    adapters.load("two", two)
    adapters.load("again", one)
    found = {name: adapters.namespace_for(name) for name in ("one", "two", "again", "", None)}
    assert found[""] == found[None] == NAMESPACE
    assert found["one"] == found["again"], "the name is none of its business"
    assert len({n.digest for n in found.values()}) == 3
    tenant = NAMESPACE.for_tenant("t").for_layout("grid")
    assert tenant.difference(adapters.namespace_for("one", tenant)) == ("adapter",)


def test_the_digest_is_the_one_of_an_adapter_in_the_yaml(small_model_folder, tmp_path):
    from axolotl_cache.engine.loader import load_model

    def small():
        return LlamaForCausalLM.from_pretrained(small_model_folder)

    folder = save_adapter(tmp_path / "adapter", 3, model=small(), target_modules=LINEAR)
    yaml = {"base_model": str(small_model_folder)}
    with_it = {**yaml, "adapter": "lora", "lora_model_dir": str(folder)}
    plain, adapted = (load_model(y, config_path=tmp_path / "c.yaml") for y in (yaml, with_it))
    adapters = Adapters(plain.model, plain.namespace, dtype=plain.dtype)
    adapters.load("a", folder)
    assert adapters.namespace_for("a") == adapted.namespace
    assert torch.equal(with_adapter(adapters, plain.model, "a"), logits(adapted.model))

    # And the other way: a model that comes with one.
    its = Adapters(adapted.model, adapted.namespace, dtype=adapted.dtype)
    own = logits(adapted.model)
    other = save_adapter(tmp_path / "other", 4, model=small())
    its.load("other", other)
    adapters.load("other", other)
    assert its.namespace_for("") == adapted.namespace
    assert its.namespace_for(None) == plain.namespace
    assert its.namespace_for("other") == adapters.namespace_for("other")
    expected = {
        "": own,
        None: with_adapter(adapters, plain.model, None),
        "other": with_adapter(adapters, plain.model, "other"),
    }
    for name in ["other", "", None, "", "other", None, ""]:
        assert torch.equal(with_adapter(its, adapted.model, name), expected[name]), name
    assert not torch.equal(own, expected[None])


def test_a_model_named_by_its_tensors_is_not_taken_for_its_base(one):
    adapted = PeftModel.from_pretrained(base_model(), str(one)).eval()
    adapters = Adapters(adapted, NAMESPACE)
    assert adapters.namespace_for("") == NAMESPACE
    assert adapters.namespace_for(None) != NAMESPACE
    assert torch.equal(with_adapter(adapters, adapted, None), logits(base_model()))


def test_unknown_names_and_names_that_are_none(adapters, one):
    adapters.load("one", one)
    for act in (adapters.get, adapters.use, adapters.digest, adapters.reload, adapters.unload):
        with pytest.raises(RequestError, match="no adapter 'other'; loaded: one"):
            act("other")
    for name in ("", "a b", "a/b", "a\n", "naïve", "a:b"):
        with pytest.raises(RequestError, match="letters"):
            adapters.load(name, one)
    for act in (adapters.reload, adapters.unload):
        with pytest.raises(RequestError, match="own adapter"):
            act("")
    adapters.load("A-1_b.c", one)
    assert adapters.names == ("A-1_b.c", "one")


def test_what_was_unloaded_is_gone_for_new_requests_only(adapters, model, one):
    held = adapters.load("one", one)
    expected = with_adapter(adapters, model, "one")
    adapters.unload("one")
    assert adapters.names == ()
    with pytest.raises(RequestError, match="loaded: none"):
        adapters.get("one")
    assert torch.equal(with_adapter(adapters, model, None), logits(base_model()))
    assert torch.equal(with_adapter(adapters, model, held), expected)


def cut_short(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def no_config(folder):
    (folder / "adapter_config.json").unlink()


def damaged_config(folder):
    (folder / "adapter_config.json").write_text("{")


def change_config(**changes):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def change_weights(change):
    def changed(folder):
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return changed


def without_one(weights):
    return dict(list(weights.items())[1:])


def with_one_more(weights):
    name, tensor = next(iter(weights.items()))
    return weights | {name.replace("layers.0", "layers.7"): tensor.clone()}


def with_an_embedding(weights):
    return weights | {"base_model.model.model.embed_tokens.weight": torch.ones(200, 48)}


def saved(config):
    def save(folder):
        shutil.rmtree(folder)
        get_peft_model(base_model(), config).save_pretrained(folder)

    return save


def of_a_wider_model(folder):
    shutil.rmtree(folder)
    save_adapter(folder, 1, model=base_model(hidden_size=64))


def of_another_architecture(folder):
    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.rmtree(folder)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=48, n_layer=2, n_head=4))
    save_adapter(folder, 1, model=gpt2, target_modules=["c_attn"], fan_in_fan_out=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, "does not load"),
        (no_weights, "holds no adapter_model.safetensors"),
        (no_config, "holds no adapter_config.json"),
        (damaged_config, "can't be read"),
        (change_weights(without_one), "lacks 1 tensors"),
        (change_weights(with_one_more), "too many"),
        (change_weights(with_an_embedding), "embed_tokens"),
        (change_config(r=2), "size mismatch"),
        (change_config(bias="all"), "bias: all"),
        (change_config(init_lora_weights="pissa"), "pissa"),
        (change_config(alora_invocation_tokens=[1]), "activated LoRA"),
        (change_config(layer_replication=[[0, 2], [1, 2]]), "repeats layers"),
        (of_a_wider_model, "size mismatch"),
        (of_another_architecture, "does not load"),
        (saved(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)), "before the prompt"),
        (saved(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)), "before the prompt"),
        (saved(VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4)), "only LoRA"),
    ],
)
def test_what_does_not_load_says_why_and_leaves_all_as_it_was(adapters, model, tmp_path, damage, said):
    folder = save_adapter(tmp_path / "adapter", 1)
    held = adapters.load("a", folder)
    before, plain = with_adapter(adapters, model, "a"), with_adapter(adapters, model, None)
    weights = {name: p.clone() for name, p in base_model().named_parameters()}
    adapters.use("a")
    damage(folder)
    with pytest.raises(ModelLoadError, match=said):
        adapters.reload("a")
    with pytest.raises(ModelLoadError, match="adapter fresh"):
        adapters.load("fresh", folder)
    assert adapters.names == ("a",)
    assert adapters.get("a") is held
    assert torch.equal(logits(model), before), "it went on in use"
    assert torch.equal(with_adapter(adapters, model, None), plain)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in weights.items()}
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())


def test_copies_of_the_bases_own_embedding_are_no_harm(adapters, model, tmp_path):
    folder = save_adapter(tmp_path / "adapter", 1)
    embedding = base_model().get_input_embeddings().weight.detach()
    name = "base_model.model.model.embed_tokens.weight"
    change_weights(lambda weights: weights | {name: embedding.clone()})(folder)
    adapters.load("a", folder)
    assert torch.equal(with_adapter(adapters, model, "a"), alone(folder))


@pytest.mark.parametrize("config", [{"bias": "all"}, {"init_lora_weights": "olora"}])
def test_a_model_whose_own_adapter_changed_its_base_is_refused(config):
    adapted = get_peft_model(base_model(), LoraConfig(target_modules=["q_proj"], **config))
    with pytest.raises(ModelLoadError, match="own adapter"):
        Adapters(adapted, NAMESPACE)


def test_a_model_with_its_own_adapter_merged_is_refused(one):
    adapted = PeftModel.from_pretrained(base_model(), str(one))
    adapted.merge_adapter()
    with pytest.raises(ModelLoadError, match="merged"):
        Adapters(adapted, NAMESPACE)


def test_loading_leaves_what_is_trained_to_the_models_owner(adapters, model, one):
    assert all(p.requires_grad for p in model.parameters())
    adapters.load("one", one)
    assert all(p.requires_grad for p in model.parameters())
    adapters.use("one")
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        f"model.layers.{layer}.self_attn.{name}.{part}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
        for part in ("down", "up")
    }


def test_files_rewritten_in_place_do_not_reach_the_adapter_in_memory(adapters, model, one):
    adapters.load("one", one)
    before = with_adapter(adapters, model, "one")
    file = one / "adapter_model.safetensors"
    with file.open("r+b") as raw:
        raw.seek(-1000, os.SEEK_END)
        raw.write(b"\x00" * 1000)
    assert torch.equal(logits(model), before)


def test_an_adapter_written_while_it_is_read_is_read_again(adapters, model, one, monkeypatch):
    build, calls = adapters._build, []

    def slow(name, folder):
        built = build(name, folder)
        calls.append(name)
        if len(calls) == 1:
            change_weights(lambda weights: {n: w * 3 for n, w in weights.items()})(folder)
        return built

    monkeypatch.setattr(adapters, "_build", slow)
    adapters.load("one", one)
    assert len(calls) == 2
    assert torch.equal(with_adapter(adapters, model, "one"), alone(one))

    def never_done(name, folder):
        change_weights(lambda weights: {n: w + 1 for n, w in weights.items()})(folder)
        return build(name, folder)

    monkeypatch.setattr(adapters, "_build", never_done)
    held = adapters.get("one")
    with pytest.raises(ModelLoadError, match="written to"):
        adapters.reload("one")
    assert adapters.get("one") is held


def test_loading_beside_a_running_model_changes_no_bit(adapters, model, one, two):
    """The engine's thread computes while another one loads, reloads and unloads."""
    adapters.load("one", one)
    expected = {name: with_adapter(adapters, model, name) for name in ("one", None)}
    done = threading.Event()
    passes, wrong = [], []

    def engine():
        while not done.is_set():
            for name, right in expected.items():
                passes.append(name)
                if not torch.equal(with_adapter(adapters, model, name), right):
                    wrong.append(name)

    thread = threading.Thread(target=engine)
    thread.start()
    try:
        for _ in range(4):
            adapters.load("two", two)
            adapters.reload("one")
            adapters.unload("two")
    finally:
        done.set()
        thread.join()
    assert passes
    assert wrong == []


def test_the_control_another_adapter_in_the_midst_is_seen(adapters, model, one, two):
    """If the comparison above could not fail, it would be worth nothing."""
    adapters.load("one", one)
    adapters.load("two", two)
    right = with_adapter(adapters, model, "one")
    adapters.use("one")
    adapters._tree._places["model.layers.1.mlp.up_proj"].siblings["up_proj"] = adapters.get("two").layers[
        "model.layers.1.mlp.up_proj"
    ]
    assert not torch.equal(logits(model), right)


@pytest.mark.parametrize("options", [{"r": 1}, {"r": 2}, {"r": 8}, {"r": 4, "use_dora": True}], ids=str)
def test_a_token_gets_the_same_bits_whatever_comes_with_it(tmp_path, options):
    """The few rows of a decoding step are small products, which torch would else round by other rules."""
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 1}
    model = base_model(**sizes).bfloat16()
    folder = save_adapter(tmp_path / "adapter", 5, model=base_model(**sizes), **options)
    adapters = Adapters(model, NAMESPACE)
    adapters.load("a", folder)
    x = torch.randn(2048, 576, generator=torch.Generator().manual_seed(0)).bfloat16()
    for layer in adapters.get("a").layers.values():
        with torch.inference_mode():
            whole = layer(x)
            for rows in (2, 4, 8):
                assert torch.equal(torch.cat([layer(part) for part in x.split(rows)]), whole)


def test_a_change_that_was_cut_off_leaves_no_mixture(adapters, model, one, two):
    adapters.load("one", one)
    adapters.load("two", two)
    expected = {name: with_adapter(adapters, model, name) for name in ("one", "two", None)}

    class CutOff(dict):
        def items(self):
            for count, item in enumerate(super().items()):
                if count == 3:
                    raise KeyboardInterrupt
                yield item

    for name in (None, "one", "two"):
        adapters.use("one")
        with pytest.raises(KeyboardInterrupt):
            adapters._tree.put(CutOff(adapters.get("two").layers))
        assert not torch.equal(logits(model), expected[name])
        assert torch.equal(with_adapter(adapters, model, name), expected[name])


def test_what_nobody_holds_any_more_is_freed(adapters, model, one):
    import gc
    import weakref

    held = adapters.load("one", one)
    weights = weakref.ref(next(iter(held.layers.values())))
    adapters.use("one")
    adapters.unload("one")
    adapters.use(None)
    del held
    gc.collect()
    assert weights() is None


def test_a_base_model_without_adapters_is_left_alone(model, one):
    modules = dict(model.named_modules())
    adapters = Adapters(model, replace(NAMESPACE, weights="x"))
    adapters.load("one", one)
    adapters.use("one")
    adapters.use("")
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize("multiple", [1, None])
def test_beside_packed_weights_an_adapters_bits_do_not_depend_on_the_cuts(tmp_path, multiple):
    """The control is calls that are not padded, which packed layers alone would allow."""
    model = base_model(
        hidden_size=96, intermediate_size=160, num_attention_heads=6, max_position_embeddings=256
    )
    folder = save_adapter(tmp_path / "one", 1, model=copy.deepcopy(model), r=8, target_modules=LINEAR)
    if prepare(model, "packed").how != "packed":
        pytest.skip("weights can't be packed here")
    adapters = Adapters(model, NAMESPACE)
    forward = Forward(model, KVPool(read_layout(model, torch.device("cpu")), 32), 256)
    layout = invariant(multiple) if multiple else probe(forward, None, adapters=True).layout
    adapters.use(adapters.load("one", folder))
    comparer = Comparer(forward, layout)
    tokens = torch.randint(200, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    with comparer.computed(tokens, ()) as (pages, last):
        for cuts in ([180, *[1] * 20], [170, *[3] * 10], [160, 5, 6, 7, 9, 10]):
            with comparer.computed(tokens, cuts) as (others, other):
                same = comparer.same(len(tokens), pages, last, others, other)
                if multiple and not same:
                    return
                assert same
    assert not multiple, "unpadded calls gave the same bits: the comparison may be blind"
