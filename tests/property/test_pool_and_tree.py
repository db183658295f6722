"""Random operations on block pool and prefix tree: the driver is `benchmarks/pool_operations.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "pool_operations.py"


def load():
    spec = importlib.util.spec_from_file_location("pool_operations", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


operations = load()


def violations(count: int, seed: int, **options) -> list[str]:
    lines: list[str] = []
    found = operations.drive(count, seed, report=lines.append, **options)
    assert found == len(lines)
    return lines


def test_nothing_is_ever_wrong_in_3_000_operations():
    assert violations(3000, seed=1) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nor_in_the_first_few_of_any_others(seed):
    assert violations(80, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_nothing_is_ever_wrong_in_100_000_operations(seed):
    assert violations(100_000, seed) == []


@pytest.mark.parametrize("control", operations.CONTROLS)
def test_a_broken_pool_is_noticed(control):
    """The control: pages leaked, given away too early, or emptied on the way."""
    assert violations(1500, seed=1, pool=operations.CONTROLS[control])


@pytest.fixture(scope="module")
def machine():
    import random

    machine = operations.Machine(random.Random(1))
    assert machine.violations(3000, pytest.fail) == 0
    return machine


class TestEveryOperationIsReached:
    """A driver that never gets anywhere would find nothing, too."""

    def test_prefixes_are_found_kept_and_evicted(self, machine):
        stats = machine._cache.stats
        assert stats.hit_tokens > 1000
        assert stats.inserted_blocks > 200
        assert stats.evicted_blocks > 50
        assert stats.expired_blocks > 20
        assert stats.refused_blocks > 10

    def test_the_pool_grows_and_shrinks(self, machine):
        assert machine._pool.capacity_pages < 200
        machine._pool.trim()
        machine._pool.check_invariants()
        assert machine._pool.capacity_pages == 1 + machine._pool.used_pages
