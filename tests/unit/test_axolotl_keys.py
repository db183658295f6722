"""Our keys in an Axolotl configuration: validated by our settings, gone before Axolotl reads it."""

import importlib
import importlib.metadata
import sys
import types

import pytest

from axolotl_cache.errors import ConfigError
from axolotl_cache.integrations.axolotl_keys import FIELD, AxolotlCacheArgs, take_keys

MODULE = "axolotl_cache.integrations.axolotl"
YAML = """\
base_model: nowhere/some-model
plugins: [axolotl_cache.AxolotlCachePlugin]
"""
BLOCKS = """\
model_config:
  prefix_length: 64
  rope_theta: 20000.0
inference_settings:
  entry_timeout: 1h
max_memory_usage: 0.5
"""


@pytest.fixture
def cfg_of(tmp_path):
    """Return the configuration that Axolotl's command line makes of a YAML and its flags."""
    import yaml

    def make(text, **flags):
        path = tmp_path / "your_config.yaml"
        path.write_text(text, encoding="utf-8")
        return yaml.safe_load(text) | {"axolotl_config_path": str(path), "inference": True} | flags

    return make


def test_our_keys_are_taken_and_the_overrides_stay(cfg_of):
    cfg = cfg_of(YAML + BLOCKS)
    wish = take_keys(cfg, argv=[])
    assert wish.is_asked
    assert wish.settings.model.prefix_length == 64
    assert wish.settings.inference.entry_timeout == 3600
    assert wish.settings.max_memory_usage == 0.5
    assert cfg["model_config"] == {"rope_theta": 20000.0}
    assert not {"inference_settings", "max_memory_usage"} & set(cfg)
    assert cfg[FIELD]["sources"]["model_config.prefix_length"] == "your_config.yaml:4"
    assert AxolotlCacheArgs(**cfg).axolotl_cache == cfg[FIELD]


def test_model_config_goes_when_all_of_it_is_ours(cfg_of):
    cfg = cfg_of(YAML + "model_config: {enable_prefix_cache: true}\n")
    take_keys(cfg, argv=[])
    assert "model_config" not in cfg


def test_the_flags_as_axolotls_command_line_passes_them(cfg_of):
    cfg = cfg_of(YAML, use_prefix_cache=True, cache_ttl=7200)
    wish = take_keys(cfg, argv=[])
    assert wish.is_asked
    assert wish.settings.inference.entry_timeout == 7200
    assert str(wish.settings.sources["inference_settings.entry_timeout"]) == "--cache-ttl"
    assert not {"use_prefix_cache", "cache_ttl"} & set(cfg)


def test_the_flag_for_all_tiers(cfg_of):
    wish = take_keys(cfg_of(YAML, enable_cache_optimization=True), argv=[])
    assert wish.settings.inference.max_cache_entries == "auto"


def test_a_flag_that_says_no(cfg_of):
    wish = take_keys(cfg_of(YAML + BLOCKS, use_prefix_cache=False), argv=[])
    assert not wish.settings.model.enable_prefix_cache


def test_without_keys_and_flags_nothing_is_asked(cfg_of):
    assert not take_keys(cfg_of(YAML), argv=[]).is_asked


def test_axolotls_own_way_to_change_a_key_on_the_command_line(cfg_of):
    cfg = cfg_of(YAML + BLOCKS)
    cfg["model_config"]["prefix_length"] = 96
    wish = take_keys(cfg, argv=[])
    assert wish.settings.model.prefix_length == 96
    assert str(wish.settings.sources["model_config.prefix_length"]) == "--model_config__prefix_length"


def test_every_mistake_is_told_at_once(cfg_of):
    cfg = cfg_of(YAML + "model_config: {prefix_lenght: 64}\ninference_settings: {entry_timeout: soon}\n")
    with pytest.raises(ConfigError) as raised:
        take_keys(cfg | {"cache_ttl": "tomorrow"}, argv=[])
    told = str(raised.value)
    assert "`prefix_length`" in told
    assert "your_config.yaml:4: inference_settings.entry_timeout" in told
    assert "--cache-ttl" in told
    assert len(raised.value.problems) == 3


def test_a_flag_that_strict_drops_is_not_lost_in_silence(cfg_of):
    cfg = cfg_of(YAML + "strict: true\n")
    with pytest.raises(ConfigError, match="strict: true"):
        take_keys(cfg, argv=["your_config.yaml", "--cache-ttl=7200"])
    take_keys(cfg, argv=["your_config.yaml"])


