"""What the commands that remove stored answers are tried on."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from axolotl_cache.cli.main import main


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"base_model": "nowhere", "inference_settings": {"persistence_path": "./answers"}}
    Path("c.yaml").write_text(yaml.safe_dump(content))
    return "c.yaml"


@pytest.fixture
def run_command():
    """Run a command: what it prints, or, where another exit status is expected, what it complains of."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stderr
        return result.stdout if code == 0 else result.stderr

    return run
