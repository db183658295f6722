"""The table of models is what the tests check, family by family."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def load_families():
    """Import the tests' own table; it is no package."""
    spec = importlib.util.spec_from_file_location(
        "model_families", ROOT / "tests" / "unit" / "test_models.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_tests():
    expected = load_families().table()
    (heading,) = [line for line in PAGE.splitlines() if line.startswith("| Family |")]
    start = PAGE.index(heading)
    written = PAGE[start : PAGE.index("\n\n", start) + 1]
    assert written == expected, f"put this into docs/models.md:\n\n{expected}"


def test_every_mode_of_the_table_is_explained():
    modes = {family.mode for family in load_families().FAMILIES.values()}
    assert all(f"**{mode}**" in PAGE for mode in modes)
