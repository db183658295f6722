"""The engine on a model with random weights: reuse, bounds, sampling, misuse."""

import threading

import pytest
import torch
from transformers import GenerationConfig

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.kv import KVBlock
from axolotl_cache.errors import CapacityError, RequestError
from axolotl_cache.request import Sampling

CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=12)


def make_engine(model, max_cache_bytes=10**8, **options) -> Engine:
    return Engine(
        model,
        device=CPU,
        context_length_tokens=model.config.max_position_embeddings,
        end_tokens=frozenset({2}),
        max_cache_bytes=max_cache_bytes,
        **options,
    )


@pytest.fixture(scope="module")
def probed(tiny_model, tmp_path_factory):
    memo = tmp_path_factory.mktemp("memo")
    return lambda **options: make_engine(tiny_model, memo=memo, **options)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(engine: Engine, tokens, sampling=GREEDY, **options):
    generation = engine.generate(tokens, sampling, namespace=options.pop("namespace", "n"), **options)
    assert list(generation) == generation.tokens
    return generation


def test_the_second_time_whole_blocks_are_reused(probed):
    engine = probed()
    block = engine.block_size
    tokens = prompt(5 * block + 7)
    first, second = run(engine, tokens), run(engine, tokens)
    assert (first.cached_tokens, second.cached_tokens) == (0, 5 * block)
    assert first.tokens == second.tokens
    assert engine.stats.prefill_tokens == len(tokens) + 7


def test_a_running_engine_copies_no_block_that_its_slot_still_holds(probed):
    engine = probed()
    block = engine.block_size
    shared = prompt(4 * block)
    run(engine, shared + prompt(9, 1))
    run(engine, shared + prompt(9, 2))
    assert engine.stats.copied_blocks == 0
    run(engine, prompt(70, 3))
    run(engine, shared + prompt(9, 4))
    assert engine.stats.copied_blocks == 4


def test_answers_do_not_depend_on_what_is_cached(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    shared = prompt(300)
    for i in range(6):
        tokens = shared[: 300 - 40 * i] + prompt(30 + i, 10 + i)
        assert run(engine, tokens).tokens == run(plain, tokens).tokens


def test_a_corrupted_block_changes_the_answer(probed):
    """The control: if this passed with wrong keys and values, the tests above could not fail."""
    engine = probed()
    tokens = prompt(300)
    right = run(engine, tokens).tokens
    match = engine._tree.match(tokens, namespace="n")
    block: KVBlock = match.payloads[0]
    engine._tree.release(match)
    for tensor in block.tensors:
        tensor.copy_(torch.randn(tensor.shape) * 5)
    engine._slot.remember([])
    assert run(engine, tokens).tokens != right


def test_namespaces_share_nothing(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens, namespace="one")
    assert run(engine, tokens, namespace="other").cached_tokens == 0


def test_reuse_off_reads_and_writes_nothing(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens)
    blocks = engine.prefix_stats.held_blocks
    assert run(engine, tokens, reuse=False).cached_tokens == 0
    run(engine, prompt(200, 5), reuse=False)
    assert engine.prefix_stats.held_blocks == blocks


def test_held_bytes_never_exceed_the_bound(probed):
    block_bytes = probed()._block_bytes
    engine = probed(max_cache_bytes=3 * block_bytes + 1)
    for seed in range(5):
        run(engine, prompt(200, seed))
        assert engine.prefix_stats.held_bytes <= 3 * block_bytes
        real = sum(t.untyped_storage().nbytes() for n in engine._tree._recency for t in n.payload.tensors)
        assert real == engine.prefix_stats.held_bytes
    engine._tree.check_invariants()


def test_pinned_prefixes_are_there_for_the_first_request(probed):
    engine = probed()
    block = engine.block_size
    system = prompt(3 * block + 5)
    assert engine.pin(system, namespace="n") == 3 * block
    assert engine.prefix_stats.pinned_bytes == engine.kv_bytes_per_token * 3 * block
    assert run(engine, system + prompt(20, 1)).cached_tokens == 3 * block
    assert engine.pin(system[: block - 1], namespace="n") == 0


def test_pins_too_large_for_the_bound_are_refused(probed):
    engine = probed(max_cache_bytes=probed()._block_bytes)
    with pytest.raises(CapacityError, match="max_cache_size"):
        engine.pin(prompt(300), namespace="n")
    assert run(engine, prompt(100)).tokens


def test_says_where_a_prompt_leaves_what_is_cached(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens)
    other = [*tokens[:150], (tokens[150] + 1) % 497 + 3, *tokens[151:]]
    difference = run(engine, other).difference
    assert difference.position_tokens == 150
    assert difference.cached[0] == tokens[150]


@pytest.mark.parametrize("length", [5, 64, 333])
def test_greedy_equals_transformers(tiny_model, probed, length):
    tokens = prompt(length)
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
    ids = torch.tensor([tokens])
    theirs = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert run(probed(), tokens).tokens == [t for t in theirs[0, length:].tolist() if t != 2]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
        {"temperature": 1.0},
        {"temperature": 0.7, "min_p": 0.05},
    ],
)
def test_the_same_seed_samples_as_transformers(tiny_model, probed, options):
    tokens = prompt(64)
    settings = {"top_k": 0, "top_p": 1.0} | options
    config = GenerationConfig(max_new_tokens=12, do_sample=True, eos_token_id=2, pad_token_id=0, **settings)
    ids = torch.tensor([tokens])
    torch.manual_seed(1234)
    theirs = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    ours = run(probed(), tokens, Sampling(max_new_tokens=12, seed=1234, **options))
    assert ours.tokens == [t for t in theirs[0, 64:].tolist() if t != 2]


