"""Many requests at once, on models with random weights: none can tell that it is not alone."""

import copy
import random
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from axolotl_cache.engine import engine as engine_module
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.exactness import Exactness
from axolotl_cache.errors import RequestCancelled
from axolotl_cache.request import Sampling

CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def models(tiny_model):
    return {
        torch.float32: copy.deepcopy(tiny_model),
        torch.bfloat16: copy.deepcopy(tiny_model).to(torch.bfloat16),
    }


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request, models):
    return models[request.param]


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    return tmp_path_factory.mktemp("memo")


@pytest.fixture
def make(model, memo):
    return lambda **options: make_engine(model, memo=memo, **options)


def make_engine(model, max_cache_bytes=10**8, **options) -> Engine:
    return Engine(
        model,
        device=CPU,
        context_length_tokens=model.config.max_position_embeddings,
        end_tokens=frozenset({2}),
        max_cache_bytes=max_cache_bytes,
        **options,
    )


@dataclass(frozen=True)
class Request:
    tokens: tuple[int, ...]
    sampling: Sampling


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def mixed_requests() -> list[Request]:
    """Lengths from 5 to 1,200, some behind common prefixes; greedy, sampled, and with a penalty."""
    shared, ways = prompt(320, 99), []
    for seed in range(4):
        ways += [
            Sampling(max_new_tokens=4 + 5 * seed),
            Sampling(max_new_tokens=16, temperature=0.9, top_p=0.95, seed=seed),
            Sampling(max_new_tokens=10, temperature=1.3, top_k=40, seed=seed, repetition_penalty=1.2),
        ]
    lengths = [5, 1200, 31, 0, 333, 64, 0, 97, 700, 0, 13, 160]
    rests = [
        shared + prompt(7 + n, n) if not length else prompt(length, n) for n, length in enumerate(lengths)
    ]
    return [Request(tuple(rest), way) for rest, way in zip(rests, ways, strict=True)]


REQUESTS = mixed_requests()


def send(engine, request, **options):
    options = {"namespace": "n", **options}
    return engine.generate(request.tokens, request.sampling, **options)


def answer(engine, tokens, sampling=GREEDY, **options):
    return list(engine.generate(tokens, sampling, **{"namespace": "n", **options}))


def finish(engine):
    steps = 0
    while engine.step():
        steps += 1
        assert steps < 5000
    return steps


def check(engine):
    """Nothing runs: all that is held is the cache's, and neither pool nor tree contradicts itself."""
    engine._pool.check_invariants()
    if engine._cache:
        engine._cache.tree.check_invariants()
    assert engine.held_bytes == engine.prefix_stats.held_bytes
    assert engine.running_requests == engine.waiting_requests == 0


@pytest.fixture(scope="module")
def alone(model, memo):
    """What each request is answered alone, with the cache off: in an engine that served nothing before."""
    found: dict[Request, list[int]] = {}

    def answers(request: Request) -> list[int]:
        if request not in found:
            engine = make_engine(model, max_cache_bytes=0, memo=memo)
            found[request] = list(send(engine, request))
        return found[request]

    return answers


@contextmanager
def calls_seen(engine):
    """Collects the calls of the model: for each its chunks."""
    seen, run = [], engine._forward.run

    def spy(chunks, layout):
        seen.append(list(chunks))
        return run(chunks, layout)

    engine._forward.run = spy
    try:
        yield seen
    finally:
        engine._forward.run = run


# The same answers in any company


@pytest.mark.parametrize(
    "options",
    [{}, {"step_tokens": 100}, {"max_batch": 3}, {"max_cache_bytes": 0}, {"max_cache_bytes": 300_000}],
    ids=str,
)
def test_answers_in_a_batch_are_those_alone_with_the_cache_off(make, alone, options):
    engine = make(**options)
    assert engine.exactness.mode == "invariant"
    order = random.Random(str(options)).sample(REQUESTS, len(REQUESTS))
    for _ in range(2):  # the second time behind what the first left
        generations = [send(engine, request) for request in order]
        finish(engine)
        for request, generation in zip(order, generations, strict=True):
            assert generation.tokens == alone(request), len(request.tokens)
        check(engine)


