"""From logits to tokens and their log probabilities, against transformers' own."""

import math

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from axolotl_cache.engine.sampling import LEAST_LOGPROB, Choice, Sampler, check_sampling
from axolotl_cache.errors import RequestError
from axolotl_cache.request import MAX_LOGPROBS, Sampling

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def row(seed, size=5000, dtype=torch.float32):
    return (torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 4).to(dtype)


def sampler(prompt=(5, 6, 7), **settings):
    return Sampler(Sampling(**settings), prompt, CPU)


def prompt_of(length):
    return torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def generated(model, prompt, seed=0, **settings):
    """What transformers generates for a batch of one, with the logits of every step."""
    torch.manual_seed(seed)
    ids = torch.tensor([prompt])
    config = GenerationConfig(max_new_tokens=12, eos_token_id=499, pad_token_id=0, **settings)
    more = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **more)
    return out.sequences[0, len(prompt) :].tolist(), out


def ours(model, prompt, sampling, steps):
    """What our sampler chooses on the model's own logits, computed anew for the whole text at each step."""
    chooser, tokens, choices = Sampler(sampling, prompt, CPU), list(prompt), []
    for _ in range(steps):
        with torch.inference_mode():
            choices.append(chooser.choose(model(input_ids=torch.tensor([tokens])).logits[0, -1]))
        tokens.append(choices[-1].token)
    return choices


SETTINGS = [
    {},
    {"repetition_penalty": 1.3},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 30},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 0.9, "min_p": 0.02},
    {"temperature": 0.8, "top_k": 200, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_and_log_probabilities_are_those_of_transformers(tiny_model, settings):
    prompt = prompt_of(30)
    theirs = {"do_sample": "temperature" in settings, "top_k": 0} | settings
    tokens, out = generated(tiny_model, prompt, seed=17, **theirs)
    choices = ours(tiny_model, prompt, Sampling(seed=17, logprobs=5, **settings), len(tokens))
    assert [choice.token for choice in choices] == tokens
    for choice, logits in zip(choices, out.logits, strict=True):
        logprobs = logits[0].float().log_softmax(-1)
        assert choice.logprob == pytest.approx(float(logprobs[choice.token]), abs=1e-4)
        best = logprobs.topk(5)
        assert [token for token, _ in choice.top] == best.indices.tolist()
        assert [value for _, value in choice.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_the_control_log_probabilities_are_not_those_of_what_was_sampled_from(tiny_model):
    """With a penalty and a temperature, transformers' scores are something else than the model's logits."""
    prompt = prompt_of(30)
    settings = {"temperature": 0.5, "repetition_penalty": 1.3}
    tokens, out = generated(tiny_model, prompt, seed=17, do_sample=True, top_k=0, **settings)
    choices = ours(tiny_model, prompt, Sampling(seed=17, logprobs=0, **settings), len(tokens))
    scores = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.scores, tokens, strict=True)]
    assert [choice.logprob for choice in choices] != pytest.approx(scores, abs=1e-2)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_asked_about_a_token_does_not_change_which_it_is(settings):
    one, other = sampler(seed=3, **settings), sampler(seed=3, logprobs=MAX_LOGPROBS, **settings)
    for seed in range(20):
        logits = row(seed)
        before = logits.clone()
        silent, told = one.choose(logits), other.choose(logits)
        assert silent == Choice(told.token)
        assert told.logprob is not None
        assert torch.equal(logits, before)


