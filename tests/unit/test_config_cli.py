from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from axolotl_cache import __version__
from axolotl_cache.cli.config import human
from axolotl_cache.cli.errors import clean_errors
from axolotl_cache.cli.flags import cache_flags, cache_options
from axolotl_cache.cli.main import COMMANDS, main
from axolotl_cache.config import Flag
from axolotl_cache.errors import ModelLoadError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, environ=None):
        return CliRunner().invoke(main, arguments, env=environ or {})

    return run


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "inference.yaml"
    path.write_text(
        "base_model: x\nmodel_config:\n  max_cache_size: 512MiB\n  rope_theta: 20000.0\n", encoding="utf-8"
    )
    return path.name


def row(output, key):
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [key]]
    return line.split(None, 1)[1]


def test_help_lists_the_commands_and_imports_none_of_them():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from axolotl_cache.cli.main import main\n"
        "result = CliRunner().invoke(main, ['--help'])\n"
        "print(result.output)\n"
        "heavy = {'pydantic', 'yaml', 'torch', 'axolotl_cache.config', 'axolotl_cache.cli.config'}\n"
        "sys.exit(result.exit_code or ', '.join(heavy & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_version(run):
    assert __version__ in run("--version").output


def test_an_unknown_command_is_a_usage_error(run):
    assert run("cnfig").exit_code == 2


def test_config_says_what_is_in_force_and_where_from(run, yaml_file):
    result = run(
        "config",
        yaml_file,
        "--cache-ttl=7200",
        "--use-prefix-cache",
        environ={"AXOLOTL_CACHE_CACHE_VERSION": "7"},
    )
    assert result.exit_code == 0, result.output
    assert row(result.stdout, "max_cache_size").split() == ["512MiB", "inference.yaml:3"]
    assert row(result.stdout, "entry_timeout").split() == ["2h", "--cache-ttl"]
    assert row(result.stdout, "enable_prefix_cache").split() == ["true", "--use-prefix-cache"]
    assert row(result.stdout, "cache_version").split() == ["7", "AXOLOTL_CACHE_CACHE_VERSION"]
    assert row(result.stdout, "prefix_length").split() == ["128", "tokens", "default"]
    assert row(result.stdout, "rope_theta").split() == ["20000.0", "inference.yaml:4"]
    assert row(result.stdout, "similarity_threshold").endswith(
        "default  (no effect without semantic_matching)"
    )
    assert "no effect" not in row(result.stdout, "entry_timeout")


@pytest.mark.parametrize(("matching", "has_effect"), [("false", False), ("shadow", True), ("true", True)])
def test_config_says_what_the_similarity_threshold_needs(run, yaml_file, matching, has_effect):
    environ = {"AXOLOTL_CACHE_SEMANTIC_MATCHING": matching}
    shown = row(run("config", yaml_file, environ=environ).stdout, "similarity_threshold")
    assert ("no effect" in shown) is not has_effect
    content = json.loads(run("config", yaml_file, "--json", environ=environ).stdout)
    threshold = content["settings"]["session_management.similarity_threshold"]
    assert threshold["has_effect"] is has_effect


def test_config_for_programs(run, yaml_file):
    result = run("config", yaml_file, "--json", "--enable-cache-optimization")
    content = json.loads(result.stdout)
    assert content["cache_blocks_present"] is True
    assert content["settings"]["model_config.max_cache_size"] == {
        "value": 512 * 2**20,
        "text": "512MiB",
        "source": {"kind": "file", "detail": "inference.yaml:3"},
        "has_effect": True,
    }
    assert content["settings"]["inference_settings.max_cache_entries"]["value"] == "auto"
    assert content["settings"]["max_memory_usage"]["value"] == 0.25
    assert content["model_overrides"]["rope_theta"]["value"] == 20000.0


def test_mistakes_go_to_standard_error_with_status_2(run, yaml_file):
    result = run("config", yaml_file, "--cache-ttl=soon", environ={"AXOLOTL_CACHE_PREFIX_LENGTH": "x"})
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "2 mistakes" in result.stderr
    assert "Traceback" not in result.stderr
    assert run("config", "none.yaml").exit_code == 2


def test_no_flag_changes_nothing():
    assert cache_flags() == {}


def test_the_more_specific_flag_names_the_source():
    flags = cache_flags(use_prefix_cache=True, enable_cache_optimization=True, cache_ttl="48h")
    assert flags == {
        "model_config.enable_prefix_cache": Flag("--use-prefix-cache", True),
        "inference_settings.max_cache_entries": Flag("--enable-cache-optimization", "auto"),
        "inference_settings.entry_timeout": Flag("--cache-ttl", "48h"),
    }


def test_any_command_can_take_the_cache_flags():
    @click.command()
    @cache_options
    @click.argument("word")
    def command(word, flags):
        click.echo(f"{word} {sorted(flags)}")

    result = CliRunner().invoke(command, ["hello", "--cache-ttl", "1h"])
    assert result.output == "hello ['inference_settings.entry_timeout']\n"


def test_errors_of_the_library_end_a_command_without_a_traceback():
    @click.command()
    @clean_errors()
    def command():
        raise ModelLoadError("no such model; look at base_model")

    result = CliRunner().invoke(command)
    assert (result.exit_code, result.stderr) == (2, "Error: no such model; look at base_model\n")


@pytest.mark.parametrize(("package", "extra"), [("torch", "engine"), ("bitsandbytes.nn", "quantized")])
def test_a_missing_package_is_answered_with_the_extra_to_install(package, extra):
    with pytest.raises(click.ClickException, match=rf"axolotl-cache\[{extra}\]"), clean_errors():
        raise ModuleNotFoundError(name=package)


def test_a_fault_of_our_own_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError), clean_errors():
        raise ModuleNotFoundError(name="axolotl_cache.nothing")


def test_a_connection_string_is_shown_without_its_password():
    assert human("connection_string", "redis://me:hunter2@cache:6379/0") == "redis://***@cache:6379/0"
    assert human("connection_string", "redis+sentinel://a,b:26379/main") == "redis+sentinel://a,b:26379/main"
    assert human("connection_string", "unix:///run/redis.sock?db=0") == "unix:///run/redis.sock?***"
