"""The response cache in memory and on disk, at a time that tests set."""

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock


def check_invariants(tiers):
    tiers._memory.check_invariants()
    if tiers._disk is not None:
        tiers._disk.check_invariants()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["memory", "disk"])
def make(request, clock, tmp_path):
    made = []

    def factory(capacity=3, timeout=100, **kwargs):
        path = tmp_path / "cache" if request.param == "disk" else None
        made.append(SmartInferenceCache(capacity, timeout, path, clock=clock, **kwargs))
        return made[-1]

    yield factory
    for cache in made:
        if not cache._tiers._closed:
            check_invariants(cache._tiers)
        cache.close()