@pytest.mark.parametrize("settings", SETTINGS[2:], ids=str)
def test_a_request_draws_the_same_whatever_else_draws(settings):
    alone = [sampler(seed=3, **settings).next_token(row(0)) for _ in range(1)]
    chooser = sampler(seed=3, **settings)
    expected = [chooser.next_token(row(seed)) for seed in range(8)]
    assert expected[:1] == alone
    mine, others = sampler(seed=3, **settings), [sampler(seed=3, **settings), sampler(**settings)]
    found = []
    for seed in range(8):
        for other in others:
            other.choose(row(100 + seed))
        torch.rand(7)  # the process's own random numbers
        found.append(mine.choose(row(seed)).token)
    assert found == expected
    different = sampler(seed=4, **settings)
    assert [different.next_token(row(seed)) for seed in range(8)] != expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_takes_the_first_of_equal_logits_as_transformers_does(dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        size = int(torch.randint(1, 3000, (1,), generator=generator))
        logits = torch.randint(-3, 4, (size,), generator=generator).to(dtype)
        theirs = int(torch.argmax(logits.to(torch.float32).unsqueeze(0), dim=-1))
        assert theirs == int((logits == logits.max()).nonzero()[0])
        assert sampler().choose(logits) == Choice(theirs)
        assert sampler(logprobs=1).choose(logits).top[0][0] == theirs


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_is_the_same_in_the_models_dtype_and_in_float32(dtype):
    for seed in range(20):
        logits = row(seed, dtype=dtype)
        assert sampler().next_token(logits) == sampler().next_token(logits.float())


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities_are_in_float32_and_ordered(dtype, settings):
    logits = row(1, dtype=dtype)
    choice = sampler(logprobs=20, **settings).choose(logits)
    right = logits.double().log_softmax(-1)
    assert choice.logprob == pytest.approx(float(right[choice.token]), abs=1e-4)
    assert [value for _, value in choice.top] == pytest.approx(right.topk(20).values.tolist(), abs=1e-4)
    keys = [(-float(logits[token]), token) for token, _ in choice.top]
    assert keys == sorted((-float(value), token) for token, value in enumerate(logits))[:20]


def test_equal_logits_are_listed_by_their_ids():
    logits = torch.zeros(1000)
    logits[700] = 1
    choice = sampler(logprobs=4).choose(logits)
    assert [token for token, _ in choice.top] == [700, 0, 1, 2]


def test_none_of_the_most_likely_is_listed_for_zero_and_all_of_a_small_vocabulary_at_the_most():
    assert sampler(logprobs=0).choose(row(1)).top == ()
    assert sampler(logprobs=0).choose(row(1)).logprob is not None
    small = sampler(logprobs=20).choose(torch.tensor([1.0, 2.0, 0.0]))
    assert [token for token, _ in small.top] == [1, 0, 2]
    assert sum(math.exp(value) for _, value in small.top) == pytest.approx(1)


def test_a_chosen_token_need_not_be_among_the_most_likely():
    logits = row(1)
    chooser = sampler(temperature=5.0, seed=0, logprobs=1)
    choices = [chooser.choose(logits) for _ in range(20)]
    unlikely = [choice for choice in choices if choice.token != choice.top[0][0]]
    assert unlikely
    assert all(choice.logprob < choice.top[0][1] for choice in unlikely)


def test_what_is_impossible_has_a_log_probability_that_json_can_hold():
    logits = torch.tensor([0.0, -math.inf, 1.0])
    choice = sampler(logprobs=3).choose(logits)
    assert choice.top[2] == (1, LEAST_LOGPROB)


BAD = {
    "one NaN": [0.0, math.nan, 3.0],
    "all NaN": [math.nan] * 3,
    "infinity": [0.0, math.inf, 3.0],
    "all ruled out": [-math.inf] * 3,
}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("logits", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_not_finite_are_an_error_and_not_a_token(dtype, logits, settings):
    chooser = sampler(prompt=(0, 1), seed=1, **settings)
    with pytest.raises(RequestError, match="not finite"):
        chooser.choose(torch.tensor(logits, dtype=dtype))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_token_may_be_ruled_out(settings):
    logits = torch.tensor([-math.inf, 1.0, -math.inf])
    assert sampler(prompt=(0, 1), seed=1, **settings).choose(logits).token == 1


def test_the_repetition_penalty_counts_the_prompt_and_the_answer():
    prompt = [5, 6]
    mine = sampler(prompt, repetition_penalty=1.5)
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])
    seen = torch.tensor([prompt])
    for seed in range(10):
        logits = row(seed, size=40)
        token = int(theirs(seen, logits.unsqueeze(0).clone()).argmax())
        assert mine.choose(logits).token == token
        seen = torch.cat([seen, torch.tensor([[token]])], dim=1)


def test_logits_that_are_part_of_a_batch_or_of_a_graph():
    batch = torch.stack([row(seed) for seed in range(4)])
    assert sampler().next_token(batch[2]) == sampler().next_token(row(2))
    assert sampler().next_token(batch.T.contiguous().T[2]) == sampler().next_token(row(2))
    tracked = row(2).requires_grad_()
    assert sampler(logprobs=2).choose(tracked) == sampler(logprobs=2).choose(row(2))


def test_no_more_than_openais_number_may_be_asked_for():
    for count in (None, 0, 1, MAX_LOGPROBS):
        check_sampling(Sampling(logprobs=count))
    for count in (-1, MAX_LOGPROBS + 1):
        with pytest.raises(RequestError, match=r"logprobs is .* 0 to 20"):
            check_sampling(Sampling(logprobs=count))


def test_stored_answers_are_told_apart_by_log_probabilities_only_if_they_are_asked_for():
    assert "logprobs" not in Sampling().canonical()
    settings = [Sampling(logprobs=count).canonical() for count in (None, 0, 1, 5)]
    assert all(a != b for i, a in enumerate(settings) for b in settings[:i])
