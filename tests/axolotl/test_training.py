"""Training is not touched by the plugin, and what it trains is what is served."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.axolotl

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lora" / "retrain.py"
LORA = """\
adapter: lora
lora_r: 8
lora_alpha: 16
lora_dropout: 0.1
lora_target_linear: true
seed: {seed}
max_steps: 3
logging_steps: 1
"""
BLOCKS = (
    "plugins: [axolotl_cache.AxolotlCachePlugin]\n"
    "model_config:\n  enable_prefix_cache: true\ninference_settings:\n  entry_timeout: 1h\n"
)

SEEDED = """\
import runpy, sys, torch
torch.manual_seed(0)  # Axolotl seeds after it has made the adapter, whose weights begin at random
sys.argv = ["axolotl.cli.train", sys.argv[1]]
runpy.run_module("axolotl.cli.train", run_name="__main__", alter_sys=True)
"""


def train(axolotl, more: str, *, name: str) -> list[float]:
    """Train, and return the loss of each step."""
    path = axolotl.yaml(more, name=name)
    done = axolotl.run("-c", SEEDED, path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = re.search(r"^output_dir: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1]
    states = sorted(axolotl.folder.joinpath(out).glob("checkpoint-*/trainer_state.json"))
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    return [step["loss"] for step in history if "loss" in step]


def test_the_losses_are_the_same_with_the_plugin(axolotl):
    off = train(axolotl, LORA.format(seed=7), name="off.yaml")
    on = train(axolotl, LORA.format(seed=7) + BLOCKS, name="on.yaml")
    assert len(off) == 3
    assert on == off
    # The control: dropout makes the losses of another seed others.
    assert train(axolotl, LORA.format(seed=8), name="other.yaml") != off


def test_an_adapter_retrained_in_place_is_never_served_stale(axolotl):
    """The example does it: base model, adapter, retrained adapter, base model; two questions, twice each."""
    done = axolotl.run(EXAMPLE, "--folder", axolotl.folder / "lora", "--steps", "8")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] == 16
    assert found["stale_answers"] == 0
    base, adapter, retrained, again = found["alone"].values()
    assert base == again
    # The control: were an old answer served, it would be another one than the model's own.
    for before, after in ((base, adapter), (adapter, retrained)):
        assert all(one != other for one, other in zip(before, after, strict=True))
    for served in list(found["served"].values())[:3]:
        assert all(first in ("miss", "hit-prefix") and second == "hit-exact" for first, second in served)
    assert found["served"]["base model again"] == [["hit-exact", "hit-exact"]] * 2
