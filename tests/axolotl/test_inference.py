"""The two commands word for word, and the same answers with the plugin as without."""

import json

import pytest

pytestmark = pytest.mark.axolotl

PLUGIN = "plugins: [axolotl_cache.AxolotlCachePlugin]\n"
BLOCKS = PLUGIN + "model_config:\n  enable_prefix_cache: true\n  prefix_length: 32\n"
QLORA = (
    "load_in_4bit: true\nadapter: qlora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n"
    "bnb_config_kwargs: {bnb_4bit_quant_storage: uint8}\n"
)
LONG = "Please read this and then answer. " + "Our desk is open on every working day of the week. " * 60
PROMPTS = [LONG + "When is it open?", LONG + "When is it closed?", LONG + "When is it open?", "Hello"]
WHAT_MUST_NOT_DIFFER = ("tokens", "printed", "random")


def test_use_prefix_cache_word_for_word(axolotl):
    axolotl.yaml(PLUGIN)
    command = "-m axolotl.cli.inference your_config.yaml --use-prefix-cache --cache-ttl=7200"
    done = axolotl.run(*command.split(), stdin="Say hello in one word.")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "<|im_start|>assistant" in done.stdout
    assert "axolotl-cache" not in done.stdout
    assert "axolotl-cache: prefix reuse: generate mode" in done.stderr
    assert "1 miss" in done.stderr


def test_enable_cache_optimization_word_for_word(axolotl):
    axolotl.yaml(PLUGIN + QLORA, name="qlora.yaml")
    command = "-m axolotl.cli.inference qlora.yaml --enable-cache-optimization"
    done = axolotl.run(*command.split(), stdin="Say hello in one word.")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "<|im_start|>assistant" in done.stdout
    assert "axolotl-cache: prefix reuse: g" in done.stderr
    assert "untrained adapter" in done.stderr


def test_the_output_is_the_same_with_the_plugin_cold_and_warm(axolotl):
    """Streamed text, tokens, and what is left of the random numbers; Axolotl samples."""
    alone = axolotl.drive(axolotl.yaml(), prompts=PROMPTS)
    ours = axolotl.drive(axolotl.yaml(BLOCKS), "--use-prefix-cache", prompts=PROMPTS)
    for name in WHAT_MUST_NOT_DIFFER:
        assert [one[name] for one in ours] == [one[name] for one in alone], name
    assert ours[-1]["served"] == {"miss": 2, "hit-prefix": 2}
    # The control: another seed is another answer, so that equal ones say something.
    assert ours[0]["tokens"] != ours[2]["tokens"]


def test_gradio_gets_the_same_from_a_thread(axolotl):
    told = axolotl.drive(axolotl.yaml(BLOCKS), "--gradio", prompts=PROMPTS[:2])
    for one in told:
        assert one["tokens"] == one["alone"]["tokens"]
        assert one["random"] == one["alone"]["random"]
        assert "<|im_start|>assistant" in one["printed"]
    assert told[-1]["served"] == {"miss": 1, "hit-prefix": 1}


def test_chat_is_left_alone(axolotl):
    path = axolotl.yaml(BLOCKS)
    talk = "/set max_new_tokens 5\nHello\nHow are you?\n/exit\n"
    done = axolotl.run_in_terminal("-m", "axolotl.cli.inference", path, "--chat", typed=talk)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not cached: 2, the caller keeps keys and values of its own" in done.stderr


CASES = {
    "mistake": PLUGIN + "model_config:\n  prefix_lenght: 64\n",
    "override": PLUGIN + "model_config:\n  prefix_length: 64\n  rms_norm_eps: 0.125\n",
    "nothing": PLUGIN,
    "without plugin": "inference_settings: {entry_timeout: 3}\n",
}


def test_what_becomes_of_the_configuration(axolotl):
    """In one process, for importing Axolotl takes half a minute."""
    paths = {name: str(axolotl.yaml(text, name=f"{name}.yaml")) for name, text in CASES.items()}
    done = axolotl.run("-c", READ, json.dumps(paths))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "the nearest valid key is `prefix_length`" in found["mistake"]["error"]
    assert "error" not in found["override"], found["override"]
    assert found["override"]["config"] == [0.125, None]
    assert found["override"]["ours"]["asked"]
    assert found["override"]["left"] == {}
    assert "nothing is cached: the YAML has no cache block" in found["nothing"]["said"]
    assert not found["nothing"]["ours"]["asked"]
    # What the documentation says of Axolotl alone: our blocks are dropped without a word.
    assert found["without plugin"] == {
        "said": "",
        "ours": None,
        "left": {},
        "config": found["nothing"]["config"],
    }


READ = """
import contextlib, io, json, sys
from axolotl.cli.config import load_cfg
from axolotl.integrations.base import PluginManager
from axolotl.loaders.utils import load_model_config

found = {}
for name, path in json.loads(sys.argv[1]).items():
    said = io.StringIO()
    PluginManager.get_instance().plugins.clear()
    try:
        with contextlib.redirect_stderr(said):
            cfg = load_cfg(path, inference=True)
            config = load_model_config(cfg)
    except Exception as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"}
        continue
    found[name] = {
        "said": "".join(line for line in said.getvalue().splitlines() if line.startswith("axolotl-cache")),
        "ours": cfg.axolotl_cache and dict(cfg.axolotl_cache),
        "left": {k: cfg[k] for k in ("inference_settings", "use_prefix_cache", "max_memory_usage") if cfg[k]},
        "config": [config.rms_norm_eps, getattr(config, "prefix_length", None)],
    }
print(json.dumps(found))
"""


def test_our_commands_under_axolotls_name(axolotl):
    axolotl.yaml(BLOCKS)
    command = ("-c", "from axolotl.cli.main import main; main()", "cache")
    done = axolotl.run(*command, "config", "your_config.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "prefix_length" in done.stdout
    more = axolotl.run(*command, "doctor", "--help")
    assert more.returncode == 0, more.stderr[-3000:]
    assert "why the hit rate is low" in more.stdout
