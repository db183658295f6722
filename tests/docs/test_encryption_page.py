"""The examples of docs/encryption.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from axolotl_cache.config import load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "encryption.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch):
    pytest.importorskip("cryptography")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "encryption.md", "exec"), {})
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"euros" in content or b"accounts" in content for content in files)


def test_the_configuration_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "c.yaml").write_text("base_model: m\n" + example, encoding="utf-8")
    settings = load_settings(tmp_path / "c.yaml", environ={})
    assert settings.inference.encryption_key_from == "env:ANSWERS_KEY"
