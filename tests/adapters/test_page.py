"""The examples of docs/integrations.md run, those of each section in turn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
@pytest.mark.parametrize("section", SECTIONS, ids=[section.partition("\n")[0] for section in SECTIONS])
def test_the_examples_run(section, api, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks
    for package in re.findall(r"^(?:import|from) (\w+)", "".join(blocks), re.MULTILINE):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.setenv(name, f"{api.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-page")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert 1 <= api.count <= 3