@pytest.mark.parametrize("seed", range(3))
def test_requests_may_come_while_others_run(make, alone, seed):
    rng = random.Random(seed)
    engine = make(step_tokens=rng.choice([64, 200, 512]), max_batch=rng.choice([4, 32]))
    order = rng.sample(REQUESTS, len(REQUESTS))
    generations = []
    while engine.step() or len(generations) < len(order):
        for _ in range(rng.choice([0, 0, 1, 1, 3])):
            if len(generations) < len(order):
                generations.append(send(engine, order[len(generations)]))
    for request, generation in zip(order, generations, strict=True):
        assert generation.tokens == alone(request), len(request.tokens)
    check(engine)


def test_answers_without_reuse_are_not_touched_by_those_with(make, alone):
    engine = make()
    generations = [send(engine, r, reuse=bool(n % 2)) for n, r in enumerate(REQUESTS)]
    finish(engine)
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]
    assert all(not g.cached_tokens for g in generations[::2])
    check(engine)


def test_one_wrong_page_in_the_batch_changes_that_answer_and_no_other(make, alone):
    """The control: the comparisons above would notice."""
    engine = make()
    for request in REQUESTS:
        send(engine, request)
    finish(engine)
    generations = [send(engine, request) for request in REQUESTS]
    engine.step()
    victim = next(r for r in engine._scheduler.running if r.generation is generations[1])
    page = victim.table.pages[5]
    engine._pool.fill(page, [tensor * -3 for tensor in engine._pool.read(page)])
    finish(engine)
    same = [g.tokens == alone(r) for g, r in zip(generations, REQUESTS, strict=True)]
    assert same == [True, False, *[True] * 10]


def test_two_answers_may_be_read_alternately_in_one_thread(make, alone):
    engine = make()
    one, other = send(engine, REQUESTS[2]), send(engine, REQUESTS[4])
    readers, read = [iter(one), iter(other)], ([], [])
    for _ in range(40):
        for reader, tokens in zip(readers, read, strict=True):
            tokens += [token for token in [next(reader, None)] if token is not None]
    assert list(read) == [alone(REQUESTS[2]), alone(REQUESTS[4])]


# Keys and values


def test_what_was_decoded_is_bit_for_bit_what_a_prompt_gives(make):
    engine = make()
    together = [send(engine, request) for request in REQUESTS]
    finish(engine)
    for request, generation in zip(REQUESTS, together, strict=True):
        whole = [*request.tokens, *generation.tokens, 0]
        known = engine._cache.known_tokens(whole, "n")
        length = len(request.tokens) + len(generation.tokens) - (generation.finish_reason == "length")
        assert known == length // 32 * 32  # the answer's blocks have joined the tree
        fresh = make()
        answer(fresh, whole, Sampling(max_new_tokens=1))
        ours, theirs = pages_of(engine, whole), pages_of(fresh, whole)
        assert len(ours) == known // 32
        assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=False))


def test_the_comparison_of_bits_notices_one_wrong_bit(make):
    """The control."""
    engine, fresh = make(), make()
    for each in (engine, fresh):
        send(each, REQUESTS[1])
        finish(each)
    ours, theirs = (pages_of(e, REQUESTS[1].tokens) for e in (engine, fresh))
    assert all(map(same_bits, ours, theirs))
    keys = ours[7][0]
    keys.view(torch.int16 if keys.dtype == torch.bfloat16 else torch.int32)[1, 0, 5, 3] ^= 1
    assert [same_bits(a, b) for a, b in zip(ours, theirs, strict=True)].index(False) == 7


def pages_of(engine, tokens):
    match = engine._cache.tree.match(tokens, namespace="n")
    engine._cache.tree.release(match)
    return [engine._pool.read(page) for page in match.payloads]


def same_bits(one, other):
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one, other, strict=True))


