"""Drafts: guessed from what stands before, verified by the model, and never to be seen in an answer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.drafts import Drafts
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.runner import PagedRunner
from axolotl_cache.engine.sampling import Choice
from axolotl_cache.request import Sampling

ALONE = 1
NEW_TOKENS = 40


def test_what_followed_last_time_is_the_draft():
    tokens = [7, 8, 9, 1, 2, 3, 7, 8, 9]
    assert Drafts(4).propose(tokens, 10, company=ALONE) == [1, 2, 3, 7]
    assert Drafts(4).propose(tokens, 2, company=ALONE) == [1, 2]
    assert Drafts(4).propose(tokens, 0, company=ALONE) == []


def test_what_repeats_itself_goes_on_so():
    assert Drafts(7).propose([5, 1, 1, 1], 9, company=ALONE)[:2] == [1, 1]
    assert Drafts(3).propose([5, 1, 2, 1, 2, 1, 2], 9, company=ALONE) == [1, 2, 1]


def test_more_tokens_in_common_count_more_and_then_the_latest():
    assert Drafts(1).propose([5, 7, 8, 1, 6, 7, 8, 2, 5, 7, 8], 9, company=ALONE) == [1]
    assert Drafts(1).propose([7, 8, 1, 7, 8, 2, 7, 8], 9, company=ALONE) == [2]


@pytest.mark.parametrize("tokens", [[], [4], [4, 4], [1, 2, 3, 4, 5]])
def test_where_nothing_is_known_nothing_is_drafted(tokens):
    assert Drafts(7).propose(tokens, 10, company=ALONE) == []


def drafted_after(rights: str, company: int) -> int:
    """How many tokens are drafted after drafts that were right or wrong, as `rights` says."""
    drafts, tokens = Drafts(7), [1, 2, 3] * 3
    drafts.propose(tokens, 1, company=company)
    for is_right in rights:
        tokens = [*tokens, tokens[-3] if is_right == "r" else 50 + len(tokens)]
        if is_right == "w":
            tokens += [1, 2, 3]
        drafts.propose(tokens, 1, company=company)
    return len(drafts.propose(tokens, 7, company=company))


def test_drafts_get_shorter_with_every_wrong_one_and_longer_again():
    assert drafted_after("w" * 12, ALONE) < drafted_after("w", ALONE) < drafted_after("r" * 12, ALONE) == 7
    assert drafted_after("w" * 30 + "r" * 12, ALONE) == 7


def test_the_more_requests_share_a_step_the_surer_a_draft_must_be():
    lengths = [drafted_after("r" * 4, company) for company in (1, 8, 32, 1000)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] == 0
    assert drafted_after("w" * 30, 32) == 0


@given(steps=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=20))
def test_drafts_are_what_a_search_from_the_end_finds(steps):
    drafts, tokens = Drafts(7), []
    for step in steps:
        tokens = tokens + step
        expected = []
        for length in (3, 2):
            places = [at for at in range(length, len(tokens)) if tokens[at - length : at] == tokens[-length:]]
            if places and not expected:
                expected = (tokens[places[-1] :] * 7)[:7]
        draft = drafts.propose(tokens, 7, company=ALONE)
        assert draft == expected[: len(draft)]
        assert draft or not expected or drafts.chance < 1 / 16


# In the engine


@pytest.fixture(scope="module")
def make_engine(tiny_model, tmp_path_factory):
    memo = tmp_path_factory.mktemp("memo")

    def make(**options) -> Engine:
        return Engine(
            tiny_model,
            device=torch.device("cpu"),
            context_length_tokens=2048,
            end_tokens=frozenset({2}),
            max_cache_bytes=10**8,
            memo=memo,
            **options,
        )

    return make


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


SAMPLINGS = [
    Sampling(max_new_tokens=NEW_TOKENS, logprobs=3),
    Sampling(max_new_tokens=NEW_TOKENS, repetition_penalty=1.3),
    Sampling(max_new_tokens=NEW_TOKENS, temperature=0.8, top_p=0.9, seed=11, logprobs=0),
    Sampling(max_new_tokens=NEW_TOKENS, temperature=1.2, repetition_penalty=1.1, seed=12),
]


def answers(engine: Engine, prompts, samplings=SAMPLINGS):
    """Answers, with log probabilities and ends, of prompts that run together; and the KV kept of them."""
    together = [engine.generate(p, s, namespace="n") for p, s in zip(prompts, samplings, strict=False)]
    found = [(list(g), g.choices, g.finish_reason) for g in together]
    kept = []
    for p, (tokens, *_) in zip(prompts, found, strict=True):
        table = engine._cache.find([*p, *tokens, 3], "n")
        kept.append([t.clone() for page in table.pages for t in engine._pool.read(page)])
        engine._cache.close(table)
    engine._pool.check_invariants()
    assert engine.held_bytes == engine.prefix_stats.held_bytes
    return found, kept


def same(one, other) -> bool:
    (found, kept), (found_too, kept_too) = one, other
    return found == found_too and all(
        len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in zip(kept, kept_too, strict=True)
    )


PROMPTS = [prompt(1030, 1), prompt(70, 2), prompt(33, 3), prompt(500, 4)]


@pytest.fixture(scope="module")
def expected(make_engine):
    return answers(make_engine(draft_tokens=0), PROMPTS)


def drafting(monkeypatch, draft):
    """Have the engine draft what `draft` returns for a request's tokens, as far as it is of use."""
    monkeypatch.setattr(
        Drafts, "propose", lambda self, tokens, most_tokens, *, company: draft(tokens)[:most_tokens]
    )


