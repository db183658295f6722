"""What the READMEs say can be run, and their figures are those of the committed results."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
READMES = ["README.md", "README.zh-CN.md"]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("table", REPOSITORY / "benchmarks" / "table.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(REPOSITORY / "benchmarks"))
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", READMES)
def test_the_measured_table_is_made_from_the_results(name, maker):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert maker.BEGIN in text
    assert text == maker.put_in(text, maker.WORDS[name]), "run benchmarks/table.py --write"


@pytest.mark.parametrize("name", READMES)
def test_the_lines_for_ones_own_program_run(name, monkeypatch, tmp_path):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    (program,) = (
        p for p in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SmartInferenceCache" in p
    )
    monkeypatch.chdir(tmp_path)
    asked = []
    scope = {"your_model": lambda text: asked.append(text) or text.upper()}
    exec(program, scope)
    assert [scope["answer"]("hello") for _ in range(2)] == ["HELLO", "HELLO"]
    assert asked == ["hello"]


@pytest.mark.parametrize(
    "name", [*READMES, *(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").rglob("*.md"))]
)
def test_links_and_commands_exist(name):
    path = REPOSITORY / name
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{name} links to {target}"
    for script in re.findall(r"(?<![\w/])(?:scripts|benchmarks)/[\w./-]*\w", text):
        if "*" not in script and "NAME" not in script:
            assert (REPOSITORY / script).exists(), f"{name} names {script}"


def anchor(heading):
    """Return what GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@pytest.mark.parametrize("folder", [".", "docs", "docs/design", "benchmarks", "examples"])
def test_links_into_pages_lead_to_a_heading(folder):
    for path in sorted((REPOSITORY / folder).glob("*.md")):
        for target, name in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", path.read_text(encoding="utf-8")):
            page = path.parent / target if target else path
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert name in map(anchor, headings), f"{path.name} links to {target}#{name}"


def test_the_commands_that_it_names_exist():
    from axolotl_cache.cli.main import COMMANDS

    for name in READMES:
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        named = set(re.findall(r"axolotl-cache ([a-z]+)\b", text))
        assert named & set(COMMANDS)
        assert "scripts/demo" in text
        assert "scripts/test" in text
    assert sys.version_info >= (3, 11)
