"""Every environment variable that the package reads is documented."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\bAXOLOTL_CACHE_[A-Z][A-Z_]*[A-Z]\b")


def read_by_the_package():
    found = set()
    for path in (REPOSITORY / "src").rglob("*.py"):
        found |= set(NAME.findall(path.read_text(encoding="utf-8")))
    return found


def test_every_environment_variable_is_documented():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md"))
    found = read_by_the_package()
    assert "AXOLOTL_CACHE_HOME" in found, "the search finds what is known to be there"
    assert {name for name in found if name not in pages} == set()