# Computed once, and packed


def test_a_prefix_that_many_ask_for_at_once_is_computed_once(make):
    engine, plain = make(), make(max_cache_bytes=0)
    shared = prompt(320)
    prompts = [shared + prompt(10, 1 + n) for n in range(6)]
    generations = [engine.generate(p, GREEDY, namespace="n") for p in prompts]
    finish(engine)
    assert engine.stats.prefill_tokens == 320 + 6 * 10
    assert [g.cached_tokens for g in generations] == [0, *[320] * 5]
    assert [g.tokens for g in generations] == [answer(plain, p) for p in prompts]
    check(engine)


def test_the_same_prompt_many_times_at_once_is_computed_once(make):
    engine = make()
    generations = [engine.generate(prompt(330), GREEDY, namespace="n") for _ in range(5)]
    finish(engine)
    assert engine.stats.prefill_tokens == 330 + 4 * 10
    assert len({tuple(g.tokens) for g in generations}) == 1


def test_a_prefix_whose_first_request_is_cancelled_is_computed_by_the_next(make):
    engine, plain = make(step_tokens=64), make(max_cache_bytes=0)
    shared = prompt(320)
    first, second = (engine.generate([*shared, n], GREEDY, namespace="n") for n in (5, 6))
    engine.step()
    first.close()
    assert list(second) == answer(plain, [*shared, 6])
    assert engine.stats.prefill_tokens == 321  # what the first one had done was not lost
    check(engine)


def test_where_little_can_be_kept_equal_prefixes_do_not_wait_for_ever(make):
    engine, plain = make(max_cache_bytes=2 * make()._pool.page_bytes), make(max_cache_bytes=0)
    prompts = [[*prompt(320), n] for n in range(5, 9)]
    generations = [engine.generate(p, GREEDY, namespace="n") for p in prompts]
    assert finish(engine) < 20
    assert [g.tokens for g in generations] == [answer(plain, p) for p in prompts]


def test_what_is_not_kept_is_not_waited_for(make):
    engine, plain = make(max_cache_bytes=2 * make()._pool.page_bytes), make(max_cache_bytes=0)
    prompts = [[*prompt(1400), n] for n in range(5, 9)]
    generations = [engine.generate(p, Sampling(max_new_tokens=20), namespace="n") for p in prompts]
    engine.step()
    assert engine.running_requests == 1  # so far nothing tells
    engine.step()
    assert engine.running_requests == 4
    finish(engine)
    assert [g.tokens for g in generations] == [answer(plain, p, Sampling(max_new_tokens=20)) for p in prompts]
    check(engine)


def test_namespaces_compute_the_same_prefix_apart(make):
    engine = make()
    for namespace in ("one", "other"):
        engine.generate(prompt(330), GREEDY, namespace=namespace)
    finish(engine)
    assert engine.stats.prefill_tokens == 660


def test_suffixes_behind_a_known_prefix_are_computed_in_one_call(make):
    engine, plain = make(), make(max_cache_bytes=0)
    shared = prompt(320)
    answer(engine, [*shared, 5])
    prompts = [shared + prompt(20 + n, 1 + n) for n in range(8)]
    generations = [engine.generate(p, GREEDY, namespace="n") for p in prompts]
    with calls_seen(engine) as calls:
        engine.step()
    assert [[len(c.tokens) for c in call] for call in calls] == [[20 + n for n in range(8)]]
    pages = {id(page) for (call,) in [calls] for chunk in call for page in chunk.pages[:10]}
    assert len(pages) == 10  # one copy of the prefix for all
    finish(engine)
    assert [g.tokens for g in generations] == [answer(plain, p) for p in prompts]


# Fair shares of a step


