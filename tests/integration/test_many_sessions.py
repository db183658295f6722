"""Far more sessions than there is room for."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def session_load(monkeypatch, smollm2_folder):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import session_load

    yield session_load
    for name in ("session_load", "common"):
        sys.modules.pop(name, None)


@pytest.mark.model
@pytest.mark.parametrize(
    ("sessions", "room_for"), [(120, 20), pytest.param(10_000, 500, marks=pytest.mark.slow)]
)
def test_bytes_are_bounded_the_oldest_idle_go_first_and_none_in_use_breaks(session_load, sessions, room_for):
    found = session_load.bytes_over_bound(sessions=sessions, room_for=room_for)
    assert found["bytes_over_bound"] == 0
    assert found["live_broken"] == 0
    assert found["kept_are_the_newest"]
    assert found["sessions_kept"] > (room_for - session_load.LIVE) * 0.7


@pytest.mark.model
def test_control_without_protection_sessions_in_use_break(session_load, monkeypatch):
    from axolotl_cache.prefix import PrefixTree

    monkeypatch.setattr(PrefixTree, "_extend", lambda *_: None)
    assert session_load.bytes_over_bound(sessions=120, room_for=12)["live_broken"] > 0
