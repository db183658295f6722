"""The benchmark's own parts: intervals, halves, traps; and that none of its lines is in the guards' lists."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[3] / "benchmarks")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    [
        (3, 300, 0.0021, 0.0289),
        (210, 300, 0.6447, 0.7513),
        (111, 120, 0.8624, 0.9651),
        (0, 150, 0, 0.0243),
        (5, 5, 0.4782, 1),
    ],
)
def test_clopper_pearson(found: int, of: int, low: float, high: float) -> None:
    from intervals import clopper_pearson

    assert clopper_pearson(found, of) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))


def test_halves_are_fixed_disjoint_and_balanced() -> None:
    from pairs import Pair, halves

    pairs = [Pair(str(n), "ab"[n % 2], True, "", "") for n in range(101)]
    first, second = halves(pairs)
    assert halves(pairs[::-1]) == (first, second)
    assert not {p.id for p in first} & {p.id for p in second}
    assert len(first) + len(second) == 101
    assert abs(sum(p.group == "a" for p in first) - sum(p.group == "a" for p in second)) <= 1


def test_a_threshold_serves_no_more_traps_than_it_may() -> None:
    from learning import loosest

    probabilities = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    right = np.array([True, False, True, False, True, False])
    assert loosest(probabilities, right, 0) == pytest.approx(0.85)
    assert loosest(probabilities, right, 0.34) == pytest.approx(0.65)
    assert loosest(np.array([0.2, 0.9]), np.array([True, False]), 0) > 1


def test_mutations_change_the_meaning_and_rewrites_do_not() -> None:
    from traps import mutations, rewrites

    texts = [
        ("I want to send 20 dollars today", "a"),
        ("is my card active", "b"),
        ("how do I deposit cash", "c"),
    ]
    for pair in mutations(texts, 10, 0):
        assert not pair.right
        assert pair.a.lower() != pair.b.lower()
    assert len(mutations(texts, 10, 0)) == 3
    assert all(pair.right for pair in rewrites(texts, 3, 0))


def test_no_line_of_the_benchmark_is_in_the_lists() -> None:
    from pairs import fow_folder, fow_questions

    folder = fow_folder()
    if folder is None:
        pytest.skip("fow-cache is not here: run benchmarks/prepare")
    data = files("axolotl_cache.response.semantic").joinpath("data")
    lists = "\n".join(
        data.joinpath(name).read_text(encoding="utf-8").lower() for name in ("en.json", "zh.json")
    )
    assert not [p.id for p in fow_questions(folder) if p.a.lower() in lists or p.b.lower() in lists]
