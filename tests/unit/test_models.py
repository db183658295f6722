"""Families of models with random weights: answers as transformers' own, hits equal to misses.

`FAMILIES` is also the table in docs/models.md.
"""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from axolotl_cache.engine import exactness
from axolotl_cache.engine.adapters import Adapters
from axolotl_cache.engine.digest import DigestMemo
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.exactness import probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.pool import KVPool, read_layout
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS, Namespace
from axolotl_cache.request import Sampling

CPU = torch.device("cpu")
VOCABULARY = 300
CONTEXT_TOKENS = 2048
ANSWER_TOKENS = 10
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT_TOKENS,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WIDE = SHAPE | {"intermediate_size": 96}
SMALL = WIDE | {"num_key_value_heads": 2, "head_dim": 16}
GPT = {
    "vocab_size": VOCABULARY,
    "n_positions": CONTEXT_TOKENS,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = {"sliding_window": 96, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


def heads(count: int, shared_by: int, dim: int = 16) -> dict[str, int]:
    """Options for query heads of which so many share their keys and values."""
    return {
        "hidden_size": count * dim,
        "num_attention_heads": count,
        "num_key_value_heads": count // shared_by,
        "head_dim": dim,
    }


@dataclass(frozen=True)
class Family:
    """One kind of model, and what is expected of it."""

    title: str
    """Its row in docs/models.md; several may share one."""
    model: str
    options: dict[str, Any] = field(repr=False)
    mode: str = "invariant"
    window: int | None = None
    """The sliding window of the first layer."""
    lora: dict[str, Any] | None = field(default_factory=lambda: {"target_modules": "all-linear"})
    """What the test's adapter acts on; None where no adapter is served."""
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)


OF_GPT = {"target_modules": "all-linear", "fan_in_fan_out": True}
OF_ATTENTION = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
OF_EXPERTS = OF_ATTENTION | {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
BOTH = (torch.float32, torch.bfloat16)
LLAMA = "Llama, with groups of 1, 2, 4 and 8 heads, with 3 and with 9 heads"

FAMILIES = {
    "llama-groups-of-1": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(8, 1, 8)),
    "llama-groups-of-2": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(8, 2, 8), dtypes=BOTH),
    "llama-groups-of-4": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(8, 4, 8)),
    "llama-groups-of-8": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(8, 8, 8)),
    "llama-3-heads": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(3, 3), dtypes=BOTH),
    "llama-9-heads": Family(LLAMA, "LlamaForCausalLM", SMALL | heads(9, 3)),
    "qwen2": Family("Qwen2", "Qwen2ForCausalLM", SMALL),
    "qwen2-mixed-windows": Family(
        "Qwen2 with sliding windows",
        "Qwen2ForCausalLM",
        SMALL | MIXED | {"use_sliding_window": True},
        window=96,
    ),
    "qwen3": Family("Qwen3", "Qwen3ForCausalLM", SMALL, dtypes=BOTH),
    "mistral-sliding": Family(
        "Mistral (sliding window)", "MistralForCausalLM", SMALL | {"sliding_window": 100}, window=100
    ),
    "gemma2-softcap": Family(
        "Gemma 2 (capped scores, mixed windows)", "Gemma2ForCausalLM", SMALL | MIXED, "alone", window=96
    ),
    "gemma3-mixed-windows": Family(
        "Gemma 3 (mixed windows)", "Gemma3ForCausalLM", SMALL | MIXED, window=96, dtypes=BOTH
    ),
    "phi3": Family("Phi-3", "Phi3ForCausalLM", SMALL),
    "phi3-longrope": Family(
        "Phi-3 with LongRoPE, up to the length it is first trained for",
        "Phi3ForCausalLM",
        SMALL
        | {
            "original_max_position_embeddings": 1200,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": CONTEXT_TOKENS / 1200,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 1200,
            },
        },
    ),
    "falcon": Family("Falcon, rotary or ALiBi", "FalconForCausalLM", SHAPE, "alone"),
    "falcon-alibi": Family("Falcon, rotary or ALiBi", "FalconForCausalLM", SHAPE | {"alibi": True}, "alone"),
    "gpt-neox": Family("GPT-NeoX (Pythia)", "GPTNeoXForCausalLM", WIDE),
    "gpt2": Family("GPT-2", "GPT2LMHeadModel", GPT, lora=OF_GPT),
    "gptj": Family("GPT-J", "GPTJForCausalLM", GPT | {"rotary_dim": 8}, "alone"),
    "stablelm": Family("StableLM", "StableLmForCausalLM", WIDE | {"num_key_value_heads": 2}),
    "cohere": Family("Cohere", "CohereForCausalLM", WIDE | {"num_key_value_heads": 2}),
    "mixtral-experts": Family(
        "Mixtral (experts)",
        "MixtralForCausalLM",
        SMALL | {"num_local_experts": 4, "sliding_window": None},
        "grid",
        lora=OF_EXPERTS,
    ),
    "qwen3-experts": Family(
        "Qwen3-MoE (experts)",
        "Qwen3MoeForCausalLM",
        SMALL | EXPERTS | {"num_experts": 4},
        "grid",
        lora=OF_EXPERTS,
    ),
    "gpt-oss-sinks": Family(
        "GPT-OSS (experts, attention sinks, mixed windows)",
        "GptOssForCausalLM",
        SMALL
        | MIXED
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "alone",
        window=96,
    ),
    "deepseek-latent": Family(
        "DeepSeek-V3 (latent attention, experts)",
        "DeepseekV3ForCausalLM",
        WIDE
        | EXPERTS
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        # 5.14 gives its attention a shape that ours can stand in for.
        "grid" if transformers.__version__.startswith("5.14.") else "alone",
        lora={"target_modules": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]},
    ),
    "openai-gpt": Family(
        "OpenAI GPT (keeps no keys and values)", "OpenAIGPTLMHeadModel", GPT, "none", lora=OF_GPT
    ),
    "mamba": Family(
        "Mamba (recurrent state)",
        "MambaForCausalLM",
        {k: SHAPE[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")} | {"state_size": 4},
        "none",
        lora={"target_modules": ["in_proj", "x_proj"]},
    ),
    "qwen3-next-hybrid": Family(
        "Qwen3-Next (linear attention between layers of attention)",
        "Qwen3NextForCausalLM",
        SMALL
        | EXPERTS
        | LINEAR_ATTENTION
        | {
            "num_experts": 4,
            "shared_expert_intermediate_size": 32,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "none",
        lora={"target_modules": ["in_proj_qkvz", "out_proj", "q_proj", "o_proj"]},
    ),
}

STEPS = {"invariant": "32 tokens", "grid": "128 tokens", "alone": "128 tokens", "none": "nothing"}
PROMISES = {
    "invariant": "every bit, in any company; answers are reused, too",
    "grid": "every bit of a prompt; of the whole answer with `strict`",
    "alone": "every bit; requests are computed one at a time",
    "none": "transformers' own answer, uncached, with a warning at the start",
}
HEADINGS = ("Family", "Mode", "Reused in steps of", "LoRA", "A hit gives what a miss gives")


def table() -> str:
    """Return the table of docs/models.md."""
    rows = [
        (f.title, f.mode, STEPS[f.mode], "no" if f.lora is None else "yes", PROMISES[f.mode])
        for f in FAMILIES.values()
    ]
    lines = [HEADINGS, ("---",) * len(HEADINGS), *dict.fromkeys(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


CASES = [(name, dtype) for name, family in FAMILIES.items() for dtype in family.dtypes]


class Subject(NamedTuple):
    """A family's model, and one engine for all tests of it."""

    family: Family
    model: Any
    context_tokens: int
    adapters: Adapters
    engine: Engine


def make_model(family: Family, dtype: torch.dtype = torch.float32) -> Any:
    kind = getattr(transformers, family.model)
    torch.manual_seed(0)
    model = kind(kind.config_class(**family.options)).eval()
    with torch.no_grad():
        # Large ones, so that attention looks somewhere and answers are not one token again and again.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25)
    model.generation_config.pad_token_id = 0
    return model.to(dtype)


@contextmanager
def short_probe():
    """The exactness probe on shorter prompts: these models are small, and many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "_PROMPT_TOKENS", 333)
        patch.setattr(exactness, "_CUTS", ((100, 13, 200), (300, 1, 1, 1, 3, 2)))
        patch.setattr(exactness, "_COMPANY", (40, 150))
        yield


def make_engine(model: Any, context_tokens: int = CONTEXT_TOKENS, **options: Any) -> Engine:
    with short_probe():
        return Engine(
            model,
            device=CPU,
            context_length_tokens=context_tokens,
            end_tokens=frozenset(),
            max_cache_bytes=10**8,
            **{"strict": True} | options,
        )


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{str(case[1])[6:]}")
def subject(request, tmp_path_factory):
    name, dtype = request.param
    family = FAMILIES[name]
    model = make_model(family, dtype)
    namespace = Namespace(weights=name, adapter="", tokenizer="t", chat_template="c", dtype=str(dtype))
    adapters = Adapters(model, namespace, memo=DigestMemo(tmp_path_factory.mktemp("memo")))
    # As the loader does it: behind this length such a model turns all positions otherwise.
    context = family.options.get("original_max_position_embeddings", CONTEXT_TOKENS)
    return Subject(family, model, context, adapters, make_engine(model, context, adapters=adapters))


@pytest.fixture(scope="module")
def machine_mode():
    """The mode that a plain model has on this machine: where its kernels differ, it is "grid" for all."""
    return make_engine(make_model(FAMILIES["llama-groups-of-2"])).exactness.mode


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(engine: Engine, tokens, **options):
    options = {"namespace": "n"} | options
    generation = engine.generate(tokens, Sampling(max_new_tokens=ANSWER_TOKENS), **options)
    return list(generation), generation.cached_tokens


def own_answer(model: Any, tokens) -> list[int]:
    """The answer of transformers' (or PEFT's) own generate."""
    ids = torch.tensor([tokens])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(tokens) :].tolist()


@dataclass
class Seen:
    """What was computed for one request."""

    generation: Any = None
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    """Logits by position; where a draft was wrong, those that were computed last."""
    pages: list[torch.Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Of the prompt and the answer: what was computed behind them is of drafts that were wrong."""
        return self.generation.prompt_tokens + len(self.generation.tokens)

    @property
    def logits(self) -> list[torch.Tensor]:
        return [self.rows[at] for at in sorted(self.rows) if at < self.tokens]

    @property
    def kv(self) -> list[torch.Tensor]:
        """Of its tokens when it ended, (tokens, layers, heads, dim), twice for each kind of layer."""
        return [each[: self.tokens] for each in self.pages]


@contextmanager
def watching(engine: Engine):
    """Collect what an engine computes, by the generation that it is for."""
    seen: dict[int, Seen] = defaultdict(Seen)
    compute = engine._forward.run

    def run(chunks, layout):
        found = compute(chunks, layout)
        of_pages = {id(r.table.pages): r.generation for r in engine._scheduler.running if r.table}
        for chunk, logits in zip(chunks, found, strict=True):
            generation = of_pages[id(chunk.pages)]
            mine = seen[id(generation)]
            mine.generation = generation
            if len(logits):
                stop = chunk.start + len(chunk.tokens)
                mine.rows |= zip(range(stop - len(logits), stop), logits.clone(), strict=True)
                mine.pages = read_kv(engine, chunk)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._forward, "run", run)
        yield seen


def read_kv(engine: Engine, chunk) -> list[torch.Tensor]:
    """Copy a request's keys and values out of its pages."""
    pages = [engine._pool.read(page) for page in chunk.pages]
    stop = chunk.start + len(chunk.tokens)
    return [torch.cat([t.movedim(2, 0) for t in same])[:stop] for same in zip(*pages, strict=True)]


def observe(engine: Engine, tokens, **options):
    """Run one request; return its answer, what was computed for it, and how much of it was cached."""
    with watching(engine) as seen:
        answer, cached = run(engine, tokens, **options)
    (mine,) = seen.values()
    return answer, mine, cached


def same_bits(one: Seen, other: Seen) -> bool:
    return len(one.logits) == len(other.logits) and all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip([*one.logits, *one.kv], [*other.logits, *other.kv], strict=True)
    )


# What is expected of every family


def test_the_mode_is_the_expected_one(subject, machine_mode):
    expected = subject.family.mode
    allowed = {expected, machine_mode} if expected == "invariant" else {expected}
    assert subject.engine.exactness.mode in allowed, subject.engine.exactness.reason
    assert subject.engine.exactness.reason
    assert subject.engine.can_reuse is (expected != "none")


@pytest.mark.parametrize("length", [7, 130, 1100])
def test_answers_as_transformers(subject, length):
    tokens = prompt(length)
    if subject.model.dtype == torch.float32:
        expected = own_answer(subject.model, tokens)
        assert run(subject.engine, tokens, reuse=False)[0] == expected
        assert length < 1000 or len(set(expected)) > 2, "or it shows little"
        return
    # In bfloat16 transformers itself answers now this, now that, by how long a call is.
    _, mine, _ = observe(subject.engine, tokens, reuse=False)
    with torch.inference_mode():
        theirs = subject.model(input_ids=torch.tensor([tokens])).logits[0, -1].float()
    assert (mine.logits[0].float() - theirs).square().mean().sqrt() < 0.1 * theirs.std()


def test_a_hit_equals_a_miss(subject):
    engine = subject.engine
    shared = prompt(1100, seed=1)
    first, _ = run(engine, shared)
    if not engine.can_reuse:
        assert run(engine, shared) == (first, 0)
        return
    for kept, rest in ((1100, 1), (1060, 45), (700, 405), (129, 20)):
        tokens = [*shared[:kept], *prompt(rest, seed=kept + rest)]
        off, miss, _ = observe(engine, tokens, reuse=False)
        on, hit, cached = observe(engine, tokens)
        assert cached == kept // engine.block_size * engine.block_size
        assert on == off
        assert same_bits(hit, miss)


def test_the_next_turn_equals_a_miss(subject):
    """Behind an answer: where the mode promises it, what was decoded is reused as it is."""
    engine = subject.engine
    if not engine.can_reuse:
        return  # see above
    first = prompt(1147, seed=2)
    answer, _ = run(engine, first)
    tokens = [*first, *answer, *prompt(20, seed=3)]
    off, miss, _ = observe(engine, tokens, reuse=False)
    on, hit, cached = observe(engine, tokens)
    assert cached == (1152 if engine.exactness.mode == "invariant" else 1024)
    assert on == off
    assert same_bits(hit, miss)


def test_a_corrupted_page_is_noticed(subject):
    """The control: if this passed with wrong keys and values, the tests above could not fail."""
    engine = subject.engine
    if not engine.can_reuse:
        return  # there are no pages
    tokens = prompt(1100, seed=4)
    _, miss, _ = observe(engine, tokens, reuse=False)
    run(engine, tokens, namespace="corrupted")
    match = engine._cache.tree.match(tokens, namespace="corrupted")
    engine._cache.tree.release(match)
    keys, _ = engine._pool.tensors(0)
    at = (0, match.payloads[-1].index, engine.block_size - 1)  # near the end, where every window sees it
    keys[at] *= -1
    _, hit, cached = observe(engine, tokens, namespace="corrupted")
    assert cached == match.tokens
    assert not torch.equal(hit.logits[0], miss.logits[0])
    keys[at] *= -1
    assert same_bits(observe(engine, tokens, namespace="corrupted")[1], miss)


def send(engine: Engine, tokens, **options):
    options = {"namespace": "n"} | options
    return engine.generate(tokens, Sampling(max_new_tokens=ANSWER_TOKENS), **options)


def test_answers_in_company_are_those_alone(subject):
    engine = subject.engine
    shared = prompt(1060 if engine.can_reuse else 100, seed=5)
    prompts = [[*shared, *prompt(40, 6)], [*shared, *prompt(5, 7)], prompt(333, 8), prompt(7, 9)]
    if not engine.can_reuse:
        alone = [run(engine, tokens)[0] for tokens in prompts]
        assert [list(generation) for generation in [send(engine, tokens) for tokens in prompts]] == alone
        return
    alone, expected, _ = zip(*[observe(engine, tokens, reuse=False) for tokens in prompts], strict=True)
    with watching(engine) as seen:
        together = [send(engine, tokens, namespace="company") for tokens in prompts]
        assert [list(generation) for generation in together] == list(alone)
    assert together[1].cached_tokens == 1060 // engine.block_size * engine.block_size
    assert all(same_bits(seen[id(g)], e) for g, e in zip(together, expected, strict=True))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.mode == "grid"])
