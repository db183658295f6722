"""`axolotl-cache serve` on two machines with one Valkey server between them, and with none."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

pytest.importorskip("redis")


def soon(condition: Callable[[], object], seconds: float = 30.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "not in time"
        time.sleep(0.005)
    return time.monotonic() - started


class Serving:
    """One server process: a machine of the fleet."""

    def __init__(self, folder: Path, content: dict) -> None:
        folder.mkdir()
        self.config = folder / "c.yaml"
        self.config.write_text(yaml.safe_dump(content))
        self.environment = os.environ | {"AXOLOTL_CACHE_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", str(self.config), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self.environment)
        self.lines: list[str] = []
        self.port = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"serving.*:(\d+)/v1", line)
            self.port = self.port or int(found[1] if found else 0)

    def wait(self) -> Serving:
        soon(lambda: self.port or self.process.poll() is not None, 120)
        assert self.port, "".join(self.lines)
        return self

    def get(self, path: str) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return json.loads(body)

    def ask(self, text: str) -> tuple[str, str]:
        """Return the answer, and where it came from."""
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 60,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "X-Cache-Tags": "red", "X-Cache-Also": "truncated"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"model": self.model}), headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, told
        return told["choices"][0]["message"]["content"], answer.headers["X-Cache"]

    @property
    def model(self) -> str:
        return self.get("/v1/models")["data"][0]["id"]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.reader.join(20)
            self.process.stderr.close()


@pytest.fixture
def machine(small_model_folder, tmp_path) -> Iterator[Callable[[str], Serving]]:
    made: list[Serving] = []
    tag = uuid4().hex

    def make(url: str, copies: int = 1) -> Serving:
        content = {
            "base_model": str(small_model_folder),
            "chat_template": "tokenizer_default",
            "inference_settings": {"environment_tag": tag},
            "cluster_cache": {"connection_string": url, "replication_count": copies},
        }
        made.append(Serving(tmp_path / str(len(made)), content))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.slow
def test_equal_requests_on_two_machines_are_computed_once(machine, valkey):
    one, two = machine(valkey.url), machine(valkey.url)
    for each in (one.wait(), two.wait()):
        soon(lambda each=each: each.get("/readyz")["shared"]["is_up"])
    counts = []
    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            text = f"Tell me of the city with the number {number}."
            asking = [pool.submit(each.ask, text) for each in (one, two) for _ in range(4)]
            answers = [each.result() for each in asking]
            assert len({text for text, _ in answers}) == 1
            counts.append(sum(served in {"miss", "hit-prefix"} for _, served in answers))
    assert counts == [1] * 5


@pytest.mark.slow
def test_what_is_invalidated_by_tag_no_machine_serves_a_second_later(machine, valkey):
    one, two = (each.wait() for each in (machine(valkey.url), machine(valkey.url)))
    for each in (one, two):
        soon(lambda each=each: each.get("/readyz")["shared"]["is_up"])
    for number in range(3):
        text = f"Question {number}"
        one.ask(text)
        soon(lambda text=text: two.ask(text)[1] == "hit-exact")
        assert one.ask(text)[1] == "hit-exact"
        command = [sys.executable, "-m", "axolotl_cache.cli.main", "invalidate", str(two.config)]
        done = subprocess.run(
            [*command, "--tag", "red"], env=two.environment, capture_output=True, text=True, check=True
        )
        ended = time.monotonic()
        assert int(done.stdout) >= 1
        while one.ask(text)[1] == "hit-exact":
            assert time.monotonic() - ended < 1.0, "this second is promised"


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 3])
def test_fewer_replicas_than_asked_for_are_said_at_the_start_and_in_readyz(machine, valkey, copies):
    one = machine(valkey.url, copies).wait()
    soon(lambda: one.get("/readyz")["shared"]["is_up"])
    assert one.get("/readyz") == {
        "status": "ok",
        "shared": {"is_up": True, "copies": 1, "copies_wanted": copies},
    }
    warned = [line for line in one.lines if "replication_count is 3, and a write has 1 copy now" in line]
    assert len(warned) == (copies == 3), one.lines
    text, _ = one.ask("Hello")
    assert one.ask("Hello") == (text, "hit-exact"), "it serves all the same"


@pytest.mark.slow
def test_redis_down_from_the_start_and_used_when_it_comes_without_a_restart(machine, servers, tmp_path):
    port = servers.free_port()
    one = machine(f"redis://127.0.0.1:{port}").wait()
    assert any("is not reached" in line for line in one.lines), one.lines
    assert one.get("/readyz")["shared"]["is_up"] is False
    text, served = one.ask("Hello")
    assert served != "hit-exact"
    assert one.ask("Hello") == (text, "hit-exact"), "its own tiers serve"
    valkey = servers.Server(tmp_path / "valkey", port).start()
    try:
        soon(lambda: one.get("/readyz")["shared"]["is_up"])
        soon(lambda: any("is well again" in line for line in one.lines))
        two = machine(f"redis://127.0.0.1:{port}").wait()
        soon(lambda: two.get("/readyz")["shared"]["is_up"])
        assert two.ask("Hello")[0] == text
        assert two.ask("Another")[1] != "hit-exact"
        soon(lambda: one.ask("Another")[1] == "hit-exact")
    finally:
        valkey.stop()
    assert one.ask("Third")[0], "it goes on when the server has gone again"
