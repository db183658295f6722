"""`generate` behind our tiers answers as `generate` alone: tokens, random numbers and streamer."""

import copy

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.live import LiveModel
from axolotl_cache.generate import CachedGenerate
from axolotl_cache.request import Served
from axolotl_cache.response import SmartInferenceCache

AS_AXOLOTL = {
    "repetition_penalty": 1.1,
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": 40,
    "do_sample": True,
    "use_cache": True,
    "return_dict_in_generate": True,
}


class Heard(BaseStreamer):
    """Keeps what a streamer is told."""

    def __init__(self):
        self.pieces = []

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.pieces.append("end")


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 500, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    return tmp_path_factory.mktemp("memo")


@pytest.fixture
def wrap(memo):
    """Return the tiers over a model's generate."""

    def make(model, *, max_cache_bytes=10**8, as_generate=True, **options):
        live = LiveModel(model, environment_tag="test", cache_version="")

        def open_engine():
            return Engine(
                model,
                device=model.device,
                context_length_tokens=live.context_length_tokens(),
                end_tokens=frozenset(),
                max_cache_bytes=max_cache_bytes,
                as_generate=as_generate,
                memo=memo,
            )

        options.setdefault("response", SmartInferenceCache(capacity=100))
        return CachedGenerate(live, open_engine, **options)

    return make


@pytest.fixture
def cached(tiny_model, wrap):
    return wrap(tiny_model)


def sampled(generate, ids, seed=7, **more):
    torch.manual_seed(seed)
    config = GenerationConfig(max_new_tokens=12, pad_token_id=0, eos_token_id=2, **AS_AXOLOTL)
    heard = Heard()
    result = generate(inputs=ids, generation_config=config, streamer=heard, **more)
    return result["sequences"].tolist(), heard.pieces, torch.get_rng_state()


def same(one, other):
    return one[:2] == other[:2] and torch.equal(one[2], other[2])