def test_without_a_seed_samples_differ(probed):
    engine = probed()
    sampling = Sampling(max_new_tokens=12, temperature=1.5)
    assert len({tuple(run(engine, prompt(20), sampling).tokens) for _ in range(4)}) > 1


def test_ends_at_an_end_token(probed, tiny_model):
    tokens = prompt(40)
    full = run(probed(), tokens).tokens
    engine = make_engine(tiny_model)
    engine.end_tokens = frozenset({full[3]})
    generation = run(engine, tokens)
    assert generation.finish_reason == "stop"
    assert generation.tokens == full[: full.index(full[3])]


@pytest.mark.parametrize(
    ("sampling", "name"),
    [
        (Sampling(max_new_tokens=0), "max_new_tokens"),
        (Sampling(temperature=-1.0), "temperature"),
        (Sampling(top_p=0.0), "top_p"),
        (Sampling(stop=("",)), "stop"),
    ],
)
def test_meaningless_sampling_is_refused_by_name(probed, sampling, name):
    with pytest.raises(RequestError, match=name):
        probed().generate([5], sampling, namespace="n")


def test_empty_and_too_long_prompts_are_refused(probed):
    engine = probed()
    with pytest.raises(RequestError, match="empty"):
        engine.generate([], GREEDY, namespace="n")
    with pytest.raises(RequestError, match="2,048 positions"):
        engine.generate(prompt(2040), GREEDY, namespace="n")
    assert run(engine, prompt(2036)).tokens


def test_a_failed_allocation_leaves_an_engine_that_works(probed, monkeypatch):
    engine, plain = probed(), probed(max_cache_bytes=0)
    run(engine, prompt(100))
    allocate = type(engine._slot.layout).allocate
    with monkeypatch.context() as patch:
        patch.setattr(
            type(engine._slot.layout),
            "allocate",
            lambda self, tokens: allocate(self, tokens) if tokens < 500 else _no_memory(),
        )
        with pytest.raises(MemoryError):
            run(engine, prompt(900))
    tokens = prompt(600, 2)
    assert run(engine, tokens).tokens == run(plain, tokens).tokens
    assert run(engine, prompt(100)).tokens == run(plain, prompt(100)).tokens


def _no_memory():
    raise MemoryError


def test_an_interrupted_copy_is_not_taken_for_what_it_was(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    one, other = prompt(200, 1), prompt(200, 2)
    run(engine, one)
    run(engine, other)
    match = engine._tree.match(one, namespace="n")
    engine._tree.release(match)

    class Breaks:
        serial = -1

        @property
        def tensors(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine._slot.begin([match.payloads[0], Breaks()], engine.block_size, 300)
    assert run(engine, other).tokens == run(plain, other).tokens


def test_without_a_length_the_answer_may_fill_the_context(probed):
    engine = probed()
    generation = run(engine, prompt(2040), Sampling())
    assert len(generation.tokens) <= 8
    assert generation.finish_reason in {"stop", "length"}


def test_a_prompt_whose_answer_ends_with_its_first_token_is_kept_all_the_same(probed):
    engine = probed()
    generation = engine.generate(prompt(200), GREEDY, namespace="n")
    next(iter(generation))
    generation.close()
    assert engine.prefix_stats.held_blocks == 200 // engine.block_size


def test_an_abandoned_answer_frees_the_engine(probed):
    engine = probed()
    tokens = prompt(100)
    generation = engine.generate(tokens, GREEDY, namespace="n")
    next(iter(generation))
    with pytest.raises(RequestError, match="still streaming"):
        run(engine, tokens)
    generation.close()
    run(engine, tokens)
    engine._tree.check_invariants()
    assert all(n.references == 0 for n in engine._tree._recency)


def test_threads_take_turns(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    prompts = [prompt(80, seed) for seed in range(4)]
    expected = [run(plain, p).tokens for p in prompts]
    results: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: run(engine, prompts[i]).tokens}))
        for i in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [results[i] for i in range(4)] == expected


def test_a_model_with_recurrent_state_runs_uncached(tiny_model):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=500, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).eval()
    engine = Engine(
        model, device=CPU, context_length_tokens=512, end_tokens=frozenset({2}), max_cache_bytes=10**6
    )
    assert not engine.can_reuse
    tokens = prompt(40)
    ids = torch.tensor([tokens])
    theirs = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
    for _ in range(2):
        generation = run(engine, tokens)
        assert generation.cached_tokens == 0
        assert generation.tokens == [t for t in theirs[0, 40:].tolist() if t != 2]
