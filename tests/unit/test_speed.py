"""Packed weights: the same answers sooner, and a row's bits whatever comes with it."""

import gc
import weakref

import pytest
import torch
from torch import nn

from axolotl_cache.engine import speed
from axolotl_cache.engine.identity import digest_model
from axolotl_cache.engine.speed import PackedLinear, prepare, why_not_packed
from axolotl_cache.errors import ModelLoadError

DTYPES = [torch.bfloat16, torch.float32]
ROUNDING = {torch.bfloat16: 0.03, torch.float32: 1e-5}
ROWS = (1, 2, 3, 4, 5, 7, 16, 33, 100, 256)

pytestmark = pytest.mark.skipif(bool(why_not_packed(nn.Sequential(nn.Linear(8, 8)))), reason="no oneDNN here")


def can(dtype):
    if why_not_packed(nn.Sequential(nn.Linear(8, 8).to(dtype))):
        pytest.skip(f"this processor has no {dtype}")
    return dtype


def llama(dtype, **settings):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        **settings,
    )
    return LlamaForCausalLM(config).eval().to(can(dtype))


class Block(nn.Module):
    """Queries, keys and values of one input, and something else that is alone."""

    def __init__(self, width=576, bias=False):
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width // 3, bias=bias)
        self.v_proj = nn.Linear(width, width // 3, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x):
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x), self.o_proj(x)], -1)