def test_on_the_grid_company_leaves_the_prompt_alone_without_strict(name):
    """Decodes share calls there, and may round otherwise; prompts never do."""
    engine = make_engine(make_model(FAMILIES[name]), strict=False)
    prompts = [prompt(1100, 13), prompt(333, 14), prompt(40, 15)]
    expected = [observe(engine, tokens, reuse=False)[1] for tokens in prompts]
    with watching(engine) as seen:
        together = [send(engine, tokens, reuse=False) for tokens in prompts]
        for generation in together:
            list(generation)
    for generation, tokens, alone in zip(together, prompts, expected, strict=True):
        mine = seen[id(generation)]
        assert torch.equal(mine.logits[0], alone.logits[0])
        assert all(
            torch.equal(a[: len(tokens)], b[: len(tokens)]) for a, b in zip(mine.kv, alone.kv, strict=True)
        )


# Sliding windows


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.window] + ["qwen3"])
def test_a_window_ends_where_it_should(name):
    """The second layer's keys know of the tokens in the first layer's window, and of no other."""
    family = FAMILIES[name]
    engine = make_engine(make_model(family))
    tokens, window = prompt(1100, seed=10), family.window or 96
    _, before, _ = observe(engine, tokens, reuse=False)
    cached_until = 900
    for distance, is_seen in (
        (window - 1, True),
        (window, family.window is None),
        (1000, family.window is None),
    ):
        at = 1099 - distance
        changed = [*tokens[:at], (tokens[at] + 1) % 297 + 3, *tokens[at + 1 :]]
        run(engine, changed[:cached_until], namespace=str(distance))
        for options in ({"reuse": False}, {"namespace": str(distance)}):
            _, after, _ = observe(engine, changed, **options)
            # keys of the last token of the prompt, in the second layer
            assert torch.equal(after.kv[0][1099, 1], before.kv[0][1099, 1]) is not is_seen


