"""Memory that others want, too: what is available, and how caches give way and grow back."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.memory import PressureGovernor, available_memory_bytes, total_memory_bytes

CPU = torch.device("cpu")
MB = 1_000_000


def machine(root: Path, membership: str, groups: dict[str, dict[str, object]]) -> Path:
    """Make the files that Linux would show."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for group, files in groups.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
    return root


def test_on_this_machine_it_is_at_most_what_the_system_has():
    assert 0 < available_memory_bytes(CPU) <= total_memory_bytes(CPU) <= psutil.virtual_memory().total


def test_without_control_groups_it_is_the_systems(tmp_path):
    total = psutil.virtual_memory().total
    assert total_memory_bytes(CPU, root=tmp_path) == total
    assert 0 < available_memory_bytes(CPU, root=tmp_path) <= total


def test_a_containers_limit_counts_without_the_file_cache(tmp_path):
    files = {
        "memory.max": 100 * MB,
        "memory.current": 70 * MB,
        "memory.stat": f"anon {20 * MB}\ninactive_file {40 * MB}\nactive_file {10 * MB}",
    }
    root = machine(tmp_path, "0::/\n", {"": files})
    assert available_memory_bytes(CPU, root=root) == 70 * MB
    assert total_memory_bytes(CPU, root=root) == 100 * MB


@pytest.mark.parametrize(
    ("inner", "outer", "room"),
    [
        ({"memory.max": "max"}, {"memory.max": 50 * MB}, 40 * MB),
        ({"memory.max": 30 * MB}, {"memory.max": 50 * MB}, 20 * MB),
        ({"memory.max": 30 * MB, "memory.high": 25 * MB}, {"memory.max": "max"}, 15 * MB),
        ({"memory.max": 30 * MB}, {"memory.max": 12 * MB}, 2 * MB),
        ({"memory.max": 5 * MB}, {"memory.max": "max"}, 0),
    ],
)
def test_the_tightest_group_on_the_way_up_decides(tmp_path, inner, outer, room):
    used = {"memory.current": 10 * MB}
    root = machine(tmp_path, "0::/user/job\n", {"user": outer | used, "user/job": inner | used})
    assert available_memory_bytes(CPU, root=root) == room


def test_control_groups_of_version_1(tmp_path):
    files = {
        "memory.limit_in_bytes": 60 * MB,
        "memory.usage_in_bytes": 50 * MB,
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {25 * MB}",
    }
    membership = "12:cpu,cpuacct:/docker/x\n7:memory:/docker/x\n0::/docker/x\n"
    root = machine(tmp_path, membership, {"memory/docker/x": files})
    assert available_memory_bytes(CPU, root=root) == 35 * MB


def test_a_path_of_the_hosts_means_the_group_that_is_mounted(tmp_path):
    files = {"memory.limit_in_bytes": 60 * MB, "memory.usage_in_bytes": 50 * MB}
    root = machine(tmp_path, "7:memory:/docker/of-the-host\n", {"memory": files})
    assert available_memory_bytes(CPU, root=root) == 10 * MB


def test_no_limit_is_no_limit(tmp_path):
    v1 = {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 1}
    v2 = {"memory.max": "max", "memory.current": 1}
    root = machine(tmp_path, "7:memory:/\n0::/\n", {"memory": v1, "": v2})
    assert total_memory_bytes(CPU, root=root) == psutil.virtual_memory().total
    assert available_memory_bytes(CPU, root=root) > 100 * MB


class Machine:
    """1,000 bytes: a floor of 100, growth of 20 a second. Others take what is set; caches what they may."""

    def __init__(self, bound: int = 600) -> None:
        self.bound, self.now, self.others, self.held, self.looks = bound, 0.0, 0, 0, 0
        self.governor = PressureGovernor(
            1000, 0.1, step_share=0.02, available=self._available, clock=lambda: self.now
        )

    def _available(self) -> int:
        self.looks += 1
        return max(0, 1000 - self.others - self.held)

    def allowed(self) -> int:
        return self.governor.allowed_bytes(self.held, self.bound)

    def second(self) -> int:
        """Let a second pass; the caches fill what they may."""
        self.now += 1
        self.held = self.allowed()
        return self.held


