"""What checked hits prove, by simulation: the risk that was promised, and that drift is found."""

import numpy as np
import pytest

from axolotl_cache.response.semantic.audit import Audit


def _share(rate: float, allowed: float, *, streams: int, length: int, what: str) -> tuple[float, list[int]]:
    rng = np.random.default_rng(5)
    when = []
    for _ in range(streams):
        audit = Audit(allowed)
        for number, wrong in enumerate(rng.random(length) < rate, 1):
            if getattr(audit.add(bool(wrong)), what):
                when.append(number)
                break
    return len(when) / streams, when


@pytest.mark.parametrize("what", ["certified", "alarm"])
def test_at_the_bound_itself_neither_claim_is_refuted_more_often_than_promised(what: str) -> None:
    share, _ = _share(0.05, 0.05, streams=200, length=200, what=what)
    assert share <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_too_many_wrong_hits_raise_the_alarm_soon() -> None:
    share, when = _share(0.2, 0.05, streams=40, length=250, what="alarm")
    assert share == 1
    # ln 20 over the divergence of 20 % from 5 % is 22.
    assert np.median(when) < 3 * 22


def test_control_good_hits_raise_none() -> None:
    assert _share(0.01, 0.05, streams=40, length=250, what="alarm")[0] <= 0.05


def test_good_hits_are_certified_also_after_a_wrong_one() -> None:
    share, _ = _share(0.005, 0.05, streams=40, length=250, what="certified")
    assert share > 0.9


@pytest.mark.parametrize(("allowed", "documented"), [(0.01, 458), (0.03, 151)])
def test_clean_hits_needed_are_as_documented(allowed: float, documented: int) -> None:
    audit = Audit(allowed)
    needed = next(number for number in range(1, 2000) if audit.add(False).certified)
    assert needed == documented


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_a_rate_must_be_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Audit(rate)