def test_a_long_prompt_does_not_hold_up_those_who_decode(make):
    engine = make(step_tokens=128)
    decoding = [
        engine.generate(prompt(20, n), Sampling(max_new_tokens=100), namespace="n", reuse=False)
        for n in range(4)
    ]
    engine.end_tokens = frozenset()
    while not all(g.tokens for g in decoding):
        engine.step()
    long = engine.generate(prompt(1500, 9), GREEDY, namespace="n")
    steps = 0
    while not long.tokens:
        before = [len(g.tokens) for g in decoding]
        with calls_seen(engine) as calls:
            engine.step()
        assert sum(len(chunk.tokens) for call in calls for chunk in call) <= 128
        assert all(len(g.tokens) > n for g, n in zip(decoding, before, strict=True))
        steps += 1
    assert steps == -(-1500 // 124)


@pytest.mark.parametrize("step_tokens", [1, 4])
def test_as_many_decoding_as_a_step_computes_do_not_hold_up_a_prompt(make, step_tokens):
    engine, plain = make(step_tokens=step_tokens, draft_tokens=0), make(max_cache_bytes=0)
    engine.end_tokens = plain.end_tokens = frozenset()
    decoding = [
        engine.generate(prompt(3, n), Sampling(max_new_tokens=100), namespace="n") for n in range(step_tokens)
    ]
    while not all(g.tokens for g in decoding):
        engine.step()
    late = engine.generate(prompt(40, 9), GREEDY, namespace="n")
    assert list(late) == answer(plain, prompt(40, 9))
    assert not any(g.finish_reason for g in decoding)


def test_a_long_prompt_does_not_hold_up_a_short_one_nor_the_other_way_round(make):
    engine = make(step_tokens=128)
    long = engine.generate(prompt(1500, 9), GREEDY, namespace="n")
    engine.step()
    short = engine.generate(prompt(30, 1), GREEDY, namespace="n")
    engine.step()
    assert short.tokens
    assert not long.tokens
    steps = 2
    while not long.tokens:
        engine.generate(prompt(200, 10 + steps), Sampling(max_new_tokens=1), namespace="n")
        engine.step()
        steps += 1
    assert steps <= 2 * 1500 / 128 + 2  # it has half of every step


def test_no_more_run_at_once_than_may(make, alone):
    engine = make(max_batch=3)
    generations = [send(engine, request) for request in REQUESTS]
    most = 0
    while engine.step():
        most = max(most, engine.running_requests)
        assert engine.running_requests <= 3
    assert most == 3
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]


def test_requests_wait_until_their_keys_and_values_fit_and_one_always_runs(make, alone):
    page = make()._pool.page_bytes
    engine = make(max_running_bytes=26 * page)  # the longest takes 38
    generations = [send(engine, request) for request in REQUESTS]
    most = 0
    while engine.step():
        running = [len(r.tokens) + r.new_tokens for r in engine._scheduler.running]
        most = max(most, len(running))
        own = sum(engine._scheduler.own_bytes(r) for r in engine._scheduler.running)
        assert own <= 26 * page or len(running) == 1
    assert most > 1
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]
    check(engine)


def test_a_large_request_that_waits_is_not_overtaken_for_ever(make):
    page = make()._pool.page_bytes
    engine = make(max_running_bytes=12 * page)
    engine.generate(prompt(100, 1), GREEDY, namespace="n")
    engine.step()
    large = engine.generate(prompt(300, 2), GREEDY, namespace="n")
    small = [engine.generate(prompt(20, 3 + n), GREEDY, namespace="n") for n in range(30)]
    while not large.finish_reason:
        engine.step()
    assert not small[-1].tokens
    finish(engine)
    assert all(g.finish_reason for g in small)


# Cancelling


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
def test_a_cancelled_request_frees_everything_at_once(make, alone, steps):
    engine = make(step_tokens=400)
    others = [send(engine, request) for request in REQUESTS[2:5]]
    cancelled = send(engine, REQUESTS[1], reuse=False)
    for _ in range(steps):
        engine.step()
    before, running = engine.held_bytes, engine.running_requests
    own = sum(p.nbytes for r in engine._scheduler.running if r.generation is cancelled for p in r.table.pages)
    cancelled.close()
    assert engine.held_bytes == before - own
    assert running - engine.running_requests == (1 if steps else 0)
    assert engine.waiting_requests == (0 if steps else 3)
    cancelled.close()
    engine._pool.check_invariants()
    engine._cache.tree.check_invariants()
    assert cancelled.finish_reason == "cancelled"
    with pytest.raises(RequestCancelled):
        list(cancelled)
    assert [list(g) for g in others] == [alone(r) for r in REQUESTS[2:5]]
    check(engine)


