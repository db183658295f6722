"""Beside real Axolotl: do its commands run as they are, is an answer another one, and what is saved?

Axolotl's own commands on SmolLM2-135M-Instruct, in an environment of its own (scripts/install-axolotl). It
samples; each prompt has a seed, and the model's own `generate` gives the other side in the same process.

    python benchmarks/axolotl.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import MODEL, REPOSITORY, arguments, emit, say

SEED = 0
NEW_TOKENS = 24
TRAINING_STEPS = 3
PREFIX_SENTENCES = {"short": 12, "long": 60}
PLUGIN = "plugins: [axolotl_cache.AxolotlCachePlugin]\n"
BLOCKS = PLUGIN + "model_config: {enable_prefix_cache: true, prefix_length: 32}\n"
LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_dropout: 0.1\nlora_target_linear: true\n"
QLORA = (
    "adapter: qlora\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n"
    "bnb_config_kwargs: {bnb_4bit_quant_storage: uint8}\n"
)
CPU_ONLY = (
    "lora_mlp_kernel: false\nlora_qkv_kernel: false\nlora_o_kernel: false\nlora_embedding_kernel: false\n"
)
SEEDED = """\
import runpy, sys, torch
torch.manual_seed(0)  # Axolotl seeds after it has made the adapter, whose weights begin at random
sys.argv = ["axolotl.cli.train", sys.argv[1]]
runpy.run_module("axolotl.cli.train", run_name="__main__", alter_sys=True)
"""
QUESTIONS = (
    "When is the desk open?",
    "Who may open an account?",
    "What does a card cost?",
    "Where is the pier?",
    "Write a short poem about the tide.",
    "List three things that a bank does.",
)


class Beside:
    """Commands of the environment that has real Axolotl, in a folder of this run's own."""

    def __init__(self, python: Path, folder: Path, dtype: str) -> None:
        self.python, self.folder, self.dtype = python, folder, dtype
        self.environment = os.environ | {
            "AXOLOTL_CACHE_HOME": str(folder / "cache"),
            "AXOLOTL_DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
        }

    def yaml(self, name: str, more: str, *, training: bool = False) -> str:
        """Write a YAML on the bundled model; return its name. Training on a CPU is in float32."""
        bfloat16 = self.dtype == "bfloat16" and not training
        text = (
            f"base_model: {MODEL}\nchat_template: tokenizer_default\nsequence_len: 256\nmicro_batch_size: 2\n"
            f"gradient_accumulation_steps: 1\nnum_epochs: 1\noptimizer: adamw_torch\nlr_scheduler: constant\n"
            f"learning_rate: 0.0005\nlogging_steps: 1\nmax_steps: {TRAINING_STEPS}\nseed: 7\n"
            f"datasets:\n  - path: {REPOSITORY}/examples/lora/opening_hours.jsonl\n    ds_type: json\n"
            f"    type: chat_template\ndataset_prepared_path: {self.folder}/prepared\n"
            f"output_dir: {self.folder}/{name}.out\nfp16: false\n"
            f"bf16: {str(bfloat16).lower()}\n"
        )
        (self.folder / name).write_text(text + CPU_ONLY + more, encoding="utf-8")
        return name

    def run(self, command: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command; nothing is raised where it fails."""
        say(f"  {' '.join(command)}")
        return subprocess.run(
            [str(self.python), *command],
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=self.environment,
        )


def word_for_word(beside: Beside) -> list[dict[str, Any]]:
    """Run the two commands as they are written; one passes if it answers and the engine served it."""
    rows = []
    for name, more, flags in (
        ("your_config.yaml", "", "--use-prefix-cache --cache-ttl=7200"),
        ("qlora.yaml", QLORA, "--enable-cache-optimization"),
    ):
        beside.yaml(name, PLUGIN + more)
        command = f"-m axolotl.cli.inference {name} {flags}"
        done = beside.run(command.split(), "Say hello in one word.")
        passed = done.returncode == 0 and "assistant" in done.stdout and "1 miss" in done.stderr
        rows.append({"part": "command", "command": f"python {command}", "passed": passed})
    return rows


def answers(beside: Beside, questions: Sequence[str]) -> list[dict[str, Any]]:
    """Ask behind shared text, cold and warm, against the model's own `generate` with the same seeds."""
    sentence = "Our desk at the pier is open on every working day of the week. "
    prompts = [
        f"Read this, and then answer. {sentence * count}{question}"
        for _ in range(2)
        for count in PREFIX_SENTENCES.values()
        for question in questions
    ]
    beside.yaml("answers.yaml", BLOCKS)
    drive = str(REPOSITORY / "tests" / "axolotl" / "drive.py")
    done = beside.run([drive, "answers.yaml"], json.dumps([NEW_TOKENS, prompts]))
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    told = json.loads((beside.folder / "driven.json").read_text(encoding="utf-8"))
    rows, before = [], 0
    for number, one in enumerate(told):
        hits = one["served"].get("hit-prefix", 0)
        rows.append(
            {
                "part": "answers",
                "prefix": list(PREFIX_SENTENCES)[number // len(questions) % len(PREFIX_SENTENCES)],
                "asked": number // (len(questions) * len(PREFIX_SENTENCES)) + 1,
                "hit": hits > before,
                "identical": one["tokens"] == one["alone"]["tokens"],
                "same_random_numbers": one["random"] == one["alone"]["random"],
                "ttft_ms": round(one["ttft_seconds"] * 1e3, 1),
                "ttft_alone_ms": round(one["alone"]["ttft_seconds"] * 1e3, 1),
                "seconds": round(one["seconds"], 3),
                "seconds_alone": round(one["alone"]["seconds"], 3),
            }
        )
        before = hits
    return rows


def retraining(beside: Beside, steps: int) -> dict[str, Any]:
    """Run the example that trains an adapter twice into one folder."""
    script = str(REPOSITORY / "examples" / "lora" / "retrain.py")
    folder = str(beside.folder / "lora")
    done = beside.run([script, "--folder", folder, "--steps", str(steps)])
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return {"part": "retraining", **found}


def losses(beside: Beside) -> list[dict[str, Any]]:
    """Train a few steps without and with the plugin; return the losses."""
    rows = []
    for name, more in (("off.yaml", LORA), ("on.yaml", LORA + BLOCKS)):
        done = beside.run(["-c", SEEDED, beside.yaml(name, more, training=True)])
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        states = (beside.folder / f"{name}.out").glob("checkpoint-*/trainer_state.json")
        last = max(states, key=lambda state: int(state.parent.name.rpartition("-")[2]))
        history = json.loads(last.read_text(encoding="utf-8"))["log_history"]
        found = [step["loss"] for step in history if "loss" in step]
        rows.append({"part": "training", "plugin": name == "on.yaml", "losses": found})
    return rows


def main() -> None:
    """Run it."""
    started, chosen = time.time(), arguments(__doc__)
    python = REPOSITORY / os.environ.get("AXOLOTL_VENV", ".venv-axolotl") / "bin" / "python"
    if not python.exists():
        say(f"SKIPPED: {python} is missing: run scripts/install-axolotl, or set AXOLOTL_VENV.")
        raise SystemExit(0)
    with tempfile.TemporaryDirectory(prefix="axolotl-cache-") as folder:
        beside = Beside(python, Path(folder), chosen.dtype)
        asked = answers(beside, QUESTIONS[: 2 if chosen.quick else None])
        retrained = retraining(beside, 8 if chosen.quick else 10)
        trained = losses(beside)
        commands = word_for_word(beside)
    hits = [row for row in asked if row["hit"] and row["prefix"] == "long"]
    off, on = (row["losses"] for row in trained)
    figures = {
        "word_for_word_commands": sum(row["passed"] for row in commands),
        "identical_fraction": sum(row["identical"] for row in asked) / len(asked),
        "stale_answers_after_retraining": retrained["stale_answers"],
        "training_loss_difference": max(abs(a - b) for a, b in zip(off, on, strict=True)),
        "ttft_cold_over_hit": round(median(row["ttft_alone_ms"] / row["ttft_ms"] for row in hits), 2),
    }
    for name, value in figures.items():
        say(f"{name:>32}  {value}")
    emit(
        "axolotl",
        figures=figures,
        rows=[*commands, *asked, retrained, *trained],
        seed=SEED,
        started=started,
        packages=("axolotl-cache",),
        dtype=chosen.dtype,
        quick=chosen.quick,
        new_tokens=NEW_TOKENS,
        axolotl=_versions(python),
    )


def _versions(python: Path) -> dict[str, str]:
    names = ("axolotl", "torch", "transformers", "peft", "bitsandbytes")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    found: dict[str, str] = json.loads(subprocess.check_output([str(python), "-c", code], text=True))
    return found


if __name__ == "__main__":
    sys.exit(main())
