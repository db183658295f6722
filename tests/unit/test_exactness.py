"""The probe decides by measuring, and notices a model whose results depend on the size of a call."""

import pytest
import torch

from axolotl_cache.engine.exactness import probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.kv import read_layout
from axolotl_cache.engine.plan import ALIGNED, GRID

CPU = torch.device("cpu")


def forward_of(model) -> Forward:
    return Forward(model, CPU, model.config.max_position_embeddings)


def test_measures_once_and_remembers(tiny_model, tmp_path, monkeypatch):
    kv = read_layout(tiny_model, CPU)
    first = probe(forward_of(tiny_model), kv, tmp_path)
    assert first.comparisons > 0
    assert first.mode == ("grid" if first.differences else "aligned")
    monkeypatch.setattr(Forward, "prefill", lambda *_: pytest.fail("measured again"))
    assert probe(forward_of(tiny_model), kv, tmp_path) == first


def test_a_damaged_memo_is_measured_anew(tiny_model, tmp_path):
    kv = read_layout(tiny_model, CPU)
    first = probe(forward_of(tiny_model), kv, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text('{"mode": "aligned"')
    assert probe(forward_of(tiny_model), kv, tmp_path) == first


def test_notices_results_that_depend_on_the_size_of_a_call(tiny_model):
    """The control: one last bit that depends on the call's length must lead to grid mode."""

    class Sloppy(Forward):
        def _call(self, slot, ids, last_row):
            logits = super()._call(slot, ids, last_row)
            keys, _ = slot.layer_tensors()[-1]
            if len(ids) < 64:
                at = keys[0, slot.length_tokens, :1]
                at.copy_(torch.nextafter(at, torch.full_like(at, torch.inf)))
            return logits

    kv = read_layout(tiny_model, CPU)
    result = probe(Sloppy(tiny_model, CPU, 2048), kv, None)
    assert result.mode == "grid"
    assert 0 < result.differences < result.comparisons
    assert result.layout == GRID


def test_experts_are_never_trusted_to_be_aligned():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = MixtralForCausalLM(config).eval()
    result = probe(forward_of(model), read_layout(model, CPU), None)
    assert result.mode == "grid"
    assert "experts" in result.reason


def test_aligned_blocks_are_a_multiple_of_16():
    assert ALIGNED.block_size % 16 == 0
    assert ALIGNED.row_multiple % 16 == 0
