"""The small model, loaded as users' are, and an engine over it; a file may have its own."""

import pytest

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.loader import load_model


@pytest.fixture(scope="module")
def loaded(small_model_folder, tmp_path_factory):
    axolotl = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=tmp_path_factory.mktemp("config") / "c.yaml")


@pytest.fixture(scope="module")
def engine(loaded, tmp_path_factory):
    return Engine(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        max_cache_bytes=10**8,
        memo=tmp_path_factory.mktemp("exactness"),
    )
