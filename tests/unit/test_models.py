"""Families of models with random weights: answers as transformers' own, and hits equal to misses."""

import pytest
import torch
import transformers

from axolotl_cache.engine import exactness
from axolotl_cache.engine.engine import Engine
from axolotl_cache.request import Sampling

VOCABULARY = 300
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 2048,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WITHOUT_GROUPS = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}

FAMILIES = {
    # name: (class, configuration, can its prefixes be reused)
    "llama": ("LlamaForCausalLM", SMALL, True),
    "qwen2": ("Qwen2ForCausalLM", SMALL, True),
    "qwen3": ("Qwen3ForCausalLM", SMALL | {"head_dim": 16}, True),
    "mistral-sliding": ("MistralForCausalLM", SMALL | {"sliding_window": 100}, True),
    "gemma3-mixed-windows": (
        "Gemma3ForCausalLM",
        SMALL
        | {
            "head_dim": 16,
            "sliding_window": 96,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        True,
    ),
    "phi3": ("Phi3ForCausalLM", SMALL, True),
    "phi3-longrope": (
        "Phi3ForCausalLM",
        SMALL
        | {
            "original_max_position_embeddings": 1200,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 1200,
            },
        },
        True,
    ),
    "falcon-alibi": (
        "FalconForCausalLM",
        {k: SMALL[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
        | {"alibi": True, "bos_token_id": 1, "eos_token_id": 2},
        True,
    ),
    "openai-gpt": ("OpenAIGPTLMHeadModel", GPT2, False),
    "gpt-neox": ("GPTNeoXForCausalLM", WITHOUT_GROUPS, True),
    "gpt2": ("GPT2LMHeadModel", GPT2, True),
    "mixtral-experts": ("MixtralForCausalLM", SMALL | {"num_local_experts": 4, "sliding_window": None}, True),
    "mamba": (
        "MambaForCausalLM",
        {k: SMALL[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")} | {"state_size": 4},
        False,
    ),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    name, options, reusable = FAMILIES[request.param]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**options)).eval()
    model.generation_config.pad_token_id = 0
    return model, reusable


@pytest.fixture(scope="module")
def engine(family):
    model, _ = family
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "_CASES", ((700, (672, 96)), (333, (320, 64)), (45, (32,))))  # for speed
        return Engine(
            model,
            device=torch.device("cpu"),
            context_length_tokens=2048,
            end_tokens=frozenset(),
            max_cache_bytes=10**8,
        )


def prompt(length, seed=0):
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(engine, tokens, **options):
    generation = engine.generate(tokens, Sampling(max_new_tokens=10), namespace="n", **options)
    return list(generation), generation.cached_tokens


@pytest.mark.parametrize("length", [7, 130, 1100])
def test_answers_as_transformers(family, engine, length):
    model, _ = family
    tokens = prompt(length)
    ids = torch.tensor([tokens])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=None
    )
    assert run(engine, tokens, reuse=False)[0] == theirs[0, length:].tolist()


def test_a_hit_equals_a_miss(family, engine):
    _, reusable = family
    assert engine.can_reuse is reusable
    shared = prompt(1100, seed=1)
    run(engine, shared)
    for kept, rest in ((1100, 1), (1100, 33), (700, 5), (300, 400), (129, 20)):
        tokens = [*shared[:kept], *prompt(rest, seed=kept + rest)]
        off, _ = run(engine, tokens, reuse=False)
        on, cached = run(engine, tokens)
        assert on == off
        assert (cached > 0) is reusable


def test_keys_and_values_of_a_hit_are_those_of_a_miss(family, engine):
    if engine._slot is None:
        return
    tokens = prompt(900, seed=3)
    slot, layout = engine._slot, engine.exactness.layout

    def compute(blocks):
        slot.remember([])
        engine._begin(slot, blocks, len(tokens))
        logits = engine._forward.prefill(slot, tokens, layout).clone()
        return logits, [t[:, :, : len(tokens)].clone() for t in slot._tensors]

    logits, kv = compute([])
    run(engine, tokens)
    match = engine._tree.match(tokens, namespace="n")
    engine._tree.release(match)
    for blocks in (1, len(match.payloads)):
        again, kv_again = compute(match.payloads[:blocks])
        assert torch.equal(logits, again)
        assert all(torch.equal(a, b) for a, b in zip(kv, kv_again, strict=True))
