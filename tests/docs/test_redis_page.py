"""docs/redis.md and docs/operations.md: the examples run, and everything that is reported is named."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("redis")

from axolotl_cache.config import load_settings
from axolotl_cache.config.layers import OTHER_VARIABLES
from axolotl_cache.stores.redis.stats import RemoteStats

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "redis.md").read_text(encoding="utf-8")
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")


def test_the_example_runs(valkey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(example.replace("redis://cache:6379", valkey.url), "redis.md", "exec"), names)
    assert names["cache"].stats().shared.written == 1
    names["cache"].close()


def test_the_configuration_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "c.yaml").write_text("base_model: m\n" + example, encoding="utf-8")
    settings = load_settings(tmp_path / "c.yaml", environ={})
    assert settings.cluster.replication_count == 3


def test_every_variable_and_every_count_is_documented():
    for variable in OTHER_VARIABLES:
        assert variable in PAGE or "REDIS" not in variable
    for field in fields(RemoteStats):
        assert f"`{field.name}`" in OPERATIONS or f"`{field.name}." in OPERATIONS, field.name


def test_an_account_with_the_rights_that_the_page_names_is_enough(servers):
    from axolotl_cache import SmartInferenceCache
    from axolotl_cache.response import owner_tags
    from axolotl_cache.stores.redis.tier import SharedTier

    (commands, keys, channels) = re.search(r"needs `([^`]+)` on `([^`]+)`, and\s+`([^`]+)`", PAGE).groups()
    with servers.deployment("single") as deployment:
        client = deployment.nodes[0].client()
        client.execute_command("ACL", "SETUSER", "axolotl", "on", ">pw", keys, channels, *commands.split())
        url = deployment.url.replace("redis://", "redis://axolotl:pw@")
        one, two = (SmartInferenceCache(10, namespace="n", shared=SharedTier(url)) for _ in range(2))
        with one, two:
            assert one.shared.news.wait_until_listening(10)
            one.set("k", "v", tags=owner_tags(user="ada"))
            assert one.shared.flush(10)
            assert two.get("k") == "v"
            assert one.get_or_compute("l", lambda: "w") == "w"
            assert one.erase(user="ada").left == ()
            assert one.stats().shared.is_coherent
            assert one.stats().shared.refused == 0
