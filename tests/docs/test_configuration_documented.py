"""docs/configuration.md against the settings themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from axolotl_cache.cli.flags import cache_options
from axolotl_cache.config import ClusterSettings, load_settings
from axolotl_cache.config.settings import HOME_OF

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def section(block):
    heading = f"`{block}`" if block else "At the top of the file"
    return re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def rows(block):
    """Return {key: (default, meaning)} of a block's table."""
    cells = re.findall(r"^\| `(\w+)` \|[^|]*\| `([^|]*)` \| ([^|]*) \|$", section(block), re.MULTILINE)
    return {key: (default, meaning) for key, default, meaning in cells}


def test_every_key_is_documented_under_its_block_and_no_other():
    for block in dict.fromkeys(HOME_OF.values()):
        assert list(rows(block)) == [key for key, home in HOME_OF.items() if home == block]


def test_the_documented_defaults_are_the_defaults(tmp_path):
    defaults = load_settings_of({}, tmp_path)
    written = {}
    for key, block in HOME_OF.items():
        if block != "cluster_cache":
            home = written.setdefault(block, {}) if block else written
            home[key] = yaml.safe_load(rows(block)[key][0])
    documented = load_settings_of(written, tmp_path)
    for part in ("model", "inference", "session", "max_memory_usage"):
        assert getattr(documented, part) == getattr(defaults, part)


def test_the_documented_defaults_of_a_cluster_are_the_defaults():

    written = {key: yaml.safe_load(default) for key, (default, _) in rows("cluster_cache").items()}
    assert ClusterSettings.model_validate(written) == ClusterSettings()


def load_settings_of(content, folder):
    path = folder / "defaults.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_settings(path, environ={})


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(example, tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    load_settings(path, environ={})


def test_the_first_example_shows_every_default(tmp_path):
    (tmp_path / "example.yaml").write_text(EXAMPLES[0], encoding="utf-8")
    settings, defaults = load_settings(tmp_path / "example.yaml", environ={}), load_settings_of({}, tmp_path)
    assert (settings.model, settings.inference) == (defaults.model, defaults.inference)
    assert (settings.session, settings.max_memory_usage) == (defaults.session, defaults.max_memory_usage)


def test_every_cache_flag_is_documented():
    command = cache_options(lambda: None)
    for option in command.__click_params__:
        assert f"`{option.opts[0]}" in PAGE
