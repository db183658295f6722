"""The engine, one request at a time, on a model with random weights: reuse, bounds, tiers, sampling."""

import copy
import sqlite3
import threading
from contextlib import closing

import pytest
import torch
from transformers import GenerationConfig

from axolotl_cache.adjustments import Adjustments
from axolotl_cache.clock import ManualClock
from axolotl_cache.engine import engine as engine_module
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.lower import LowerTier, open_lower_store
from axolotl_cache.engine.memory import PressureGovernor
from axolotl_cache.errors import CapacityError, RequestCancelled, RequestError
from axolotl_cache.request import Sampling

CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=12)
MB = 10**6


def make_engine(model, max_cache_bytes=100 * MB, **options) -> Engine:
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


def cached_pages(engine: Engine, tokens):
    """The pages that a prompt would find."""
    match = engine._cache.tree.match(tokens, namespace="n")
    engine._cache.tree.release(match)
    return match.payloads


def check(engine: Engine):
    """Nothing runs: all that is held is the cache's, and neither pool nor tree contradicts itself."""
    engine._pool.check_invariants()
    if engine._cache:
        engine._cache.tree.check_invariants()
    assert engine.held_bytes == engine.prefix_stats.held_bytes
    assert engine.running_requests == engine.waiting_requests == 0


# Reuse


def test_the_second_time_whole_blocks_are_reused(probed):
    engine = probed()
    block = engine.block_size
    tokens = prompt(5 * block + 7)
    first, second = run(engine, tokens), run(engine, tokens)
    assert (first.cached_tokens, second.cached_tokens) == (0, 5 * block)
    assert first.tokens == second.tokens
    assert engine.stats.prefill_tokens == len(tokens) + 7
    check(engine)


def test_the_last_token_is_always_computed(probed):
    engine = probed()
    tokens = prompt(4 * engine.block_size)
    assert run(engine, tokens).tokens == run(engine, tokens).tokens
    assert engine.stats.prefill_tokens == len(tokens) + engine.block_size


