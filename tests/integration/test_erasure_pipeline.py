"""Erasure through all tiers: answers, keys and values in memory, and blocks on disk."""

from array import array

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model
from axolotl_cache.engine.lower import LowerTier, open_lower_store
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.errors import ErasureError
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import CacheControl, Message, Request, Sampling, Served

PROMPT = "The balance of the yellow canary's account is a secret. " * 12
OTHERS = "The balance of the sparrow's account is a secret, too. " * 12


@pytest.fixture(scope="module")
def loaded(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")


@pytest.fixture
def pipeline(loaded, tmp_path):
    def lower(layout, block_size):
        store = open_lower_store(tmp_path / "kv", layout=layout, block_size=block_size, max_bytes=10**9)
        return [LowerTier(store, layout=layout, block_size=block_size)]

    engine = Engine(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        memo=tmp_path / "exactness",
        max_cache_bytes=10**8,
        lower=lower,
    )
    response = SmartInferenceCache(100, None, tmp_path / "responses")
    made = Pipeline(
        engine, PromptRenderer(loaded.tokenizer, loaded.chat_template), loaded.namespace, response
    )
    yield made
    made.close()


def ask(text, **owner):
    return Request(
        [Message("user", text)],
        sampling=Sampling(max_new_tokens=3),
        cache_control=CacheControl(truncated=True),
        **owner,
    )


def files_with(pipeline, folder, text):
    """Return how many files hold the token ids of a prompt, as blocks on disk have them."""
    tokens = pipeline.renderer.tokens(pipeline.renderer.text(ask(text)), is_plain=False)
    size = pipeline.engine.block_size
    ids = array("I", tokens[size : 2 * size]).tobytes().hex().encode()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(ids in path.read_bytes() for path in files)


def fill(pipeline, **owner):
    """Ask for two, and return both requests: the owner's, and one of nobody's."""
    both = ask(PROMPT, **owner), ask(OTHERS)
    for request in both:
        pipeline.answer(request)
        assert pipeline.answer(request).served is Served.HIT_EXACT
    for tier in pipeline.engine._cache._lower:
        tier.flush()
    return both


def test_a_tenant_is_gone_from_every_tier_and_nobody_else(pipeline, tmp_path):
    theirs, others = fill(pipeline, tenant="canary")
    assert files_with(pipeline, tmp_path, PROMPT) > 0
    report = pipeline.erase(tenant="canary")
    assert report.entries >= 3  # the answer, and blocks in both tiers
    assert [each for each in report.left if "a model or an adapter that is not loaded now" in each]
    assert files_with(pipeline, tmp_path, PROMPT) == 0
    assert files_with(pipeline, tmp_path, OTHERS) > 0
    assert pipeline.answer(others).served is Served.HIT_EXACT
    again = pipeline.answer(theirs)
    assert (again.served, again.usage.cached_tokens) == (Served.MISS, 0)
    for tier in pipeline.engine._cache._lower:
        tier.flush()
    assert files_with(pipeline, tmp_path, PROMPT) > 0, "what is asked for again is stored again"


@pytest.mark.parametrize("kind", ["principal", "session"])
def test_keys_and_values_of_a_user_are_named_and_go_when_asked_for(pipeline, tmp_path, kind):
    theirs, _ = fill(pipeline, **{kind: "ada"})
    owner = {"user" if kind == "principal" else kind: "ada"}
    report = pipeline.erase(**owner)
    assert report.entries == 1
    assert "keys_and_values=True" in report.left[0]
    assert files_with(pipeline, tmp_path, PROMPT) > 0
    report = pipeline.erase(**owner, keys_and_values=True)
    assert (report.left, files_with(pipeline, tmp_path, PROMPT)) == ((), 0)
    assert files_with(pipeline, tmp_path, OTHERS) == 0, "they can't be told apart"
    assert pipeline.engine.prefix_stats.held_blocks == 0
    assert pipeline.answer(theirs).usage.cached_tokens == 0


def test_pinned_prefixes_stay(pipeline):
    pinned = pipeline.precompute([PROMPT], 10_000)
    fill(pipeline, session="s")
    held = pipeline.engine.prefix_stats.pinned_bytes
    assert pinned[0] > 0
    pipeline.erase(session="s", keys_and_values=True)
    assert pipeline.engine.prefix_stats.pinned_bytes == pipeline.engine.prefix_stats.held_bytes == held


def test_a_tier_that_fails_keeps_no_other_from_its_part(pipeline, tmp_path):
    fill(pipeline, tenant="canary")
    stuck = tmp_path / "responses" / "cache.sqlite3.damaged-1"
    stuck.mkdir()
    with pytest.raises(ErasureError, match=r"cache\.sqlite3\.damaged-1"):
        pipeline.erase(tenant="canary")
    assert files_with(pipeline, tmp_path, PROMPT) == 0


def test_one_owner_at_a_time(pipeline):
    with pytest.raises(TypeError, match="erase whose"):
        pipeline.erase(keys_and_values=True)
