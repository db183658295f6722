"""Adapters and log probabilities on a request's way."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from axolotl_cache import SmartInferenceCache
from axolotl_cache.engine.adapters import Adapters
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.errors import RequestError
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import (
    Answer,
    CacheControl,
    Delta,
    Message,
    Request,
    Sampling,
    Served,
    TokenLogprob,
)


@pytest.fixture(scope="module")
def loaded(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")


def save_adapter(small_model_folder, folder, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(small_model_folder)
    lora = LoraConfig(target_modules=["q_proj", "v_proj", "o_proj"], r=8, init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


@pytest.fixture
def adapters(loaded, small_model_folder, tmp_path):
    adapters = Adapters(loaded.model, loaded.namespace, dtype=loaded.dtype)
    for seed, name in enumerate(("legal", "medical")):
        adapters.load(name, save_adapter(small_model_folder, tmp_path / name, seed))
    yield adapters
    adapters.use("")


@pytest.fixture
def pipeline(loaded, adapters, memo):
    engine = Engine(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        max_cache_bytes=10**8,
        adapters=adapters,
        memo=memo,
    )
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    response = SmartInferenceCache(capacity=100)
    return Pipeline(engine, renderer, loaded.namespace, response, adapters=adapters)


def ask(adapter="", **settings) -> Request:
    sampling = Sampling(**{"max_new_tokens": 6} | settings)
    messages = (Message("system", "You help the customers of a bank. " * 12), Message("user", "Hello?"))
    return Request(
        messages=messages, sampling=sampling, adapter=adapter, cache_control=CacheControl(truncated=True)
    )


NAMES = ["", "legal", "medical"]


def test_each_adapter_has_its_own_answers_and_its_own_entries(pipeline):
    first = {name: pipeline.answer(ask(name)) for name in NAMES}
    assert len({answer.text for answer in first.values()}) == 3
    for answer in first.values():
        assert (answer.served, answer.usage.cached_tokens) == (Served.MISS, 0)
    for name in reversed(NAMES):
        again = pipeline.answer(ask(name))
        assert again.served is Served.HIT_EXACT
        assert again.text == first[name].text


def test_the_prefix_cache_keeps_them_apart(pipeline):
    pipeline.response_enabled = False
    first = {name: pipeline.answer(ask(name)).text for name in NAMES}
    for name in NAMES:
        again = pipeline.answer(ask(name))
        assert again.served is Served.HIT_PREFIX
        assert again.text == first[name]


def test_the_control_with_one_namespace_for_all_the_answers_are_wrong(pipeline, monkeypatch):
    pipeline.response_enabled = False
    right = pipeline.answer(ask("legal", max_new_tokens=24, logprobs=0))
    pipeline.engine.clear()
    monkeypatch.setattr(pipeline.adapters, "namespace_for", lambda adapter, within: within)
    pipeline.answer(ask("medical"))
    wrong = pipeline.answer(ask("legal", max_new_tokens=24, logprobs=0))
    assert wrong.usage.cached_tokens
    assert wrong.logprobs != right.logprobs


def test_they_are_answered_side_by_side_as_if_alone(pipeline):
    pipeline.response_enabled = pipeline.prefix_enabled = False
    alone = {name: pipeline.answer(ask(name, logprobs=2)) for name in NAMES}
    streams = {name: pipeline.stream(ask(name, logprobs=2)) for name in NAMES}
    parts = {name: [next(stream)] for name, stream in streams.items()}
    assert pipeline.engine.running_requests == 3
    while streams:
        for name in list(streams):
            part = next(streams[name], None)
            if part is None:
                del streams[name]
            else:
                parts[name].append(part)
    for name in NAMES:
        answer = parts[name][-1]
        assert (answer.text, answer.logprobs) == (alone[name].text, alone[name].logprobs)


def test_a_reload_in_the_midst_of_an_answer_changes_nothing_of_it(pipeline, adapters):
    whole = pipeline.answer(ask("legal", logprobs=0))
    pipeline.response.clear()
    pipeline.engine.clear()
    parts = pipeline.stream(ask("legal", logprobs=0))
    begun = [next(parts)]
    file = adapters.get("legal").folder / "adapter_model.safetensors"
    save_file({n: w * -4 for n, w in load_file(file).items()}, file, metadata={"format": "pt"})
    adapters.reload("legal")
    *_, answer = [*begun, *parts]
    assert (answer.text, answer.logprobs) == (whole.text, whole.logprobs)
    fresh = pipeline.answer(ask("legal", logprobs=0))
    assert fresh.served is Served.MISS, "nothing of the old weights serves the new ones"
    assert fresh.logprobs != whole.logprobs


def test_an_unknown_adapter_is_refused_before_anything_is_computed(pipeline, loaded):
    for act in (pipeline.answer, pipeline.check):
        with pytest.raises(RequestError, match="no adapter 'other'; loaded: legal, medical"):
            act(ask("other"))
    pipeline.check(ask("legal"))
    assert pipeline.engine.stats.steps == 0
    pipeline.adapters = None
    with pytest.raises(RequestError, match="without any"):
        pipeline.answer(ask("legal"))


def test_log_probabilities_come_with_the_pieces_and_the_answer(pipeline):
    *deltas, answer = pipeline.stream(ask(logprobs=2))
    assert isinstance(answer, Answer)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert tuple(entry for delta in deltas for entry in delta.logprobs) == answer.logprobs
    assert "".join(delta.text for delta in deltas) == answer.text
    assert len(answer.logprobs) == answer.usage.completion_tokens
    for entry in answer.logprobs:
        assert [len(entry.top), entry.top[0].token, entry.top[0].text] == [2, entry.token, entry.text]
        assert entry.top[0].logprob == entry.logprob <= 0
        assert entry.text == pipeline.renderer.show([entry.token])


def test_stored_answers_replay_them(pipeline):
    first, again = pipeline.answer(ask(logprobs=3)), pipeline.answer(ask(logprobs=3))
    assert again.served is Served.HIT_EXACT
    assert again.logprobs == first.logprobs
    assert first.logprobs
    (delta, _) = pipeline.stream(ask(logprobs=3))
    assert delta.logprobs == first.logprobs


def test_they_are_there_only_if_asked_for(pipeline):
    silent, told = pipeline.answer(ask()), pipeline.answer(ask(logprobs=0))
    assert (silent.logprobs, silent.text) == ((), told.text)
    assert told.served is not Served.HIT_EXACT, "what was stored without them can't serve who wants them"
    assert all(entry.top == () for entry in told.logprobs)
    assert pipeline.answer(ask()).logprobs == ()


def test_tokens_whose_text_a_stop_string_cut_off_have_theirs(pipeline):
    full = pipeline.answer(ask()).text
    *deltas, answer = pipeline.stream(ask(stop=(full[3:6],), logprobs=0))
    assert answer.text == full[: full.index(full[3:6])]
    assert len(answer.logprobs) == answer.usage.completion_tokens
    assert tuple(entry for delta in deltas for entry in delta.logprobs) == answer.logprobs


def test_a_space_at_the_beginning_of_a_token_is_part_of_its_text(pipeline):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    own = Tokenizer(models.WordLevel({"\u2581Hello": 0, "\u2581you": 1, "<s>": 2}, unk_token="<s>"))
    own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    renderer = PromptRenderer(PreTrainedTokenizerFast(tokenizer_object=own), None)
    assert renderer.show([1]) == "you"

    from axolotl_cache.pipeline.writing import Logprobs

    choices = [SimpleNamespace(token=1, logprob=-0.5, top=((0, -1.0),))]
    logprobs = Logprobs(renderer, SimpleNamespace(choices=choices), wanted=True)
    logprobs.push()
    assert logprobs.all == [TokenLogprob(1, " you", -0.5, (TokenLogprob(0, " Hello", -1.0),))]