def test_with_room_enough_the_bound_is_what_counts():
    machine = Machine()
    assert machine.second() == 600
    assert not machine.governor.shrinking


def test_caches_grow_no_further_than_the_floor():
    machine = Machine(bound=2000)
    assert machine.second() == 900
    assert machine.second() == 900
    assert not machine.governor.shrinking


def test_under_the_floor_they_shrink_by_what_is_missing():
    machine = Machine()
    machine.second()
    machine.others = 450  # 50 less than nothing is left
    assert [machine.second() for _ in range(4)] == [500, 450, 450, 450]
    assert machine.governor.shrinking


def test_they_shrink_to_nothing_if_need_be():
    machine = Machine()
    machine.second()
    machine.others = 2000
    for _ in range(8):
        machine.second()
    assert machine.held == 0


def test_they_stay_where_they_are_between_the_floor_and_twice_the_floor():
    machine = Machine()
    machine.second()
    machine.others = 390
    assert machine.second() == 510
    for others in (390, 330, 300, 389, 295):
        machine.others = others
        assert machine.second() == 510


def test_they_grow_back_step_by_step_once_there_is_clearly_room():
    machine = Machine()
    machine.second()
    machine.others = 390
    machine.second()
    machine.others = 100
    assert [machine.second() for _ in range(6)] == [530, 550, 570, 590, 600, 600]
    assert not machine.governor.shrinking


def test_they_do_not_swing():
    machine = Machine()
    machine.others = 350
    seen = [machine.second() for _ in range(20)]
    assert len(set(seen[1:])) == 1


def test_it_looks_once_a_second_at_most():
    machine = Machine()
    for _ in range(50):
        machine.now += 0.1
        machine.allowed()
    assert 4 <= machine.looks <= 6
    machine.others = 950
    assert machine.allowed() == 600, "seen with the next look"


@pytest.mark.parametrize(
    ("total", "floor", "step"), [(0, 0.1, 0.1), (10, 1.0, 0.1), (10, -0.1, 0.1), (10, 0.1, 0)]
)
def test_shares_that_mean_nothing_are_refused(total, floor, step):
    with pytest.raises(ValueError, match="no shares of memory"):
        PressureGovernor(total, floor, step_share=step, available=lambda: 0, clock=lambda: 0.0)


@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 1000), st.floats(0, 3)), min_size=1, max_size=40),
    st.integers(0, 1000),
)
def test_whatever_happens_it_is_between_nothing_and_the_bound_and_gives_way_when_pressed(moments, bound):
    available, now = 0, 0.0
    governor = PressureGovernor(1000, 0.1, available=lambda: available, clock=lambda: now)
    for room, held, seconds in moments:
        available, now = room, now + seconds
        allowed = governor.allowed_bytes(held, bound)
        assert 0 <= allowed <= bound
        now += 1.001  # sums of floats fall short of a whole second
        allowed = governor.allowed_bytes(held, bound)
        if room < 100 and held:
            assert allowed < held


def test_the_bound_may_change_meanwhile():
    machine = Machine()
    machine.second()
    machine.bound = 200
    assert machine.allowed() == 200
    machine.bound = 600
    assert machine.allowed() == 600


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_what_torch_keeps_and_does_not_use_is_available():
    device = torch.device("cuda")
    before = available_memory_bytes(device)
    block = torch.empty(256 * MB, dtype=torch.uint8, device=device)
    during = available_memory_bytes(device)
    del block
    after = available_memory_bytes(device)
    assert before - during > 200 * MB
    assert after - during > 200 * MB
    assert after <= total_memory_bytes(device)
