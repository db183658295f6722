"""Every measured number that people read is filled from a committed result.

What else has a unit is somebody else's and stands beside its source, or is stated in `stated_figures.toml`: a
limit, an input, a sum.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = (
    r"(?:x\b(?! (?:capacity|layers|kv_heads|\d|`))|times\b"
    r"|倍|%|％|points?\b"
    r"|ns\b|µs|us\b|ms\b|s\b|(?:micro|milli)?seconds?\b|minutes?\b|[kKMGT]i?B\b|GFLOP"
    r"|(?:requests|tokens|hits|请求|token)(?:\s?/\s?s\b| a second|\s?/\s?秒))"
)
FIGURE = re.compile(rf"(?<![\w.,/#^-])[-~<>]?\d[\d.,]*(?:(?:-| to | and | or |至)\d[\d.,]*)?\s?{UNIT}")
MADE = re.compile(r"<!-- measured.*?-->.*?<!-- end of .*?-->", re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^|\n\n)(?:    .*\n?)+")
CITED = re.compile(r"\]\(https?:|\[\d\]|CVE-")
SENTENCE_END = re.compile(r"(?<=[.:;。；])\s+(?=[A-Z*(`\[一-龥])|\n(?=- |\d+\. )")


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(REPOSITORY / "benchmarks"))
        import pages

        yield pages


def statements(text: str) -> Iterator[str]:
    """Yield a page's sentences and rows of tables, without what is made and without code."""
    for taken in (MADE, FENCED):
        text = taken.sub("", text)
    text = re.sub(r"`[^`\n]+`", "`code`", INDENTED.sub("\n\n", text))
    for block in re.split(r"\n\s*\n", text):
        yield from block.splitlines() if block.startswith("|") else SENTENCE_END.split(block)


def typed(text: str, *, is_citing: bool) -> Counter[str]:
    """Count the figures that were typed by hand and stand beside no source."""
    found: Counter[str] = Counter()
    for statement in statements(text):
        if not (is_citing and CITED.search(statement)):
            found.update(" ".join(figure.split()) for figure in FIGURE.findall(statement))
    return found


def stated() -> dict[str, Counter[str]]:
    """Return the figures that may be typed, by page."""
    path = Path(__file__).with_name("stated_figures.toml")
    reasons = tomllib.loads(path.read_text(encoding="utf-8"))
    allowed: dict[str, Counter[str]] = {}
    for by_page in reasons.values():
        for page, figures in by_page.items():
            allowed.setdefault(page, Counter()).update(figures)
    return allowed


def test_what_is_filled_is_what_was_measured(pages):
    for path in pages.pages():
        text = path.read_text(encoding="utf-8")
        assert pages.filled(text) == text, f"run benchmarks/pages.py --write: {path.name}"


def test_every_note_in_a_page_is_one_that_is_understood(pages):
    for path in pages.pages():
        rest = MADE.sub("", pages.FIGURE.sub("", path.read_text(encoding="utf-8")))
        assert "<!--" not in rest, f"{path.name}: {rest[rest.index('<!--') :][:80]}"


def test_no_measured_number_is_typed_by_hand(pages):
    allowed = stated()
    wrong = {}
    for path in pages.pages():
        name = path.relative_to(REPOSITORY).as_posix()
        text = pages.FIGURE.sub("filled", path.read_text(encoding="utf-8"))
        found = set(typed(text, is_citing=not name.startswith("README")))
        listed = set(allowed.get(name, ()))
        if found != listed:
            wrong[name] = f"typed: {sorted(found - listed)}, stated and not there: {sorted(listed - found)}"
    assert wrong == {}


def test_a_page_that_is_stated_exists():
    for name in stated():
        assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("It is 2.5 x faster, at 12 requests/s and 3.6 µs.", ["2.5 x", "12 requests/s", "3.6 µs"]),
        ("| a hit | 81 ms | 40 % less |", ["81 ms", "40 %"]),
        ("快 3.2 倍，每秒 5 请求/秒", ["3.2 倍", "5 请求/秒"]),
        ("Five thousand tokens took 12 minutes, 7 times as long.", ["12 minutes", "7 times"]),
        ("Others need 30 ms ([source](https://example.org)).", []),
        ("As in\n\n    took 30 ms\n\nand `30 ms`, with 5 x capacity uses.", []),
    ],
)
def test_a_number_that_is_planted_is_found(planted, found):
    assert list(typed(planted, is_citing=True)) == [figure.strip() for figure in found]


def test_a_number_that_is_planted_in_a_filled_figure_is_found(pages):
    right = pages.filled("A hit takes 9.9<!-- lru-bfloat16 memory_hit_p50_us:.1f --> µs.")
    assert "9.9" not in right
    assert pages.filled(right.replace("takes", "takes only")) == right.replace("takes", "takes only")
    with pytest.raises(KeyError):
        pages.filled("9.9<!-- lru-bfloat16 no_such_figure:.1f --> µs")
    with pytest.raises(KeyError):
        pages.filled("9.9<!-- lru-bfloat16 [part=nothing] p50_us:.1f --> µs")