def test_closing_what_has_ended_changes_nothing(make):
    engine = make()
    generation = engine.generate(prompt(40), GREEDY, namespace="n")
    tokens, reason = list(generation), generation.finish_reason
    generation.close()
    assert (generation.tokens, generation.finish_reason) == (tokens, reason)
    assert list(generation) == tokens  # may be read again


def test_another_thread_cancels_in_the_midst_of_a_step(make, alone):
    engine = make()
    kept, cancelled = send(engine, REQUESTS[4]), send(engine, REQUESTS[1])
    run, midst = engine._forward.run, []

    def cancel_meanwhile(chunks, layout):
        if engine.stats.steps == 4:
            thread = threading.Thread(target=cancelled.close)
            thread.start()
            thread.join(60)  # it does not wait for the step
            midst.append(thread.is_alive())
        return run(chunks, layout)

    engine._forward.run = cancel_meanwhile
    assert list(kept) == alone(REQUESTS[4])
    assert midst == [False]
    assert cancelled.finish_reason == "cancelled"
    check(engine)


# One fails, the others don't


def test_a_sampler_that_fails_fails_alone(make, alone):
    engine = make()
    generations = [send(engine, request) for request in REQUESTS]

    class Broken:
        def choose(self, logits):
            raise ZeroDivisionError("broken")

    engine._scheduler.waiting[4].sampler = Broken()
    finish(engine)
    with pytest.raises(ZeroDivisionError, match="broken"):
        list(generations[4])
    for number, request in enumerate(REQUESTS):
        if number != 4:
            assert generations[number].tokens == alone(request)
    check(engine)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_request_that_can_not_be_computed_fails_alone(make, alone, error):
    engine = make()
    poison = prompt(50, 77)
    run = engine._forward.run

    def fails(chunks, layout):
        if any(list(chunk.tokens) == poison for chunk in chunks):
            raise error("too much")
        return run(chunks, layout)

    engine._forward.run = fails
    generations = [send(engine, request) for request in REQUESTS]
    bad = engine.generate(poison, GREEDY, namespace="n")
    finish(engine)
    with pytest.raises(error, match="too much"):
        list(bad)
    with pytest.raises(error, match="too much"):
        list(bad)
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]
    check(engine)


def test_without_memory_for_its_pages_a_request_fails_alone(make, alone):
    engine = make(step_tokens=4000)
    allocate = engine._pool.allocate

    def little(count):
        if count > 30:
            raise MemoryError(f"no memory for {count} pages")
        return allocate(count)

    engine._pool.allocate = little
    generations = [send(engine, request) for request in REQUESTS]
    finish(engine)
    with pytest.raises(MemoryError, match="no memory for 38"):
        list(generations[1])
    rest = [n for n in range(12) if n != 1]
    assert [generations[n].tokens for n in rest] == [alone(REQUESTS[n]) for n in rest]
    check(engine)


def test_what_can_not_be_kept_is_answered_all_the_same(make, alone, monkeypatch):
    engine = make()

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(engine._cache.tree, "insert", full)
    generations = [send(engine, request) for request in REQUESTS]
    finish(engine)
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]
    assert engine.prefix_stats.refused_blocks
    check(engine)


# Interrupted


class Interrupt:
    """Raises KeyboardInterrupt at one line of the engine's own code, counted from when it is let in."""

    def __init__(self, after_lines: int) -> None:
        self.left = after_lines

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, _argument):
        if "axolotl_cache/engine" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._trace


