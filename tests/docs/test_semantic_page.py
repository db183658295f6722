"""docs/semantic-cache.md against the settings and the program."""

from __future__ import annotations

import re
from pathlib import Path

from axolotl_cache.config import load_settings
from axolotl_cache.request import Answer, CacheControl

PAGE = (Path(__file__).parents[2] / "docs" / "semantic-cache.md").read_text(encoding="utf-8")


def test_the_yaml_loads(tmp_path):
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
        assert load_settings(tmp_path / f"{number}.yaml", environ={}).inference.semantic_matching == "shadow"


def test_the_fields_are_those_of_an_answer():
    fields = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    assert fields == ["served", "match", "semantic_miss"]
    assert set(fields) <= set(Answer.__dataclass_fields__)
    assert "semantic" in CacheControl.__dataclass_fields__


def test_every_reason_not_to_look_is_on_the_page():
    from axolotl_cache.pipeline.semantic import NOT_ASKED

    words = {"tools": "with tools", "prompt": "plain prompts", "sampled": "without a seed", "long": "20,000"}
    words |= {"logprobs": "log probabilities", "last": "", "roles": ""}
    assert set(words) == set(NOT_ASKED)
    assert all(text in PAGE for text in words.values())
