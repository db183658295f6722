"""The map of the code and the list of the pages, against what there is."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "axolotl_cache"
MORE = (REPOSITORY / "benchmarks", REPOSITORY / "tests")
MAPS = {"CONTRIBUTING.md": "## Commands", "docs/architecture.md": "Beside the package"}


@pytest.mark.parametrize(("page", "end"), MAPS.items())
def test_the_map_names_every_folder_and_module(page, end):
    there = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there |= {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    text = (REPOSITORY / page).read_text(encoding="utf-8").split(end)[0]
    named = set(re.findall(r"`([\w/]+(?:/|\.py))`", text))
    assert there - named == set()
    for name in named - there:
        inside = any(next(folder.rglob(name), None) for folder in (PACKAGE, *MORE))
        assert inside or (REPOSITORY / name).exists(), f"{page} names {name}"


def test_every_page_is_in_the_list_once_and_numbers_run_on():
    docs = REPOSITORY / "docs"
    text = (docs / "README.md").read_text(encoding="utf-8")
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - {"README.md"}
    listed = [target for target in re.findall(r"\]\(([^)#]+\.md)\)", text) if not target.startswith("../")]
    assert sorted(listed) == sorted(pages)
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
