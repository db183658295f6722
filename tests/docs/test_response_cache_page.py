"""The examples of docs/response-cache.md run, in the order in which they are read."""

from __future__ import annotations

import re
from pathlib import Path

from axolotl_cache import SmartInferenceCache

PAGE = Path(__file__).parents[2] / "docs" / "response-cache.md"


def blocks():
    text = PAGE.read_text(encoding="utf-8")
    return [
        (text[: match.start(1)].count("\n"), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    found = blocks()
    assert len(found) >= 6
    for line, source in found:
        exec(compile("\n" * line + source, str(PAGE), "exec"), names)
    for value in names.values():
        if isinstance(value, SmartInferenceCache):
            value.close()
    assert (tmp_path / "inference_cache" / "cache.sqlite3").exists()


def test_a_wrong_example_would_be_found():
    sources = "".join(source for _, source in blocks())
    assert sources.count("assert ") > 12, "examples that assert nothing prove nothing"