def rows_that_differ(module, x):
    """How many rows are needed beside a row until it is other bits: the numbers of rows for which it is."""
    whole = module(x)
    return [few for few in ROWS if not torch.equal(module(x[:few]), whole[:few])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_a_row_is_the_same_bits_however_many_there_are(dtype, bias):
    torch.manual_seed(0)
    block = Block(1536, bias).to(can(dtype))
    x = torch.randn(256, 1536).to(dtype)
    plain = block(x)
    prepared = prepare(block, "packed")
    assert (prepared.packed, prepared.joined, prepared.left) == (4, 3, 0)
    assert rows_that_differ(block, x) == []
    assert torch.equal(block(x), plain) or not prepared.same_bits
    torch.testing.assert_close(block(x), plain, rtol=0, atol=ROUNDING[dtype])


@torch.inference_mode()
def test_a_layer_that_rounds_by_the_number_of_rows_stays_plain(monkeypatch):
    """The control: kernels that go another way for few rows are noticed, by the test and by `prepare`."""
    run = speed._Product._run

    def sloppy(product, x):
        out = run(product, x)
        return torch.nextafter(out, torch.full_like(out, torch.inf)) if x.shape[0] < 8 else out

    x = torch.randn(256, 576)
    with monkeypatch.context() as patch:
        patch.setattr(speed._Product, "_run", sloppy)
        block = Block()
        prepared = prepare(block, "packed")
        assert (prepared.how, prepared.packed, prepared.left, prepared.same_bits) == ("plain", 0, 4, True)
        assert not any(isinstance(layer, PackedLinear) for layer in block.modules())
    prepare(block, "packed")
    monkeypatch.setattr(speed._Product, "_run", sloppy)
    assert rows_that_differ(block, x) == [1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_a_model_answers_as_before(dtype):
    model = llama(dtype, attention_bias=True)
    tokens = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))
    plain = model(tokens).logits
    prepared = prepare(model, "packed")
    assert (prepared.packed, prepared.joined, prepared.left) == (2 * 7 + 1, 2 * 5, 0)
    packed = model(tokens).logits
    assert torch.equal(packed, plain) or not prepared.same_bits
    torch.testing.assert_close(packed, plain, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("kind", ["GPTNeoX", "Qwen3", "Phi3", "Gemma3", "Mixtral", "GPT2"])
@torch.inference_mode()
def test_other_models_answer_as_before(kind):
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind not in ("GPT2", "GPTNeoX"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    name = f"{kind}{'Text' if kind == 'Gemma3' else ''}Config"
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, name)(**sizes, **ends, intermediate_size=48)
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(
        config
    ).eval()
    tokens = torch.randint(1, 100, (1, 20), generator=torch.Generator().manual_seed(0))
    plain = model(tokens).logits
    prepared = prepare(model, "packed")
    # GPT-2's layers are of a kind of its own, so that only its head is packed.
    assert prepared.packed == 1 if kind == "GPT2" else prepared.packed > 4
    assert bool(prepared.joined) == (kind in ("Qwen3", "Gemma3", "Mixtral"))
    torch.testing.assert_close(model(tokens).logits, plain, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_siblings_may_be_asked_in_any_order_and_with_other_inputs_between():
    torch.manual_seed(0)
    plain, packed = Block(64), Block(64)
    packed.load_state_dict(plain.state_dict())
    prepare(packed, "packed")
    x, y = torch.randn(5, 64), torch.randn(2, 3, 64)
    for name, given in (("v", x), ("q", y), ("k", x), ("q", x), ("q", x), ("v", y), ("k", y), ("q", y[0, 0])):
        layer, expected = getattr(packed, f"{name}_proj"), getattr(plain, f"{name}_proj")(given)
        torch.testing.assert_close(layer(given), expected, rtol=0, atol=1e-5)
    assert packed(torch.randn(0, 64)).shape == plain(torch.randn(0, 64)).shape


@torch.inference_mode()
def test_nothing_is_held_when_all_siblings_have_had_their_part():
    block = Block(64)
    prepare(block, "packed")
    x = torch.randn(5, 64)
    gone = weakref.ref(x)
    block.q_proj(x)
    del x
    gc.collect()
    assert gone() is not None  # the control: the others are still to come
    block(torch.randn(5, 64))
    gc.collect()
    assert gone() is None


def test_a_packed_model_goes_by_the_same_digest_and_saves_the_same():
    model = llama(torch.float32, tie_word_embeddings=True)
    digest, tensors = digest_model(model), {name: t.clone() for name, t in model.state_dict().items()}
    prepare(model, "packed")
    packed = model.state_dict()
    assert digest_model(model) == digest
    assert list(packed) == list(tensors)
    assert all(torch.equal(packed[name], tensors[name]) for name in tensors)
    with torch.no_grad(), pytest.raises((KeyError, AttributeError)):
        model.lm_head.weight = nn.Parameter(torch.zeros(300, 96))


def test_adapters_stay_and_can_be_added_later():
    from peft import LoraConfig, get_peft_model

    def adapted(packed):
        torch.manual_seed(0)
        model = get_peft_model(llama(torch.float32), LoraConfig(target_modules=["q_proj", "down_proj"]))
        if packed:
            assert prepare(model, "packed").packed == 2 * 7 + 1
        torch.manual_seed(1)
        model.add_adapter("later", LoraConfig(target_modules=["v_proj", "up_proj"], init_lora_weights=False))
        return model.eval()

    tokens = torch.randint(300, (1, 20), generator=torch.Generator().manual_seed(0))
    plain, packed = adapted(False), adapted(True)
    answers = []
    for name in ("default", "later"):
        for model in (plain, packed):
            model.set_adapter(name)
        with torch.inference_mode():
            answers.append(packed(tokens).logits)
            torch.testing.assert_close(answers[-1], plain(tokens).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(*answers, atol=1e-3)
    assert type(packed.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"]) is nn.Linear


def test_says_why_nothing_can_be_packed():
    half = nn.Sequential(nn.Linear(8, 8, dtype=torch.float16))
    with pytest.raises(ModelLoadError, match="float16 on cpu"):
        prepare(half, "packed")
    with pytest.raises(ModelLoadError, match="on meta"):
        prepare(nn.Sequential(nn.Linear(8, 8, device="meta")), "packed")
    twice = nn.Sequential(nn.Linear(8, 8))
    prepare(twice, "packed")
    with pytest.raises(ModelLoadError, match="packed already"):
        prepare(twice, "packed")


def test_plain_changes_nothing():
    model = nn.Sequential(nn.Linear(8, 8))
    assert prepare(model, "plain") == speed.Prepared("plain")
    assert type(model[0]) is nn.Linear


def test_what_cannot_be_packed_is_left_and_counted():
    model = nn.ModuleDict({"narrow": nn.Linear(8, 8, dtype=torch.float16), "wide": nn.Linear(8, 8)})
    prepared = prepare(model, "packed")
    assert (prepared.packed, prepared.left) == (1, 1)
    assert type(model["narrow"]) is nn.Linear


@pytest.mark.model
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_the_real_model_answers_as_before(smollm2_folder, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=can(dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    tokens = tokenizer("The bank's help desk answers within a day, unless", return_tensors="pt").input_ids
    plain = model(tokens).logits
    prepared = prepare(model, "packed")
    assert (prepared.packed, prepared.joined, prepared.left) == (30 * 7 + 1, 30 * 5, 0)
    packed = model(tokens).logits
    assert torch.equal(packed, plain) or not prepared.same_bits
    assert torch.equal(packed.argmax(-1), plain.argmax(-1))
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-3 if dtype == torch.float32 else 0.5)
