"""The labelled sentences are what they are said to be, and the goals are met on those not developed with."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("entities_benchmark", BENCHMARKS / "entities.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("entities_benchmark", None)


def test_the_halves(benchmark):
    halves = {half: benchmark.rows("entities", half) for half in ("held-out", "develop")}
    texts = [row["text"] for half in halves.values() for row in half]
    assert len(texts) >= 400
    assert len(set(texts)) == len(texts), "no sentence is in both halves, or twice"
    for rows in halves.values():
        assert 0.4 < sum(row["language"] == "zh" for row in rows) / len(rows) < 0.6
        assert sum(not row["entities"] for row in rows) > len(rows) / 4, "many have none"
        for row in rows:
            for label in row["entities"]:
                assert row["text"][label["start"] : label["end"]].strip()


def test_the_goals_are_met(benchmark):
    figures = benchmark.figures("held-out")
    assert figures["entity_precision"] >= 0.98
    assert figures["entity_recall"] >= 0.95
    assert figures["followup_accuracy"] >= 0.9
    assert figures["followup_unsure_fraction"] <= 0.2


def test_a_worse_extractor_counts_as_worse(benchmark, monkeypatch):
    """The counting can fail: one that takes every order for a card, and one that finds nothing."""
    real = benchmark.extract
    monkeypatch.setattr(
        benchmark,
        "extract",
        lambda text: tuple(
            benchmark.Entity("card" if e.kind == "order" else e.kind, e.value, e.start, e.end)
            for e in real(text)
        ),
    )
    assert benchmark.count_entities("develop").precision() < 0.9
    monkeypatch.setattr(benchmark, "extract", lambda text: ())
    assert benchmark.count_entities("develop").recall() == 0
