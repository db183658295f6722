"""The command: what it refuses, and a server that starts, serves, and stops when it is told to."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from axolotl_cache.cli.main import main


def serve(*arguments):
    return CliRunner().invoke(main, ["serve", *map(str, arguments)])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("base_model: nobody/nothing\n")
    return path


def test_upstreams_need_a_version_of_the_cache(config):
    refused = serve(config, "--upstream", "http://127.0.0.1:9", "--upstream", "nonsense", "--port", 0)
    assert refused.exit_code == 2
    assert "cache_version" in refused.output
    assert "'nonsense' is no URL" in refused.output


def test_nobody_else_is_let_in_without_keys(config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    refused = serve(config, "--host", "0.0.0.0")
    assert refused.exit_code == 2
    assert "keys add NAME" in refused.output


def test_it_serves_and_stops_when_it_is_told_to(config, tmp_path):
    config.write_text("base_model: x\ninference_settings: {cache_version: '1', enable_persistence: false}\n")
    command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", config, "--port", "0"]
    environment = os.environ | {
        "XDG_CONFIG_HOME": str(tmp_path),
        "AXOLOTL_CACHE_UPSTREAM_KEY": "secret",
    }
    running = subprocess.Popen(
        [*command, "--upstream", "http://127.0.0.1:9"], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = next(line for line in running.stderr if "serving" in line)
        port = int(re.search(r":(\d+)/v1", line)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(
            "POST", "/v1/chat/completions", b'{"messages": []}', {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        assert answer.status == 502
        assert json.loads(answer.read())["error"]["code"] == "no_upstream"
        connection.close()
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        running.stderr.close()