# Adapters


@pytest.fixture(scope="module")
def adapter_folder(subject, tmp_path_factory):
    """A LoRA with random weights, as PEFT saves it."""
    torch.manual_seed(3)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=24, init_lora_weights=False, **subject.family.lora
    )
    folder = tmp_path_factory.mktemp("adapter")
    # Told not to save embeddings: PEFT before 0.21 asks a hub whether to, and warns where there is none.
    get_peft_model(make_model(subject.family), config).save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_adapter_answers_as_in_peft_beside_the_base(subject, adapter_folder):
    engine = subject.engine
    adapter = subject.adapters.load("random", adapter_folder)
    tokens, other = prompt(1100 if engine.can_reuse else 200, seed=11), prompt(333, seed=12)
    base = [run(engine, t, reuse=False)[0] for t in (tokens, other)]
    together = [
        send(engine, t, namespace=namespace, adapter=a)
        for t in (tokens, other)
        for namespace, a in (("base", None), ("adapted", adapter))
    ]
    answers = [list(generation) for generation in together]
    assert answers[0::2] == base
    assert answers[1] != base[0], "or the adapter does nothing"
    if subject.model.dtype == torch.float32:
        adapted = PeftModel.from_pretrained(make_model(subject.family), str(adapter_folder)).eval()
        assert answers[1::2] == [own_answer(adapted, t) for t in (tokens, other)]
    if not engine.can_reuse:
        return
    for t in (tokens, [*tokens[:700], *other]):
        _, miss, _ = observe(engine, t, reuse=False, adapter=adapter)
        _, hit, cached = observe(engine, t, namespace="adapted", adapter=adapter)
        assert cached
        assert same_bits(hit, miss)
    assert run(engine, tokens, namespace="base")[0] == base[0]