@pytest.fixture
def axolotl_version(monkeypatch):
    """Say which Axolotl is installed: None for none."""

    def say(found):
        def version(name):
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.delitem(sys.modules, MODULE, raising=False)
        monkeypatch.setattr("importlib.metadata.version", version)

    return say


def test_the_plugin_says_what_it_needs(axolotl_version):
    import axolotl_cache

    axolotl_version(None)
    with pytest.raises(ImportError, match="not installed"):
        _ = axolotl_cache.AxolotlCachePlugin


def test_an_axolotl_that_is_too_old_is_named_and_not_skipped(axolotl_version):
    axolotl_version("0.8.1")
    with pytest.raises(ConfigError, match=r"Axolotl 0\.19\.0 or newer.*0\.8\.1 is here") as raised:
        importlib.import_module(MODULE)
    assert not isinstance(raised.value, ImportError)  # Axolotl goes on without a plugin that raises one
    assert "pip install 'axolotl>=0.19.0'" in str(raised.value)


@pytest.fixture
def plugin(monkeypatch, axolotl_version):
    """The plugin over a stand-in for Axolotl's base class, which the quick suite does not have."""
    base = types.ModuleType("axolotl.integrations.base")
    hooks = dict.fromkeys(("register", "get_input_args", "post_model_load"))
    base.BasePlugin = type("BasePlugin", (), hooks)
    axolotl_version("0.19.0")
    monkeypatch.setitem(sys.modules, "axolotl.integrations.base", base)
    yield importlib.import_module(MODULE).AxolotlCachePlugin()
    monkeypatch.delitem(sys.modules, MODULE)


def test_the_plugin_says_when_nothing_will_be_cached_and_why(plugin, cfg_of, capsys):
    blocks = BLOCKS.replace("  rope_theta: 20000.0\n", "")
    plugin.register(cfg_of(YAML))
    assert "nothing is cached: the YAML has no cache block" in capsys.readouterr().err
    plugin.register(cfg_of(YAML + blocks + "adapter: lora\n"))
    assert "fresh, untrained adapter" in capsys.readouterr().err
    plugin.register(cfg_of(YAML + blocks, inference=None))
    assert capsys.readouterr().err == ""
    plugin.register(cfg_of(YAML + blocks + "strict: true\n", inference=None))
    assert "`strict: true` keeps Axolotl from saying when a run is inference" in capsys.readouterr().err


def test_what_this_machine_has_not_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    from axolotl_cache.engine.choices import Hardware
    from axolotl_cache.engine.missing import what_is_missing

    def said(device, **axolotl):
        found = what_is_missing(axolotl, config_path=tmp_path / "q.yaml", hardware=Hardware(device))
        return " ".join(found)

    monkeypatch.setattr("axolotl_cache.engine.sources._cached", lambda arguments: None)
    (tmp_path / "model").mkdir()
    assert said("cuda", base_model="model", load_in_4bit=True) == ""
    assert "nobody/model is not on this machine" in said("cuda", base_model="nobody/model")
    assert "no GPU was found, and `load_in_4bit`" in said("cpu", base_model="model", load_in_4bit=True)


def test_the_plugin_touches_no_model_in_training(plugin, cfg_of):
    cfg, model = cfg_of(YAML + BLOCKS, inference=None), object()
    plugin.register(cfg)
    plugin.post_model_load(cfg, model)  # an object takes no attribute


@pytest.mark.parametrize("name", ["profile", "doctor", "bench", "serve"])
def test_what_axolotl_offers_as_its_own_command_has_ours_below_it(name):
    from importlib.metadata import entry_points

    from click.testing import CliRunner

    (entry,) = entry_points(group="axolotl.cli_commands", name="cache")
    result = CliRunner().invoke(entry.load(), [name, "--help"])
    assert result.exit_code == 0
    assert f"cache {name}" in result.output or f"main {name}" in result.output


def test_the_command_config_says_that_axolotl_needs_the_line(tmp_path):
    from click.testing import CliRunner

    from axolotl_cache.cli.main import main

    path = tmp_path / "your_config.yaml"
    for text, wanted in ((BLOCKS, True), (YAML + BLOCKS, False), ("base_model: m\n", False)):
        path.write_text(text.replace("  rope_theta: 20000.0\n", ""), encoding="utf-8")
        result = CliRunner().invoke(main, ["config", str(path)])
        assert result.exit_code == 0
        assert ("drop the cache blocks" in result.stderr) == wanted
