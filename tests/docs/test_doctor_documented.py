"""Every cause that the doctor can name is in docs/doctor.md, and no other."""

import re
from pathlib import Path

from axolotl_cache.profiling.doctor.finding import Cause

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


def test_every_cause_is_documented_and_no_other():
    table = PAGE.read_text(encoding="utf-8").split("## Causes")[1].split("##")[0]
    assert re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE) == [cause.value for cause in Cause]