def test_answers_do_not_depend_on_what_is_cached(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    shared = prompt(300)
    for i in range(6):
        tokens = shared[: 300 - 40 * i] + prompt(30 + i, 10 + i)
        assert run(engine, tokens).tokens == run(plain, tokens).tokens
    check(engine)
    check(plain)
    assert plain.held_bytes == 0


def test_the_answer_is_reused_by_the_next_turn(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    block = engine.block_size
    tokens = prompt(40)
    for turn in range(3):
        answer = run(engine, tokens, Sampling(max_new_tokens=50))
        known = len(tokens) + len(answer.tokens) - (answer.finish_reason == "length")
        tokens = [*tokens, *answer.tokens, *prompt(9, turn)]
        assert engine._cache.known_tokens(tokens, "n") == known // block * block
    answer = run(engine, tokens)
    assert answer.cached_tokens == known // block * block
    assert answer.tokens == run(plain, tokens).tokens


def test_a_corrupted_page_changes_the_answer(probed):
    """The control: if this passed with wrong keys and values, the tests above could not fail."""
    engine = probed()
    tokens = prompt(300)
    right = run(engine, tokens).tokens
    page = cached_pages(engine, tokens)[3]
    engine._pool.fill(page, [torch.randn_like(t) * 5 for t in engine._pool.read(page)])
    assert run(engine, tokens).tokens != right


def test_namespaces_share_nothing(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens, namespace="one")
    assert run(engine, tokens, namespace="other").cached_tokens == 0
    assert engine.clear(namespace="one") > 0
    assert run(engine, tokens, namespace="one").cached_tokens == 0
    assert run(engine, tokens, namespace="other").cached_tokens > 0


def test_reuse_off_reads_and_writes_nothing(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens)
    blocks = engine.prefix_stats.held_blocks
    assert run(engine, tokens, reuse=False).cached_tokens == 0
    run(engine, prompt(200, 5), reuse=False)
    assert engine.prefix_stats.held_blocks == blocks
    check(engine)


def test_a_prompt_whose_answer_is_not_wanted_any_more_is_kept_all_the_same(probed):
    engine = probed()
    generation = engine.generate(prompt(200), GREEDY, namespace="n")
    next(iter(generation))
    generation.close()
    assert engine.prefix_stats.held_blocks == 200 // engine.block_size
    check(engine)


def test_says_where_a_prompt_leaves_what_is_cached(probed):
    engine = probed()
    tokens = prompt(200)
    run(engine, tokens)
    other = [*tokens[:150], (tokens[150] + 1) % 497 + 3, *tokens[151:]]
    difference = run(engine, other).difference
    assert difference.position_tokens == 150
    assert difference.cached[0] == tokens[150]


def test_what_nobody_used_for_its_time_is_forgotten(probed):
    clock = ManualClock()
    engine = probed(ttl_seconds=60, clock=clock)
    tokens = prompt(200)
    run(engine, tokens)
    clock.advance(61)
    assert run(engine, tokens).cached_tokens == 0


# Bounds


def test_what_is_held_for_reuse_never_exceeds_the_bound(probed):
    page_bytes = probed()._pool.page_bytes
    engine, plain = probed(max_cache_bytes=3 * page_bytes + 1), probed(max_cache_bytes=0)
    for seed in range(5):
        tokens = prompt(200, seed)
        generation = engine.generate(tokens, GREEDY, namespace="n")
        while engine.step():
            assert engine.prefix_stats.held_bytes <= 3 * page_bytes
            engine._cache.tree.check_invariants()
        assert generation.tokens == run(plain, tokens).tokens
        check(engine)
    assert engine.held_bytes == 3 * page_bytes


def test_pinned_prefixes_are_there_for_the_first_request(probed):
    engine = probed()
    block = engine.block_size
    system = prompt(3 * block + 5)
    assert engine.pin(system, namespace="n") == 3 * block
    assert engine.prefix_stats.pinned_bytes == engine.kv_bytes_per_token * 3 * block
    assert run(engine, system + prompt(20, 1)).cached_tokens == 3 * block
    assert engine.pin(system[: block - 1], namespace="n") == 0
    check(engine)


def test_pins_too_large_for_the_bound_are_refused(probed):
    engine = probed(max_cache_bytes=probed()._pool.page_bytes)
    with pytest.raises(CapacityError, match="max_cache_size"):
        engine.pin(prompt(300), namespace="n")
    assert engine.prefix_stats.pinned_bytes == 0
    assert run(engine, prompt(100)).tokens
    check(engine)


def test_under_pressure_the_cache_gives_memory_back_and_grows_again(probed, monkeypatch):
    page = probed()._pool.page_bytes
    now, available = ManualClock(), [1000 * page]
    governor = PressureGovernor(1000 * page, available=lambda: available[0], clock=now)
    engine, plain = probed(governor=governor), probed(max_cache_bytes=0)
    tokens = prompt(640)
    run(engine, tokens)
    assert engine.prefix_stats.held_blocks == 20
    freed, trim = [], engine._pool.trim
    monkeypatch.setattr(engine._pool, "trim", lambda: freed.append(trim()))

    now.advance(2)
    available[0] = 40 * page  # 10 less than is to stay free
    assert run(engine, prompt(5, 1)).tokens == run(plain, prompt(5, 1)).tokens
    assert engine.prefix_stats.held_blocks == 10
    assert freed[0] >= 10 * page
    assert run(engine, tokens).tokens == run(plain, tokens).tokens  # from pages that have moved
    check(engine)

    available[0] = 900 * page
    for _ in range(10):
        now.advance(2)
        engine.generate([5], Sampling(max_new_tokens=1), namespace="n")
        engine.step()
    assert run(engine, tokens).tokens == run(plain, tokens).tokens
    assert engine.prefix_stats.held_blocks == 20
    check(engine)


def test_what_is_in_use_under_pressure_goes_as_soon_as_it_is_not(probed):
    page = probed()._pool.page_bytes
    allowed = [100 * page]

    class Governor:
        adjustments = Adjustments()

        def allowed_bytes(self, held_bytes, bound_bytes):
            return allowed[0]

    engine, plain = probed(governor=Governor()), probed(max_cache_bytes=0)
    tokens = prompt(640)
    run(engine, tokens)
    generation = engine.generate(tokens, GREEDY, namespace="n")
    engine.step()
    assert generation.cached_tokens == 608
    allowed[0] = 2 * page
    engine.step()
    assert engine.prefix_stats.held_blocks == 19  # what is found and read can't go
    engine._cache.tree.check_invariants()
    assert list(generation) == run(plain, tokens).tokens
    run(engine, [5])
    assert engine.prefix_stats.held_blocks <= 2
    check(engine)


def test_a_failed_allocation_leaves_an_engine_that_works(probed, monkeypatch):
    engine, plain = probed(), probed(max_cache_bytes=0)
    run(engine, prompt(100))
    allocate = engine._pool.allocate
    with monkeypatch.context() as patch:
        patch.setattr(
            engine._pool,
            "allocate",
            lambda count: allocate(count) if engine._pool.used_pages + count < 15 else _no_memory(),
        )
        with pytest.raises(MemoryError):
            run(engine, prompt(900))
        check(engine)
        assert run(engine, prompt(120, 3)).tokens == run(plain, prompt(120, 3)).tokens
    tokens = prompt(600, 2)
    assert run(engine, tokens).tokens == run(plain, tokens).tokens
    assert run(engine, prompt(100)).tokens == run(plain, prompt(100)).tokens
    check(engine)


def _no_memory(*_):
    raise MemoryError


def limit_memory(engine, monkeypatch, pages):
    """Let the pool grow, or shrink, to so many pages and no more."""
    empty = engine._pool._empty
    monkeypatch.setattr(
        engine._pool, "_empty", lambda layer, n: empty(layer, n) if n <= pages else _no_memory()
    )


def test_a_request_takes_the_memory_of_what_is_cached_before_it_fails(probed, monkeypatch):
    engine, plain = probed(), probed(max_cache_bytes=0)
    pinned = prompt(320, 9)
    engine.pin(pinned, namespace="n")
    limit_memory(engine, monkeypatch, 70)
    for seed in range(4):
        tokens = prompt(1500, seed)  # 48 pages
        assert run(engine, tokens).tokens == run(plain, tokens).tokens
    assert engine._cache.known_tokens([*pinned, 5], "n") == 320
    check(engine)
    with pytest.raises(MemoryError):  # all can't go
        run(engine, prompt(2030))
    check(engine)


def test_memory_that_can_not_be_given_back_is_no_requests_error(probed, monkeypatch):
    allowed = [100 * MB]

    class Governor:
        adjustments = Adjustments()

        def allowed_bytes(self, held_bytes, bound_bytes):
            return allowed[0]

    engine, plain = probed(governor=Governor()), probed(max_cache_bytes=0)
    run(engine, prompt(640))
    limit_memory(engine, monkeypatch, 0)
    allowed[0] = 0
    assert run(engine, prompt(20, 5)).tokens == run(plain, prompt(20, 5)).tokens
    assert engine.prefix_stats.evicted_blocks >= 20
    check(engine)


# Slower tiers


@pytest.fixture
def tiers(probed, tmp_path):
    """Makes engines over one folder on disk, as one process after another would."""
    stores = []

    def make(wrap=lambda store: store, speed_seconds=1e6, **options):
        def lower(layout, block_size):
            store = open_lower_store(tmp_path, layout=layout, block_size=block_size, max_bytes=10 * MB)
            stores.append(wrap(store))
            return [LowerTier(stores[-1], layout=layout, block_size=block_size)]

        engine = probed(lower=lower, **options)
        # What computing is taken to cost, so that no test rests on how fast this machine is just now.
        engine.stats.prefill_seconds, engine.stats.prefill_tokens = 1000 * speed_seconds, 1000
        return engine

    return make


def test_after_a_restart_the_first_request_hits(probed, tiers):
    tokens, plain = prompt(600), probed(max_cache_bytes=0)
    before = tiers()
    expected = run(before, tokens, Sampling(max_new_tokens=50)).tokens
    before.close()
    after = tiers()
    again = run(after, tokens, Sampling(max_new_tokens=50))
    assert again.cached_tokens == 576
    assert after.stats.loaded_tokens == 576
    assert again.tokens == expected == run(plain, tokens, Sampling(max_new_tokens=50)).tokens
    assert after.stats.prefill_tokens == 1000 + 24
    turn = [*tokens, *again.tokens, *prompt(10, 1)]
    after.close()
    check(after)
    last = tiers()
    found = run(last, turn)
    assert found.cached_tokens == (600 + len(again.tokens) - 1) // 32 * 32  # the answer was stored, too
    assert found.tokens == run(plain, turn).tokens
    last.close()


def test_until_a_prompt_was_computed_its_cost_is_the_probes(probed, tiers):
    tokens = prompt(600)
    before = tiers()
    run(before, tokens)
    before.close()
    after = tiers()
    after.stats.prefill_seconds, after.stats.prefill_tokens = 0.0, 0
    assert after._scheduler.probed_seconds_per_token == after.exactness.prefill_seconds_per_token > 0
    for seconds, cached in ((0.0, 0), (1e6, 576)):
        after._cache.tree.clear()  # and not the disk
        after._scheduler.probed_seconds_per_token = seconds
        assert run(after, tokens).cached_tokens == cached
        after.stats.prefill_tokens = 0
    after.close()


def test_loaded_blocks_are_the_very_bits(probed, tiers):
    tokens = prompt(600)
    before = tiers()
    run(before, tokens)
    wanted = [before._pool.read(page) for page in cached_pages(before, tokens)]
    before.close()
    after = tiers()
    run(after, tokens)
    found = [after._pool.read(page) for page in cached_pages(after, tokens)]
    assert len(found) == len(wanted) == 18
    for one, other in zip(wanted, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    after.close()


def test_a_damaged_block_on_disk_is_a_miss_and_never_an_answer(probed, tiers, tmp_path):
    tokens, plain = prompt(600), probed(max_cache_bytes=0)
    before = tiers()
    run(before, tokens)
    before.close()
    (database,) = tmp_path.rglob("*.sqlite3")
    with closing(sqlite3.connect(database)) as entries, entries:
        rows = entries.execute("SELECT id, payload FROM entries ORDER BY id").fetchall()
        assert len(rows) == 19  # the answer filled one more
        number, payload = rows[4]
        damaged = bytearray(payload)
        damaged[-1000] ^= 1  # one bit of one value
        entries.execute("UPDATE entries SET payload = ? WHERE id = ?", (bytes(damaged), number))
    after = tiers()
    answer = run(after, tokens)
    assert answer.tokens == run(plain, tokens).tokens
    assert answer.cached_tokens == 4 * 32
    after.close()


def test_a_wrong_block_in_the_store_would_be_seen(probed, tiers, monkeypatch):
    """The control: were the wrong tensors to come back, the answer would be another."""
    tokens = prompt(600)
    before = tiers()
    expected = run(before, tokens).tokens
    before.close()
    after = tiers()
    take = after._cache.take
    monkeypatch.setattr(
        after._cache,
        "take",
        lambda prompt, table, blocks: take(prompt, table, [[t * 3 for t in block] for block in blocks]),
    )
    assert run(after, tokens).tokens != expected
    after.close()


class Held:
    """A store that gives nothing back until it is let."""

    def __init__(self, store) -> None:
        self._store = store
        self.asked, self.let = threading.Event(), threading.Event()

    def get(self, key):
        self.asked.set()
        assert self.let.wait(60)
        return self._store.get(key)

    def __getattr__(self, name):
        return getattr(self._store, name)


def test_a_store_that_hangs_does_not_hold_up_the_answer(probed, tiers, monkeypatch):
    tokens = prompt(600)
    before = tiers()
    expected = run(before, tokens).tokens
    before.close()
    held = []
    after = tiers(wrap=lambda store: held.append(Held(store)) or held[0], speed_seconds=1e-6)
    # It is taken for the fastest of disks, so that the load is begun, and turns out to be none.
    monkeypatch.setattr(after._cache._lower[0], "load_seconds", lambda blocks: 0.0)
    answer = run(after, tokens)
    assert held[0].asked.is_set()
    assert not held[0].let.is_set()  # it hangs to this moment, and the answer is there
    assert answer.tokens == expected
    assert answer.cached_tokens == 0
    held[0].let.set()
    after.close()
    check(after)


def test_what_others_ask_goes_on_while_one_is_being_loaded(probed, tiers):
    tokens, plain = prompt(600), probed(max_cache_bytes=0)
    before = tiers()
    run(before, tokens)
    before.close()
    held = []
    after = tiers(wrap=lambda store: held.append(Held(store)) or held[0])
    loading = after.generate(tokens, GREEDY, namespace="n")
    other = prompt(50, 4)
    assert run(after, other).tokens == run(plain, other).tokens
    assert not loading.tokens
    held[0].let.set()
    assert list(loading) == run(plain, tokens).tokens
    assert loading.cached_tokens == 576
    after.close()


@pytest.mark.parametrize("step", ["allocate", "fill"])
def test_a_load_that_there_is_no_memory_for_is_a_miss(probed, tiers, monkeypatch, step):
    tokens, plain = prompt(600), probed(max_cache_bytes=0)
    before = tiers()
    expected = run(before, tokens).tokens
    before.close()
    after, failed = tiers(), []
    work = getattr(after._pool, step)

    def fails_once(*arguments):
        if not failed and (step == "fill" or arguments[0] == 18):
            failed.append(arguments)
            raise MemoryError
        return work(*arguments)

    monkeypatch.setattr(after._pool, step, fails_once)
    other = iter(after.generate(prompt(30, 9), Sampling(max_new_tokens=60), namespace="n"))
    answer = [next(other)]
    loading = after.generate(tokens, GREEDY, namespace="n")
    answer += other
    assert failed
    assert answer == run(plain, prompt(30, 9), Sampling(max_new_tokens=60)).tokens
    assert list(loading) == expected
    assert loading.cached_tokens == after.stats.loaded_tokens == 0
    after.close()
    check(after)


def test_a_load_that_can_not_be_used_ends_its_own_request_and_no_other(tiers, monkeypatch):
    before = tiers()
    run(before, prompt(600))
    before.close()
    after = tiers()
    monkeypatch.setattr(after._cache, "take", lambda *_: 1 // 0)
    other = iter(after.generate(prompt(30, 9), Sampling(max_new_tokens=60), namespace="n"))
    next(other)
    loading = after.generate(prompt(600), GREEDY, namespace="n")
    assert len(list(other)) > 5
    with pytest.raises(ZeroDivisionError):
        list(loading)
    after.close()
    check(after)


def test_a_load_that_would_be_slower_than_computing_is_not_begun(probed, tiers, monkeypatch):
    tokens = prompt(600)
    before = tiers()
    expected = run(before, tokens).tokens
    before.close()
    after = tiers()
    monkeypatch.setattr(after._cache._lower[0], "load_seconds", lambda blocks: 1e12)
    monkeypatch.setattr(after._cache._lower[0], "fetch", lambda *_, **__: pytest.fail("was begun"))
    assert run(after, tokens).tokens == expected
    after.close()


def test_a_cancelled_load_frees_everything(probed, tiers):
    tokens = prompt(600)
    before = tiers()
    run(before, tokens)
    before.close()
    held = []
    after = tiers(wrap=lambda store: held.append(Held(store)) or held[0])
    loading = after.generate(tokens, GREEDY, namespace="n")
    after.step()
    loading.close()
    check(after)
    held[0].let.set()
    after.close()


def test_clearing_clears_the_slower_tiers_too(tiers):
    engine = tiers()
    tokens = prompt(300)
    run(engine, tokens)
    (tier,) = engine._cache._lower
    assert tier.flush(60)
    assert tier.held_blocks == 9
    engine.clear(namespace="n")
    assert tier.held_blocks == 0
    assert run(engine, tokens).cached_tokens == 0
    engine.close()


# Answers


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


def test_ends_at_an_end_token(probed):
    tokens = prompt(40)
    full = run(probed(), tokens).tokens
    engine = probed()
    generation = run(engine, tokens, end_tokens=frozenset({full[3]}))
    assert generation.finish_reason == "stop"
    assert generation.tokens == full[: full.index(full[3])]
    engine.end_tokens = frozenset({full[3]})
    assert run(engine, tokens).tokens == generation.tokens
    check(engine)


def test_tells_how_likely_each_token_was(probed):
    generation = run(probed(), prompt(40), Sampling(max_new_tokens=4, logprobs=3))
    assert [choice.token for choice in generation.choices] == generation.tokens
    assert all(choice.top[0] == (choice.token, choice.logprob) for choice in generation.choices)


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


@pytest.mark.parametrize("wrong", [500, -1, 2.5, "a", None, torch.tensor(2.5)], ids=str)
def test_tokens_that_the_model_does_not_know_are_refused(probed, wrong):
    engine = probed()
    tokens = [*prompt(31), wrong, *prompt(40)]
    for send in (
        lambda: engine.generate(tokens, Sampling(repetition_penalty=1.2), namespace="n"),
        lambda: engine.pin(tokens, namespace="n"),
    ):
        with pytest.raises(RequestError, match=r"at index 31 is .* to 499, as .* has 500"):
            send()
    assert engine.waiting_requests == 0
    assert run(engine, [0, 499]).tokens


def test_ids_of_other_integer_types_are_tokens(probed):
    tokens = prompt(40)
    expected = run(probed(), tokens).tokens
    assert run(probed(), list(torch.tensor(tokens))).tokens == expected
    assert run(probed(), list(torch.tensor(tokens).numpy())).tokens == expected


def test_the_vocabulary_is_counted_below_an_adapter(tiny_model):
    class Embeddings:
        base_layer = tiny_model.get_input_embeddings()

    class Model:
        def __init__(self, embeddings):
            self._embeddings = embeddings

        def get_input_embeddings(self):
            return self._embeddings

    assert engine_module._count_embeddings(Model(Embeddings())) == 500
    assert engine_module._count_embeddings(Model(None)) == 2**32
    assert engine_module._count_embeddings(object()) == 2**32


@pytest.mark.parametrize("name", ["max_batch", "step_tokens"])
def test_an_engine_that_could_compute_nothing_is_refused(tiny_model, name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        make_engine(tiny_model, **{name: 0})


def test_an_adapter_asked_of_an_engine_without_any_is_refused(probed):
    engine = probed()
    with pytest.raises(RequestError, match="no adapters"):
        engine.generate(prompt(20), GREEDY, namespace="n", adapter=object())
    with pytest.raises(RequestError, match="no adapters"):
        engine.pin(prompt(40), namespace="n", adapter=object())
    assert engine.waiting_requests == 0


def test_numbers_that_are_not_finite_end_that_request_and_no_other(probed):
    engine, plain = probed(), probed(max_cache_bytes=0)
    bad, good = (engine.generate(prompt(40, seed), GREEDY, namespace="n") for seed in (1, 2))
    compute = engine._forward.run

    def damaged(chunks, layout):
        logits = compute(chunks, layout)
        for chunk, each in zip(chunks, logits, strict=True):
            if list(chunk.tokens) == prompt(40, 1):
                with torch.inference_mode():
                    each[0, 7] = float("nan")
        return logits

    engine._forward.run = damaged
    assert list(good) == run(plain, prompt(40, 2)).tokens
    with pytest.raises(RequestError, match="not finite"):
        list(bad)
    assert not bad.tokens
    check(engine)


def test_without_a_length_the_answer_may_fill_the_context(probed):
    engine = probed()
    generation = run(engine, prompt(2040), Sampling())
    assert len(generation.tokens) <= 8
    assert generation.finish_reason in {"stop", "length"}


# Other models, and the end


def test_a_model_with_recurrent_state_runs_uncached():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=500, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).eval()
    engine = Engine(
        model, device=CPU, context_length_tokens=512, end_tokens=frozenset({2}), max_cache_bytes=10**6
    )
    assert not engine.can_reuse
    prompts = [prompt(40), prompt(25, 1)]
    expected = []
    for tokens in prompts:
        ids = torch.tensor([tokens])
        theirs = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
        expected.append([t for t in theirs[0, len(tokens) :].tolist() if t != 2])
    for _ in range(2):
        together = [engine.generate(tokens, GREEDY, namespace="n") for tokens in prompts]
        assert [list(generation) for generation in together] == expected
        assert [generation.cached_tokens for generation in together] == [0, 0]


def test_a_model_with_a_state_that_no_cache_holds_is_computed_anew_for_each_token(tiny_model):
    model = copy.deepcopy(tiny_model)

    def add_mean(module, args, out):
        return out + out.cumsum(1) / torch.arange(1, out.shape[1] + 1)[:, None]

    model.model.layers[0].mlp.register_forward_hook(add_mean)
    engine = make_engine(model)
    assert engine.exactness.mode == "none"
    assert not engine.can_reuse
    tokens, expected = prompt(300), []
    with torch.inference_mode():
        while len(expected) < 12:
            logits = model(torch.tensor([tokens + expected]), use_cache=False).logits[0, -1]
            expected.append(int(logits.argmax()))
        ids = torch.tensor([tokens])
        theirs = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert theirs[0, 300:].tolist() != expected  # the control: its own cache lacks something
    for _ in range(2):
        generation = run(engine, tokens)
        assert generation.tokens == expected
        assert generation.cached_tokens == 0
    assert engine.pin(tokens, namespace="n") == 0
    check(engine)


def test_closing_the_engine_cancels_what_runs_and_what_waits(probed):
    engine = probed(max_batch=1)
    one, other = (engine.generate(prompt(100, seed), GREEDY, namespace="n") for seed in (1, 2))
    engine.step()
    engine.close()
    assert one.finish_reason == other.finish_reason == "cancelled"
    check(engine)
    with pytest.raises(RequestCancelled):
        list(other)
