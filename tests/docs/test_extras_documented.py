"""Every extra is documented, and every documented extra is there."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])


def test_every_extra_for_users_is_in_the_quickstart():
    page = (REPOSITORY / "docs" / "quickstart.md").read_text(encoding="utf-8")
    table = page.split("| extra | brings |", 1)[1].split("\n\n", 1)[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in first for name in re.findall(r"`([\w-]+)`", cell)}
    assert named == EXTRAS - {"dev"}


def test_every_extra_that_is_named_is_there():
    named = set()
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for group in re.findall(r"axolotl-cache\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            named |= set(group.split(","))
    assert "engine" in named
    assert named - EXTRAS == set()
