"""Trains a LoRA adapter with Axolotl, serves it cached, trains it again in place: is an answer ever stale?

    python retrain.py [--folder FOLDER] [--steps N]

Needs Axolotl in this environment, and the bundled model (scripts/install). What happens, each line a process:

    ask the base model         computed, then from the cache
    train, ask                 computed with the adapter, then from the cache
    train again in place, ask  computed anew: what was stored belongs to other weights
    ask the base model         from the cache: its entries were valid all the while

Every answer is compared with the model's alone. The last line of standard output is a JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUESTIONS = ("When does Harbour Bank open?", "Where is Harbour Bank?")


def run(folder: Path, *command: str) -> str:
    """Run a command of this Python beside the YAML; what it writes stays in `folder`."""
    environment = {
        "AXOLOTL_CACHE_HOME": str(folder / "cache"),
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }
    done = subprocess.run(  # noqa: S603 - our own scripts and Axolotl's
        [sys.executable, *command],
        env=os.environ | environment,
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def train(folder: Path, data: str, steps: int) -> None:
    print(f"training on {data}", file=sys.stderr, flush=True)
    yaml = folder / "train.yaml"
    text = (HERE / "lora.yaml").read_text(encoding="utf-8").replace("./opening_hours.jsonl", f"./{data}")
    yaml.write_text(text, encoding="utf-8")
    output = [f"--output-dir={folder / 'lora'}", f"--dataset-prepared-path={folder / 'prepared'}"]
    run(folder, "-m", "axolotl.cli.train", str(yaml), *output, f"--max-steps={steps}")


def ask(folder: Path, who: str, *flags: str) -> list[dict]:
    told = json.loads(run(folder, "ask.py", "lora.yaml", *flags, *QUESTIONS).splitlines()[-1])
    for one in told:
        served = ", ".join(one["served"])
        print(f"{who}: {one['question']} {one['cached'][0]}  [{served}]", file=sys.stderr, flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="for the adapter and the cache; by default a fresh one")
    parser.add_argument("--steps", type=int, default=10, help="training steps, each time")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="axolotl-cache-lora-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    base, adapter = ("--adapter=",), (f"--lora-model-dir={folder / 'lora'}",)

    stages = {"base model": ask(folder, "base model", *base)}
    train(folder, "opening_hours.jsonl", options.steps)
    stages["adapter"] = ask(folder, "adapter", *adapter)
    train(folder, "opening_hours_summer.jsonl", options.steps)
    stages["retrained"] = ask(folder, "retrained", *adapter)
    stages["base model again"] = ask(folder, "base model again", *base)

    answers = [(one["alone"], answer) for told in stages.values() for one in told for answer in one["cached"]]
    result = {
        "answers": len(answers),
        "stale_answers": sum(alone != answer for alone, answer in answers),
        "served": {who: [one["served"] for one in told] for who, told in stages.items()},
        "alone": {who: [one["alone"] for one in told] for who, told in stages.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
