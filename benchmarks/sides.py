"""The servers of serve.py: ours, LiteLLM's proxy, and a stub that both may stand in front of."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from common import MODEL, REPOSITORY
from load import KEY


class Stub(BaseHTTPRequestHandler):
    """An upstream that answers everything with a short text."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer, and count."""
        Stub.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Please call the number on the back of your card. " * 3}
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "model",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 150, "completion_tokens": 33, "total_tokens": 183},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def stub() -> Iterator[str]:
    """Serve a stub; give its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a server until the block ends; begins when it answers."""
    with (folder / f"server-{free_port()}.log").open("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment, cwd=folder)
        try:
            end = time.monotonic() + 180
            while not _answers(url):
                if running.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read()[-3000:]}")
                time.sleep(0.3)
            yield url
        finally:
            running.terminate()
            running.wait()


def _answers(url: str) -> bool:
    try:
        get(url, "/v1/models")
    except OSError:
        return False
    return True


def get(url: str, path: str) -> str:
    """Return what a server has there."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def source(url: str, body: dict[str, Any]) -> str | None:
    """Return where the answer to a request came from."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.headers["x-cache"]
    finally:
        connection.close()


def ours(folder: Path, upstream: str | None = None, *, caches: bool = True) -> Any:
    """Return our server, in front of an upstream or of its own engine."""
    port = free_port()
    on = "true" if caches else "false"
    lines = [
        f"base_model: {MODEL}",
        "chat_template: tokenizer_default",
        "bf16: true",
        f"model_config: {{enable_prefix_cache: {on}}}",
        "inference_settings: {enable_persistence: false, cache_version: bench, max_cache_entries: 5000}",
    ]
    file = folder / f"server-{port}.yaml"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", str(file), "--port", str(port)]
    command += ["--upstream", upstream] if upstream else ["--model-name", "model", "--cache-truncated"]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    return process(command, f"http://127.0.0.1:{port}", folder, **environment)


def litellm(folder: Path, upstream: str) -> Any:
    """Return LiteLLM's proxy with its memory cache, one process, as its page on production sets it up."""
    python = REPOSITORY / ".venv-litellm-proxy" / "bin" / "litellm"
    command = Path(os.environ.get("LITELLM_PROXY") or python)
    if not command.exists():
        return None
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "model",
                "litellm_params": {"model": "openai/model", "api_base": f"{upstream}/v1", "api_key": "x"},
            }
        ],
        "litellm_settings": {
            "cache": True,
            "cache_params": {"type": "local", "ttl": 3600},
            "set_verbose": False,
        },
        "general_settings": {"master_key": KEY, "disable_spend_logs": True},
    }
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DISABLE_NO_REDIS_WARNING": "true",
    }
    command_line = [
        str(command),
        "--config",
        str(file),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--num_workers",
        "1",
    ]
    return process(command_line, f"http://127.0.0.1:{port}", folder, **environment)