def continuation(expected):
    texts = [[*p, *found[0]] for p, found in zip(PROMPTS, expected[0], strict=True)]
    return lambda tokens: next(t[len(tokens) :] for t in texts if t[: len(tokens)] == list(tokens))[:7]


def test_drafts_change_no_answer_and_no_kept_bit(make_engine, expected):
    engine = make_engine()
    assert engine.exactness.mode == "invariant"
    assert same(answers(engine, PROMPTS), expected)


def test_right_drafts_save_steps(make_engine, expected, monkeypatch):
    drafting(monkeypatch, continuation(expected))
    engine = make_engine()
    assert same(answers(engine, PROMPTS), expected)
    assert engine.stats.right_drafted_tokens == engine.stats.drafted_tokens > 3 * engine.stats.steps


@pytest.mark.parametrize("first_wrong", [0, 1, 4])
def test_wrong_drafts_change_nothing(make_engine, expected, monkeypatch, first_wrong):
    known = continuation(expected)

    def draft(tokens):
        guess = known(tokens)
        return [t if n < first_wrong else (t + 1) % 500 for n, t in enumerate(guess)]

    drafting(monkeypatch, draft)
    engine = make_engine()
    assert same(answers(engine, PROMPTS), expected)
    assert (
        engine.stats.drafted_tokens
        > engine.stats.right_drafted_tokens
        == (0 if first_wrong == 0 else engine.stats.right_drafted_tokens)
    )


def test_the_control_drafts_that_are_taken_on_trust_are_seen(make_engine, expected, monkeypatch):
    def trust(self, running, count, logits):
        draft, running.draft = running.draft, []
        self._count_tokens(running, count - len(draft))
        for token in draft:
            running.accept(Choice(token))
            self._count_tokens(running, 1)
        running.accept(running.sampler.choose(logits[-1]))

    monkeypatch.setattr(PagedRunner, "_choose", trust)
    drafting(monkeypatch, lambda tokens: [(tokens[-1] + 1) % 500])
    assert not same(answers(make_engine(), PROMPTS), expected)


def test_the_control_kept_bits_of_a_wrong_draft_are_seen(make_engine, expected, monkeypatch):
    """The tokens are right, but where a draft was wrong its KV stays."""
    choose = PagedRunner._choose

    def skip(self, running, count, logits):
        draft = list(running.draft)
        choose(self, running, count, logits)
        if draft and draft[0] != running.tokens[-1] and not running.has_ended:
            running.accept(running.sampler.choose(logits[0]))
            running.computed_tokens += 1

    monkeypatch.setattr(PagedRunner, "_choose", skip)
    drafting(monkeypatch, lambda tokens: [(tokens[-1] + 1) % 500])
    assert not same(answers(make_engine(), PROMPTS), expected)


@pytest.mark.parametrize("new_tokens", [1, 2, 5])
def test_no_more_is_drafted_than_the_answer_may_have(make_engine, expected, monkeypatch, new_tokens):
    drafting(monkeypatch, continuation(expected))
    engine, sampling = make_engine(), Sampling(max_new_tokens=new_tokens)
    generation = engine.generate(PROMPTS[0], sampling, namespace="n")
    most = 0
    while engine.step():
        most = max(most, engine._pool.used_bytes // engine._pool.page_bytes)
    assert generation.tokens == expected[0][0][0][:new_tokens]
    assert generation.finish_reason == "length"
    assert most <= -(-(len(PROMPTS[0]) + new_tokens) // engine.block_size)


def test_a_drafted_end_token_ends_the_answer(make_engine, expected, monkeypatch):
    drafting(monkeypatch, continuation(expected))
    tokens = expected[0][0][0]
    end = tokens[5]
    engine = make_engine()
    generation = engine.generate(
        PROMPTS[0], Sampling(max_new_tokens=NEW_TOKENS), namespace="n", end_tokens=frozenset({end})
    )
    assert list(generation) == tokens[: tokens.index(end)]
    assert generation.finish_reason == "stop"


def test_where_company_changes_bits_nothing_is_drafted(make_engine, monkeypatch):
    engine = make_engine()
    object.__setattr__(engine.exactness, "mode", "grid")
    list(engine.generate([1, 2, 3] * 30, Sampling(max_new_tokens=20), namespace="n"))
    assert engine.stats.drafted_tokens == 0


def test_repeated_text_is_drafted(make_engine):
    """The control of the one above; a small model soon repeats itself."""
    engine = make_engine()
    list(engine.generate([1, 2, 3] * 30, Sampling(max_new_tokens=60), namespace="n"))
    assert engine.stats.drafted_tokens > 0


def test_fewer_tokens_than_none_can_not_be_drafted(make_engine):
    with pytest.raises(ValueError, match="draft_tokens is -1"):
        make_engine(draft_tokens=-1)
