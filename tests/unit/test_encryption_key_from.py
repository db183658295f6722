"""Where the configuration says that the key is; and that it is never shown."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from axolotl_cache.cli.main import main
from axolotl_cache.config import load_settings, read_encryption_key
from axolotl_cache.errors import ConfigError
from axolotl_cache.stored_answers import open_response_cache

KEY = bytes(range(32))


def settings(tmp_path, place, environ=None):
    path = tmp_path / "c.yaml"
    path.write_text(f'base_model: m\ninference_settings:\n  encryption_key_from: "{place}"\n')
    return load_settings(path, environ=environ or {})


def key_file(tmp_path, content, mode=0o600):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_from_the_environment(tmp_path):
    assert read_encryption_key(settings(tmp_path, "env:THE_KEY"), {"THE_KEY": KEY.hex()}) == KEY
    assert read_encryption_key(settings(tmp_path, ""), {"THE_KEY": KEY.hex()}) is None


@pytest.mark.parametrize("content", [KEY, KEY.hex().encode() + b"\n"])
def test_from_a_file(tmp_path, content):
    assert read_encryption_key(settings(tmp_path, f"file:{key_file(tmp_path, content)}")) == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_file_that_others_may_open_is_refused(tmp_path, mode):
    path = key_file(tmp_path, KEY, mode)
    with pytest.raises(ConfigError, match=rf"c.yaml:3: .*has mode {mode:04o}.*chmod 600"):
        read_encryption_key(settings(tmp_path, f"file:{path}"))
    path.chmod(0o400)
    assert read_encryption_key(settings(tmp_path, f"file:{path}")) == KEY, "the control"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("env:THE_KEY", "the environment variable THE_KEY is not set"),
        ("file:/no/such/file", "No such file"),
        ("file:/", "directory"),
    ],
)
def test_a_key_that_is_not_there_is_refused(tmp_path, place, said):
    with pytest.raises(ConfigError, match=said):
        read_encryption_key(settings(tmp_path, place), {})


def test_what_is_no_key_is_refused_and_not_repeated(tmp_path):
    for content in (b"correct horse", b"\xff" * 31, b"x" * 4000):
        with pytest.raises(ConfigError) as caught:
            read_encryption_key(settings(tmp_path, f"file:{key_file(tmp_path, content)}"))
        assert "correct" not in str(caught.value)


@pytest.mark.parametrize("key", ["encryption_key_from", "encryption_key"])
@pytest.mark.parametrize("value", [KEY.hex(), "hunter2"])
def test_a_key_in_the_yaml_is_refused_and_not_repeated(tmp_path, key, value):
    path = tmp_path / "c.yaml"
    path.write_text(f'base_model: m\ninference_settings:\n  {key}: "{value}"\n')
    with pytest.raises(ConfigError, match=rf"c.yaml:3: inference_settings.{key}.*not shown") as caught:
        load_settings(path, environ={})
    assert value not in str(caught.value)


def test_the_place_is_shown_and_the_key_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY.hex())
    settings(tmp_path, "env:THE_KEY")
    for options in ([], ["--json"]):
        said = CliRunner().invoke(main, ["config", str(tmp_path / "c.yaml"), *options])
        assert said.exit_code == 0
        assert "env:THE_KEY" in said.output
        assert KEY.hex() not in said.output


def test_the_cache_that_the_settings_describe_is_encrypted(tmp_path, monkeypatch):
    pytest.importorskip("cryptography")
    monkeypatch.setenv("THE_KEY", KEY.hex())
    path = tmp_path / "c.yaml"
    path.write_text(
        "base_model: m\ninference_settings:\n  encryption_key_from: env:THE_KEY\n"
        f"  persistence_path: {tmp_path / 'answers'}\n"
    )
    with open_response_cache(load_settings(path, environ={})) as cache:
        cache["k"] = "canary"
    assert b"canary" not in b"".join(p.read_bytes() for p in (tmp_path / "answers").rglob("*") if p.is_file())
    said = CliRunner().invoke(main, ["invalidate", str(path), "--key", "k"])
    assert (said.exit_code, said.output) == (0, "1\n")
    monkeypatch.setenv("THE_KEY", "00" * 32)
    said = CliRunner().invoke(main, ["invalidate", str(path), "--key", "k"])
    assert said.exit_code == 2
    assert "is not the key" in said.output