# What measuring finds out


def probed(model: Any):
    forward = Forward(model, KVPool(read_layout(model, CPU), BLOCK_SIZE_TOKENS), CONTEXT_TOKENS)
    with short_probe():
        return probe(forward, None)


def test_attention_outside_of_the_interface_is_noticed(monkeypatch):
    """A model that attends by itself would be right in one call, and blind to what is cached in the next."""
    from transformers.models.llama import modeling_llama

    class Own:
        @staticmethod
        def get_interface(*_):
            return lambda module, query, key, value, mask, scaling, **_: (
                torch.nn.functional.scaled_dot_product_attention(
                    query,
                    key.repeat_interleave(module.num_key_value_groups, 1),
                    value.repeat_interleave(module.num_key_value_groups, 1),
                    attn_mask=mask,
                    is_causal=mask is None and query.shape[2] > 1,
                    scale=scaling,
                ).transpose(1, 2),
                None,
            )

    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", Own)
    result = probed(make_model(FAMILIES["llama-groups-of-2"]))
    assert result.mode == "alone"
    assert "a way of its own" in result.reason


def test_windows_longer_than_the_probe_are_compared_with_the_masks(monkeypatch):
    from transformers.models.mistral import modeling_mistral

    family = FAMILIES["mistral-sliding"]
    long = Family("", family.model, family.options | {"sliding_window": 1000}, window=1000)
    assert probed(make_model(long)).mode == "invariant"

    class Silent:
        """Hands on no window, as a model's own code may: transformers' sdpa goes by the mask."""

        @staticmethod
        def get_interface(name, default):
            attend = transformers.AttentionInterface._global_mapping[name]
            return lambda *args, sliding_window, **named: attend(*args, **named)

    monkeypatch.setattr(modeling_mistral, "ALL_ATTENTION_FUNCTIONS", Silent)
    result = probed(make_model(long))
    assert result.mode == "alone"
    assert "[1000]" in result.reason


def test_keys_changed_after_they_were_cached_are_noticed(monkeypatch):
    from transformers.models.llama import modeling_llama

    original = modeling_llama.ALL_ATTENTION_FUNCTIONS

    class Scaled:
        @staticmethod
        def get_interface(*names):
            attend = original.get_interface(*names)
            return lambda module, query, key, *rest, **named: attend(module, query, key * 0.5, *rest, **named)

    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", Scaled)
    result = probed(make_model(FAMILIES["llama-groups-of-2"]))
    assert result.mode == "alone"
    assert "other keys and values" in result.reason


def test_a_state_that_no_cache_holds_is_noticed():
    """What the layers remember beside keys and values is missing behind a cached prefix."""
    model = make_model(FAMILIES["llama-groups-of-2"])

    def add_mean(module, args, out):
        return out + out.cumsum(1) / torch.arange(1, out.shape[1] + 1)[:, None]

    model.model.layers[0].mlp.register_forward_hook(add_mean)
    result = probed(model)
    assert result.mode == "none"
    assert result.reason