def interrupted_steps(make, alone, after_lines):
    """Interrupt a step after so many lines; return whether there was one, and what was held in the end."""
    engine = make(step_tokens=300)
    picked = [REQUESTS[n] for n in (3, 6, 4, 0)]
    for request in picked[:1]:
        send(engine, request)
    engine.step()
    generations = [send(engine, request) for request in picked]
    interrupt = Interrupt(after_lines)
    try:
        with interrupt:
            for _ in range(3):
                engine.step()
    except KeyboardInterrupt:
        pass
    for request, generation in zip(picked, generations, strict=True):
        if request.sampling.is_greedy:  # the random numbers of a token that nobody saw are gone
            assert list(generation) == alone(request), after_lines
    finish(engine)
    return interrupt.left <= 0, engine


@pytest.mark.parametrize("at", ["before", "behind"])
def test_an_interrupted_step_leaves_an_engine_that_works(make, alone, at):
    engine = make()
    generations = [send(engine, request) for request in REQUESTS]
    run, calls = engine._forward.run, []

    def interrupted(chunks, layout):
        calls.append(chunks)
        if len(calls) % 3 == 2:
            if at == "behind":
                run(chunks, layout)
            raise KeyboardInterrupt
        return run(chunks, layout)

    engine._forward.run = interrupted
    left = True
    while left:
        try:
            left = engine.step()
        except KeyboardInterrupt:
            continue
    assert [g.tokens for g in generations] == [alone(r) for r in REQUESTS]
    check(engine)


def test_an_interrupt_at_any_line_leaves_an_engine_that_answers(make, alone):
    for after_lines in range(1, 60_000, 997):
        was_interrupted, _ = interrupted_steps(make, alone, after_lines)
        if not was_interrupted:
            break
    assert after_lines > 5000


# Threads


def test_many_threads_with_many_requests_each(make, alone):
    engine = make(max_batch=6)
    results: dict[int, list[list[int]]] = {}

    def client(number: int) -> None:
        results[number] = [list(send(engine, REQUESTS[(number * 5 + n) % 12])) for n in range(4)]

    run_threads([threading.Thread(target=client, args=(n,)) for n in range(8)])
    for number in range(8):
        assert results[number] == [alone(REQUESTS[(number * 5 + n) % 12]) for n in range(4)]
    check(engine)


def test_threads_that_send_cancel_and_leave(make, alone):
    engine = make(max_batch=4)
    failures: list[BaseException] = []

    def client(number: int) -> None:
        rng = random.Random(number)
        try:
            for _ in range(12):
                request = REQUESTS[rng.choice([0, 2, 3, 5, 6, 10])]
                generation, read = send(engine, request), []
                stop_at = rng.choice([0, 1, 3, 99])
                for token in generation:
                    read.append(token)
                    if len(read) == stop_at:
                        break
                generation.close()
                assert read == alone(request)[: len(read)]
        except BaseException as error:
            failures.append(error)

    for request in REQUESTS:
        alone(request)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run_threads([threading.Thread(target=client, args=(n,)) for n in range(8)])
    finally:
        sys.setswitchinterval(before)
    assert not failures
    finish(engine)
    check(engine)


def test_one_thread_may_do_the_work_for_all(make, alone):
    engine = make()
    with engine.in_background():
        results: dict[int, list[int]] = {}
        run_threads(
            [
                threading.Thread(target=lambda n=n: results.update({n: list(send(engine, REQUESTS[n]))}))
                for n in range(8)
            ]
        )
    assert [results[n] for n in range(8)] == [alone(REQUESTS[n]) for n in range(8)]
    check(engine)


@pytest.mark.parametrize("fails", ["heed_pressure", "find"])
def test_an_error_in_the_background_ends_those_who_wait_and_nothing_else(make, alone, fails):
    engine = make(max_batch=1)
    work, broken = getattr(engine._cache, fails), threading.Event()

    def failing(*arguments):
        if broken.is_set():
            raise OSError("broken")
        return work(*arguments)

    setattr(engine._cache, fails, failing)
    errors = []

    def client(number):
        try:
            list(send(engine, REQUESTS[number]))
        except OSError as error:
            errors.append(str(error))

    with engine.in_background():
        broken.set()
        run_threads([threading.Thread(target=client, args=(n,)) for n in range(3)])
        assert errors == ["broken"] * 3
        with engine._turn():  # not in the midst of a step that fails
            broken.clear()
        assert list(send(engine, REQUESTS[0])) == alone(REQUESTS[0])
    assert list(send(engine, REQUESTS[2])) == alone(REQUESTS[2])
    check(engine)


