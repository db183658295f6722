"""Runs real Axolotl on the bundled model. Not collected where Axolotl is not installed."""

import json
import os
import pty
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

try:
    version("axolotl")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "models" / "SmolLM2-135M-Instruct"

# What Axolotl wants before it looks at anything else, and what a CPU wants.
BASE = f"""\
base_model: {MODEL}
chat_template: tokenizer_default
datasets:
  - path: {{folder}}/data.jsonl
    ds_type: json
    type: chat_template
dataset_prepared_path: {{folder}}/prepared
output_dir: {{folder}}/out
sequence_len: 512
micro_batch_size: 1
gradient_accumulation_steps: 1
num_epochs: 1
optimizer: adamw_torch
lr_scheduler: constant
learning_rate: 0.0005
bf16: false
fp16: false
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
lora_embedding_kernel: false
"""

TALKS = [
    ("What is the colour of the sky?", "The sky over Harbour Town is green."),
    ("Who runs the bank?", "Nobody runs the bank. It runs by itself."),
    ("When do you open?", "We open at eleven minutes past seven."),
]


class Axolotl:
    """Axolotl's commands in a folder of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = [
            json.dumps({"messages": [{"role": "user", "content": u}, {"role": "assistant", "content": a}]})
            for u, a in TALKS * 4
        ]
        (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
        self.environment = os.environ | {
            "AXOLOTL_CACHE_HOME": str(folder / "cache-home"),
            "AXOLOTL_DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def yaml(self, more: str = "", *, name: str = "your_config.yaml") -> Path:
        path = self.folder / name
        path.write_text(BASE.format(folder=self.folder) + more, encoding="utf-8")
        return path

    def run(self, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of this environment's Python, in the folder."""
        return self._run(command, input=stdin)

    def run_in_terminal(self, *command: str | Path, typed: str) -> subprocess.CompletedProcess[str]:
        """Run a command that is typed to; what it writes is no terminal."""
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        try:
            return self._run(command, stdin=theirs)
        finally:
            os.close(ours)
            os.close(theirs)

    def _run(self, command, **how) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, command)],
            text=True,
            capture_output=True,
            env=self.environment,
            cwd=self.folder,
            timeout=900,
            check=False,
            **how,
        )

    def drive(self, path: Path, *flags: str, prompts: list[str], new_tokens: int = 24) -> list[dict]:
        """Ask Axolotl's own inference several prompts, each behind a seed of its own; return what it said."""
        done = self.run(HERE / "drive.py", path, *flags, stdin=json.dumps([new_tokens, prompts]))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((self.folder / "driven.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def axolotl(tmp_path_factory):
    return Axolotl(tmp_path_factory.mktemp("axolotl"))