def test_sampled_calls_are_those_of_generate_cold_and_warm(tiny_model, cached):
    ids = prompt(213)
    alone = sampled(tiny_model.generate, ids)
    assert same(sampled(cached, ids), alone)
    assert same(sampled(cached, ids), alone)
    assert cached.totals.served == {Served.MISS: 1, Served.HIT_PREFIX: 1}
    assert cached.totals.cached_tokens >= 128
    other_seed = sampled(cached, ids, seed=8)
    assert other_seed[0] != alone[0]
    assert same(other_seed, sampled(tiny_model.generate, ids, seed=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_behind_the_same_beginning_reuses_it(tiny_model, wrap, dtype):
    """Up to the last whole 512 tokens, in which a token's bits do not depend on the prompt's length."""
    model = copy.deepcopy(tiny_model).to(dtype)
    cached = wrap(model, response=None)
    shared = prompt(560)
    for more in (20, 1, 31, 300):
        ids = torch.cat([shared, prompt(more, more)], dim=1)
        assert same(sampled(cached, ids), sampled(model.generate, ids))
        ask = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(cached(ids, **ask), model.generate(ids, **ask))
    assert cached.totals.served == {Served.MISS: 1, Served.HIT_PREFIX: 7}
    assert cached.totals.cached_tokens >= 7 * 512


def test_the_last_tokens_are_reused_for_prompts_of_the_same_length_alone(tiny_model, wrap):
    cached = wrap(tiny_model)
    shared = prompt(200)
    for more, found in ((20, 0), (31, 0), (20, 192)):
        before = cached.totals.cached_tokens
        ids = torch.cat([shared, prompt(more, 1)], dim=1)
        assert same(sampled(cached, ids), sampled(tiny_model.generate, ids))
        assert cached.totals.cached_tokens - before == found


def test_the_engines_own_ways_reuse_more(tiny_model, wrap):
    cached = wrap(tiny_model, as_generate=False)
    shared = prompt(160)
    sampled(cached, torch.cat([shared, prompt(20, 1)], dim=1))
    other = torch.cat([shared, prompt(31, 2)], dim=1)
    assert same(sampled(cached, other), sampled(tiny_model.generate, other))
    assert cached.totals.cached_tokens >= 128


def test_greedy_answers_are_served_again_and_the_streamer_is_driven(tiny_model, cached):
    ids = prompt(70)
    runs = []
    for generate in (tiny_model.generate, cached, cached):
        heard = Heard()
        result = generate(ids, max_new_tokens=8, do_sample=False, streamer=heard, pad_token_id=0)
        runs.append((result.tolist(), heard.pieces))
    assert runs[0] == runs[1] == runs[2]
    assert cached.totals.served == {Served.MISS: 1, Served.HIT_EXACT: 1}


def test_a_stored_answer_comes_in_the_form_that_this_caller_wants(cached):
    ids = prompt(40)
    plain = cached(input_ids=ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    as_dict = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    first, second = (cached(input_ids=ids, **as_dict) for _ in range(2))
    assert torch.equal(first["sequences"], plain)
    assert torch.equal(second["sequences"], plain)
    assert cached.totals.served[Served.HIT_EXACT] == 1


def test_other_settings_are_other_answers(cached):
    ids = prompt(40)
    short = cached(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    long = cached(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert long.shape[1] > short.shape[1]
    assert cached.totals.served[Served.HIT_EXACT] == 0


def test_weights_that_change_in_place_are_never_served_from_before(tiny_model, wrap):
    model = copy.deepcopy(tiny_model)
    cached = wrap(model)
    ids = prompt(100)
    ask = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = cached(ids, **ask)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(7, 0))
    after = cached(ids, **ask)
    assert not torch.equal(before, after)
    assert torch.equal(after, model.generate(ids, **ask))
    assert cached.totals.served == {Served.MISS: 2}


# peft asks transformers for an attribute by its old name
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_an_adapter_that_is_switched_off_has_answers_of_its_own(tiny_model, wrap):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(tiny_model), config).eval()
    cached = wrap(model)
    ids = prompt(100)
    ask = {"input_ids": ids, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with_adapter = cached(**ask)
    with model.disable_adapter():
        without = cached(**ask)
    assert torch.equal(without, tiny_model.generate(**ask))
    assert torch.equal(with_adapter, cached(**ask))
    assert cached.totals.served == {Served.MISS: 2, Served.HIT_EXACT: 1}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"past_key_values": DynamicCache()}, "keys and values of its own"),
        ({"num_beams": 2}, "beam search"),
        ({"num_return_sequences": 2, "do_sample": True}, "several sequences"),
        ({"use_cache": False}, "use_cache"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation"),
        ({"attention_mask": torch.tensor([[0] + [1] * 39])}, "attention mask"),
        ({"position_ids": torch.arange(40)[None] + 3}, "positions"),
    ],
)
def test_what_plain_decoding_cannot_answer_goes_to_generate(tiny_model, cached, more, reason):
    ids = prompt(40)
    ask = {"max_new_tokens": 4, "pad_token_id": 0} | more
    torch.manual_seed(3)
    found = cached(ids, **ask)
    torch.manual_seed(3)
    if "past_key_values" in ask:
        ask["past_key_values"] = DynamicCache()
    assert torch.equal(found, tiny_model.generate(ids, **ask))
    ((said, count),) = cached.totals.passed_on.items()
    assert reason in said
    assert count == 1
    assert not cached.totals.served


def test_a_batch_goes_to_generate(tiny_model, cached):
    ids = torch.cat([prompt(20), prompt(20, 1)])
    ask = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(cached(ids, **ask), tiny_model.generate(ids, **ask))
    assert next(iter(cached.totals.passed_on)).startswith("several sequences")


def test_padding_without_a_mask_goes_to_generate(tiny_model, cached):
    ids = prompt(40)
    ids[0, :3] = 0
    ask = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    assert torch.equal(cached(ids, **ask), tiny_model.generate(ids, **ask))
    assert "padding" in next(iter(cached.totals.passed_on))


def test_a_stopping_criterion_of_the_caller_goes_to_generate(tiny_model, cached):
    ids = prompt(40)
    ask = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    ask["stopping_criteria"] = StoppingCriteriaList([Never()])
    assert torch.equal(cached(ids, **ask), tiny_model.generate(ids, **ask))
    assert "Never" in next(iter(cached.totals.passed_on))


def test_a_processor_of_the_caller_works_and_its_answers_are_not_stored(tiny_model, cached):
    ids = prompt(100)
    ask = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    plain = cached(ids, **ask)
    ask["logits_processor"] = LogitsProcessorList([SuppressTokensLogitsProcessor([int(plain[0, 100])])])
    for _ in range(2):
        answer = cached(ids, **ask)
        assert torch.equal(answer, tiny_model.generate(ids, **ask))
        assert not torch.equal(answer, plain)
    assert cached.totals.served == {Served.MISS: 1, Served.HIT_PREFIX: 2}


def test_settings_that_our_sampler_does_not_know_work(tiny_model, cached):
    ids = prompt(100)
    ask = {
        "max_new_tokens": 12,
        "do_sample": True,
        "pad_token_id": 0,
        "typical_p": 0.7,
        "epsilon_cutoff": 1e-4,
    }
    ask |= {"no_repeat_ngram_size": 2, "min_new_tokens": 12, "eos_token_id": list(range(2, 400))}
    for _ in range(2):
        runs = []
        for generate in (tiny_model.generate, cached):
            torch.manual_seed(5)
            runs.append(generate(ids, **ask))
        assert torch.equal(*runs)
    assert not cached.totals.passed_on


def test_the_end_token_is_part_of_the_answer(tiny_model, cached):
    ids = prompt(50)
    ask = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    free = tiny_model.generate(ids, **ask)[0, 50:].tolist()
    ask["eos_token_id"] = [2, free[4]]
    for _ in range(2):
        runs = []
        for generate in (tiny_model.generate, cached):
            heard = Heard()
            runs.append((generate(ids, streamer=heard, **ask)[0, 50:].tolist(), heard.pieces))
        assert runs[0] == runs[1]
    assert len(runs[0][0]) < 20
    assert runs[0][0][-1] == free[4]


def test_the_switches_turn_a_tier_off_at_run_time(cached):
    ids = prompt(100)
    ask = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cached.response_enabled = cached.prefix_enabled = False
    for _ in range(2):
        cached(ids, **ask)
    assert cached.totals.served == {Served.MISS: 2}


def test_the_bound_on_keys_and_values_holds(tiny_model, wrap):
    block_bytes = 2 * 3 * 2 * 16 * 4 * 32  # keys and values, layers, heads, head_dim, float32, tokens
    cached = wrap(tiny_model, max_cache_bytes=5 * block_bytes, response=None)
    for seed in range(4):
        sampled(cached, prompt(300, seed))
        assert cached._engine.held_bytes <= 5 * block_bytes
    assert cached._engine.prefix_stats.evicted_blocks


def test_what_is_pinned_is_there_for_the_first_call(tiny_model, wrap):
    ids = prompt(600)
    cached = wrap(tiny_model, response=None, pinned=lambda: [ids[0, :128].tolist()])
    assert same(sampled(cached, ids), sampled(tiny_model.generate, ids))
    assert cached.totals.cached_tokens == 128
    assert cached._engine.prefix_stats.held_bytes // cached._engine._pool.page_bytes == 600 // 32


def test_a_model_in_training_mode_goes_to_generate(tiny_model, cached):
    tiny_model.train()
    try:
        cached(prompt(10), max_new_tokens=2, do_sample=False, pad_token_id=0)
    finally:
        tiny_model.eval()
    assert cached.totals.passed_on == {"the model is in training mode": 1}


def test_a_model_that_was_cast_after_the_first_call_gets_another_engine(tiny_model, wrap):
    model = copy.deepcopy(tiny_model)
    cached = wrap(model)
    ids = prompt(100)
    ask = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached(ids, **ask)
    model.to(torch.bfloat16)
    cached(ids, **ask)
    model.to(torch.float32)  # no longer the weights of the first call
    assert torch.equal(cached(ids, **ask), model.generate(ids, **ask))
    assert cached.totals.served == {Served.MISS: 3}


def test_a_prompt_with_no_room_behind_it_goes_to_generate(tiny_model, cached):
    ids = prompt(2040)
    ask = {"max_new_tokens": 20, "max_length": None, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(cached(ids, **ask), tiny_model.generate(ids, **ask))
    assert "2,048 positions" in next(iter(cached.totals.passed_on))


def test_what_generate_refuses_is_refused_alike(cached):
    with pytest.raises(ValueError, match="max_new_tokens"):
        cached(prompt(10), max_new_tokens=0)
    with pytest.raises(ValueError, match="max_new_token"):
        cached(prompt(10), max_new_token=3)


def test_a_streamer_that_fails_leaves_nothing_running_or_stored(tiny_model, cached):
    class Broken(Heard):
        def put(self, value):
            super().put(value)
            if len(self.pieces) == 3:
                raise OSError("the pipe is closed")

    ids = prompt(100)
    ask = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with pytest.raises(OSError, match="pipe"):
        cached(ids, streamer=Broken(), **ask)
    assert cached._engine.running_requests == 0
    assert torch.equal(cached(ids, **ask), tiny_model.generate(ids, **ask))
    assert cached.totals.served[Served.HIT_EXACT] == 0


def test_a_broken_block_shows(tiny_model, cached):
    """The control: what these comparisons rest on is the keys and values that are reused."""
    ids = prompt(213)
    alone = sampled(tiny_model.generate, ids)
    sampled(cached, ids)
    for layer in cached._engine._pool.layers:
        for held in cached._engine._pool.tensors(layer):
            held.mul_(-3)
    assert not same(sampled(cached, ids), alone)