def run_threads(threads):
    for thread in threads:
        thread.daemon = True  # a test that fails must not hang
        thread.start()
    for thread in threads:
        thread.join(240)
    assert not any(thread.is_alive() for thread in threads)


# Where the company matters


@contextmanager
def telling_model(model):
    """A model whose results depend on how many tokens are computed together, more than by rounding."""

    def lean(_module, _inputs, output):
        return output * (1 + 0.05 * output.shape[-2])

    handle = model.get_input_embeddings().register_forward_hook(lean)
    try:
        yield
    finally:
        handle.remove()


GRID, ALONE = Exactness("grid", "for a test"), Exactness("alone", "for a test")


@pytest.fixture
def make_as(monkeypatch, model):
    """Makes engines that were told how to compute, and so measure nothing."""

    def make_it(exactness, **options):
        monkeypatch.setattr(engine_module, "probe", lambda *_, **__: exactness)
        return make_engine(model, **options)

    return make_it


@pytest.mark.parametrize("exactness", [GRID, ALONE], ids=lambda e: e.mode)
def test_on_the_grid_a_hit_is_a_miss_alone(model, make_as, exactness):
    with telling_model(model):
        engine, plain = make_as(exactness), make_as(exactness, max_cache_bytes=0)
        assert engine.block_size == 128
        for request in REQUESTS:
            expected = list(send(plain, request))
            assert list(send(engine, request)) == expected
            again = send(engine, request)
            assert list(again) == expected
            assert again.cached_tokens == (len(request.tokens) - 1) // 128 * 128
            for known, computed in zip(
                pages_of(engine, request.tokens), pages_of_prompt(plain, request.tokens), strict=True
            ):
                assert same_bits(known, computed)
        check(engine)


