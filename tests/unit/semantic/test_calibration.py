"""Calibration, features, index and intervals: what they promise, and what they notice."""

import json
import sys
import threading
from importlib.resources import files

import numpy as np
import pytest

from axolotl_cache.response.semantic.calibration import Calibration, learn, shipped, sigmoid
from axolotl_cache.response.semantic.context import CONTEXT_FEATURES
from axolotl_cache.response.semantic.embedders import DEFAULT, EMBEDDERS, unit
from axolotl_cache.response.semantic.facts.extract import extract
from axolotl_cache.response.semantic.features import FEATURES, features_of
from axolotl_cache.response.semantic.index import Index


def _pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of which one, through a known logistic curve, decides; the others say nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, len(FEATURES)))
    return features, rng.random(count) < sigmoid(2 * features[:, 0])


def test_the_probability_is_the_share_that_is_right() -> None:
    model = learn(*_pairs(4000, 1), embedder="test", sources=("made up",))
    features, right = _pairs(20_000, 2)
    probability = model.probability(features)
    for low in (0.1, 0.3, 0.5, 0.7, 0.85):
        these = (probability >= low) & (probability < low + 0.1)
        assert abs(right[these].mean() - probability[these].mean()) < 0.04


def test_control_a_model_of_other_labels_is_not_calibrated() -> None:
    features, right = _pairs(4000, 1)
    model = learn(features, ~right, embedder="test", sources=())
    probability = model.probability(features)
    assert abs(right[probability > 0.8].mean() - probability[probability > 0.8].mean()) > 0.5


def test_it_survives_json_and_is_deterministic() -> None:
    pairs = _pairs(300, 3)
    model = learn(*pairs, embedder="test", sources=("a", "b"))
    assert (
        Calibration.from_json(model.to_json()) == model == learn(*pairs, embedder="test", sources=("a", "b"))
    )


def test_pairs_of_one_kind_teach_nothing() -> None:
    with pytest.raises(ValueError, match="right pairs and wrong ones"):
        learn(np.zeros((5, len(FEATURES))), np.ones(5), embedder="test", sources=())


@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_embedder_has_a_calibration_of_these_features(name: str) -> None:
    model = shipped(name)
    assert model.features == FEATURES
    assert model.embedder == name
    assert sum(count for _, _, count in model.reliability) <= model.pairs
    # 0.75 must mean 0.75, whatever the embedder.
    said = [(p, right, n) for p, right, n in model.reliability if 0.7 <= p < 0.8]
    assert all(abs(p - right) < 0.1 for p, right, n in said if n > 20)


def test_an_unknown_embedder_has_none() -> None:
    with pytest.raises(KeyError, match=r"benchmarks/calibrate\.py"):
        shipped("none-such")


def test_features_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="10 features, not 9"):
        shipped(DEFAULT).probability(np.zeros(9))


def test_contexts_have_a_calibration_of_their_own() -> None:
    assert shipped(DEFAULT, of_contexts=True).features == CONTEXT_FEATURES


def test_equal_questions_are_right_and_features_are_symmetric() -> None:
    a, b = extract("How do I delete my account?"), extract("how can I erase my profile")
    assert np.array_equal(features_of(a, b, 0.9), features_of(b, a, 0.9))
    for name in EMBEDDERS:
        assert shipped(name).probability(features_of(a, a, 1.0))[0] > 0.95


def test_what_a_greater_cosine_says() -> None:
    a, b = extract("How do I delete my account?"), extract("what must I do to leave you for good")
    for name in EMBEDDERS:
        low, high = shipped(name).probability([features_of(a, b, 0.2), features_of(a, b, 0.99)])
        assert low < high


def test_data_files_say_where_they_come_from() -> None:
    folder = files("axolotl_cache.response.semantic").joinpath("data")
    for name in ("en.json", "zh.json"):
        assert json.loads(folder.joinpath(name).read_text(encoding="utf-8"))["provenance"]


def test_the_index_finds_the_nearest_and_forgets_what_is_removed() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(200, 16)))
    index = Index(16)
    for item, vector in enumerate(vectors):
        index.add(item, vector)
    found = index.nearest(vectors[7], 5)
    assert [item for item, _ in found] == np.argsort(-(vectors @ vectors[7]))[:5].tolist()
    assert found[0] == (7, pytest.approx(1.0))
    index.remove([7, 7, 999])
    assert len(index) == 199
    assert index.nearest(vectors[7], 1)[0][0] != 7
    index.add(3, vectors[7])
    assert index.nearest(vectors[7], 1)[0][0] == 3
    assert len(index) == 199
    assert Index(16).nearest(vectors[0]) == []


def test_a_vector_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16,\)"):
        Index(16).add(0, np.zeros(8))


def test_without_usearch_comparing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    index = Index(4, exact_limit=3)
    for item in range(10):
        index.add(item, np.eye(4)[item % 4])
    assert index.exact
    assert len(index) == 10


def test_with_usearch_a_large_index_finds_the_same() -> None:
    pytest.importorskip("usearch")
    vectors = unit(np.random.default_rng(1).normal(size=(300, 32)))
    index = Index(32, exact_limit=100)
    for item, vector in enumerate(vectors):
        index.add(item, vector)
    assert not index.exact
    assert index.nearest(vectors[5], 1)[0][0] == 5
    index.remove([5])
    assert index.nearest(vectors[5], 1)[0][0] != 5


def test_threads_may_add_and_search_at_once() -> None:
    index, vectors = Index(8), unit(np.random.default_rng(2).normal(size=(400, 8)))

    def add(start: int) -> None:
        for item in range(start, 400, 4):
            index.add(item, vectors[item])
            assert index.nearest(vectors[item], 1)[0][1] == pytest.approx(1.0, abs=1e-5)

    threads = [threading.Thread(target=add, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index) == 400


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_real_embedders(name: str) -> None:
    try:
        embedder = EMBEDDERS[name]()
    except ImportError as error:
        pytest.skip(str(error))
    vectors = embedder.embed(
        ["How do I delete my account?", "how can I erase my profile", "", "如何注销账号"]
    )
    assert vectors.shape == (4, embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[1] > vectors[1] @ vectors[2]
    assert np.array_equal(vectors[:1], embedder.embed(["How do I delete my account?"]))
