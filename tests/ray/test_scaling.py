"""Replicas come under load and go when it is over."""

import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="scripts/test --ray: it makes an environment with Ray")

sys.path.insert(0, str(Path(__file__).parent))
from replicas import asked_all_the_time, deploy, engines, written

from axolotl_cache.ray_serve import Scaling

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORKERS = 8


def number_becomes(wanted, seconds):
    """Wait until there are so many replicas; give whether there were in time."""
    deadline = time.monotonic() + seconds
    while len(engines()) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    return len(engines()) == wanted


def scaled(target):
    return Scaling(
        1,
        2,
        cpus=0.5,
        target_ongoing_requests=target,
        upscale_delay_seconds=1.0,
        downscale_delay_seconds=2.0,
    )


def test_a_burst_brings_a_replica_and_its_end_takes_it_away(cluster, small_model_folder, tmp_path):
    config = written(tmp_path, small_model_folder)
    deploy(config, scaled(target=WORKERS / 4))
    assert number_becomes(1, 60)
    with asked_all_the_time(cluster, WORKERS, max_tokens=32) as failed:
        came = number_becomes(2, 120)
    went = number_becomes(1, 120)
    assert (came, went, failed) == (True, True, [])


def test_the_control_no_replica_comes_while_each_has_little_to_do(cluster, small_model_folder, tmp_path):
    config = written(tmp_path, small_model_folder)
    deploy(config, scaled(target=WORKERS * 4))
    assert number_becomes(1, 60)
    with asked_all_the_time(cluster, WORKERS, max_tokens=32) as failed:
        assert not number_becomes(2, 40)
    assert failed == []
