"""Figures stand in result files, and what is written of them is made from those."""

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_what_made_it_and_on_what(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    name = result["benchmark"]
    assert path.stem.split("-")[0] == name
    assert result["figures"], "no figures"
    for figure, value in result["figures"].items():
        assert isinstance(value, int | float), figure
    if name == "demo":
        assert (REPOSITORY / "scripts" / "demo").exists()
        return
    assert (REPOSITORY / "benchmarks" / f"{name}.py").exists(), "no command in the repository makes this"
    assert {"rows", "machine", "versions", "seed", "date", "seconds"} <= set(result)
    assert f"## {name}.py" in (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_page_of_the_three_tiers_is_made_from_its_result():
    import combined_table

    page = combined_table.PAGE.read_text(encoding="utf-8")
    assert combined_table.BEGIN in page
    if not combined_table.RESULT.exists():
        pytest.skip("benchmarks/results/combined-bfloat16.json is not there yet")
    result = json.loads(combined_table.RESULT.read_text(encoding="utf-8"))
    assert page == combined_table.put_in(page, result), "run benchmarks/combined_table.py --write"
    assert combined_table.PICTURE.exists()


def test_every_benchmark_is_documented():
    page = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "benchmarks").glob("*.py")):
        if re.search(r"^from common import .*\bemit\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"{path.stem}.py" in page, f"{path.name} is not in benchmarks/README.md"