def pages_of_prompt(engine, tokens):
    """The whole blocks of a prompt's pages while it runs, but for the last token's."""
    generation = engine.generate(tokens, Sampling(max_new_tokens=2), namespace="n")
    while not generation.tokens:
        engine.step()
    pages = (
        engine._scheduler.running[0].table.pages[: (len(tokens) - 1) // engine.block_size]
        if engine._scheduler.running
        else []
    )
    found = [engine._pool.read(page) for page in pages]
    generation.close()
    return found


@pytest.mark.parametrize(
    ("exactness", "strict"), [(GRID, True), (ALONE, False)], ids=["grid, strict", "alone"]
)
def test_strict_is_alone_whatever_the_company(model, make_as, exactness, strict):
    with telling_model(model):
        plain = make_as(exactness, max_cache_bytes=0)
        expected = [list(send(plain, request)) for request in REQUESTS]
        for seed in range(2):
            engine = make_as(exactness, strict=strict, step_tokens=200)
            rng = random.Random(seed)
            order = rng.sample(range(12), 12)
            generations = {}
            for number in order:
                generations[number] = send(engine, REQUESTS[number])
                engine.step()
            finish(engine)
            assert [generations[n].tokens for n in range(12)] == expected
            check(engine)


def test_without_strict_the_company_is_felt_and_prompts_are_not(model, make_as):
    """The control to the tests above, and to those of answers that are the same in any company."""
    with telling_model(model):
        plain = make_as(GRID, max_cache_bytes=0)
        expected = [list(send(plain, request)) for request in REQUESTS]
        engine = make_as(GRID)
        generations = [send(engine, request) for request in REQUESTS]
        finish(engine)
        assert [g.tokens for g in generations] != expected
        assert [g.tokens[:1] for g in generations] == [tokens[:1] for tokens in expected]
        wrongly = make_as(Exactness("invariant", "it is not", row_multiple=1))
        generations = [send(wrongly, request) for request in REQUESTS]
        finish(wrongly)
        assert [g.tokens[:1] for g in generations] != [tokens[:1] for tokens in expected]


def test_on_the_grid_what_was_decoded_is_not_reused(make_as):
    engine = make_as(GRID)
    generation = engine.generate(prompt(200), Sampling(max_new_tokens=100), namespace="n")
    turn = [*prompt(200), *generation, 5]
    assert engine.generate(turn, GREEDY, namespace="n")
    engine.step()
    assert engine._scheduler.running[0].generation.cached_tokens == 128


# Adapters


@dataclass(frozen=True, eq=False)
class FakeAdapter:
    digest: str
    shift: float


class FakeAdapters:
    """Does to the embeddings what the adapter in use says, and notes when."""

    def __init__(self, model) -> None:
        self.used: list[str] = []
        self._shift = 0.0
        self.handle = model.get_input_embeddings().register_forward_hook(self._lean)
        self.given = FakeAdapter("", 0.02)

    def get(self, name) -> FakeAdapter:
        assert name == ""
        return self.given

    def use(self, adapter) -> None:
        self.used.append(adapter.digest)
        self._shift = adapter.shift

    def _lean(self, _module, _inputs, output):
        return output + self._shift * torch.arange(output.shape[-1]).sin().to(output.dtype)


def test_requests_of_one_adapter_share_a_call_and_of_several_do_not(models, memo):
    model = models[torch.float32]
    adapters = FakeAdapters(model)
    try:
        kinds = [None, FakeAdapter("one", 0.05), FakeAdapter("other", -0.08)]
        requests = [r for r in REQUESTS if len(r.tokens) < 400]
        of = [kinds[n % 3] for n in range(len(requests))]

        def ask(engine, number):
            adapter = of[number]
            return send(
                engine, requests[number], adapter=adapter, namespace=adapter.digest if adapter else "n"
            )

        plain = make_engine(model, max_cache_bytes=0, memo=memo, adapters=adapters)
        expected = [list(ask(plain, n)) for n in range(len(requests))]
        adapters.used.clear()
        engine = make_engine(model, memo=memo, adapters=adapters, step_tokens=4000)
        generations = [ask(engine, n) for n in range(len(requests))]
        with calls_seen(engine) as calls:
            engine.step()
        assert sorted(adapters.used) == ["", "one", "other"]
        assert sorted(len(call) for call in calls) == sorted(
            sum(r.adapter is (kind or adapters.given) for r in engine._scheduler.running) for kind in kinds
        )
        finish(engine)
        assert [g.tokens for g in generations] == expected
        base = make_engine(model, max_cache_bytes=0, memo=memo, adapters=adapters)
        assert list(send(base, requests[1])) != expected[1]  # adapters do something here
        check(engine)
    finally:
        adapters.handle.remove()


def test_the_model_as_it_was_given_and_its_base_share_no_call_though_both_have_no_digest(models, memo):
    model = models[torch.float32]
    adapters = FakeAdapters(model)
    try:
        base = FakeAdapter("", -0.05)
        asked = [(prompt(50, n), adapter) for n, adapter in enumerate([None, base, adapters.given])]
        plain = make_engine(model, max_cache_bytes=0, memo=memo, adapters=adapters)
        expected = [answer(plain, tokens, adapter=adapter) for tokens, adapter in asked]
        assert answer(plain, asked[1][0]) != expected[1]
        engine = make_engine(model, memo=memo, adapters=adapters)
        generations = [engine.generate(t, GREEDY, namespace=str(a), adapter=a) for t, a in asked]
        with calls_seen(engine) as calls:
            engine.step()
        assert [len(call) for call in calls] == [2, 1]  # None is the model as it was given
        finish(engine)
        assert [g.tokens for g in generations] == expected
    finally:
        adapters.handle.remove()
