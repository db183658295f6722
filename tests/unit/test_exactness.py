"""The probe decides by measuring, and notices a model whose results depend on what else is computed."""

import pytest
import torch

from axolotl_cache.engine.exactness import probe
from axolotl_cache.engine.forward import Forward
from axolotl_cache.engine.plan import GRID, invariant
from axolotl_cache.engine.pool import KVPool, read_layout

CPU = torch.device("cpu")


def forward_of(model, kind=Forward) -> Forward:
    pool = KVPool(read_layout(model, CPU), 32)
    return kind(model, pool, model.config.max_position_embeddings)


def test_measures_once_and_remembers(tiny_model, tmp_path, monkeypatch):
    forward = forward_of(tiny_model)
    first = probe(forward, tmp_path)
    assert first.comparisons > 0
    assert first.mode == "invariant"
    assert first.layout == invariant(first.row_multiple)
    assert first.prefill_seconds_per_token > 0
    assert forward.pool.used_pages == 0
    monkeypatch.setattr(Forward, "run", lambda *_: pytest.fail("measured again"))
    assert probe(forward_of(tiny_model), tmp_path) == first


def test_another_number_of_threads_is_measured_anew(tiny_model, tmp_path):
    first = probe(forward_of(tiny_model), tmp_path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert probe(forward_of(tiny_model), tmp_path).numerics != first.numerics
    finally:
        torch.set_num_threads(threads)


def test_a_damaged_memo_is_measured_anew(tiny_model, tmp_path):
    first = probe(forward_of(tiny_model), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text('{"mode": "invariant"')
    assert probe(forward_of(tiny_model), tmp_path).mode == first.mode


class _Sloppy(Forward):
    """One last bit of one key depends on how many tokens a call computes."""

    def run(self, chunks, layout):
        logits = super().run(chunks, layout)
        if layout.tiled and sum(len(chunk.tokens) for chunk in chunks) < 64:
            keys, _ = self.pool.tensors(self.pool.layers[-1])
            chunk = chunks[0]
            page = chunk.pages[chunk.start // self.pool.block_size]
            at = keys[0, page.index, chunk.start % self.pool.block_size, :1]
            at.copy_(torch.nextafter(at, torch.full_like(at, torch.inf)))
        return logits


class _Sociable(Forward):
    """One last bit of the logits depends on whether other requests share the call."""

    def run(self, chunks, layout):
        logits = super().run(chunks, layout)
        if len(chunks) > 1 and logits[0] is not None:
            logits[0] = torch.nextafter(logits[0], torch.full_like(logits[0], torch.inf))
        return logits


@pytest.mark.parametrize("kind", [_Sloppy, _Sociable])
def test_notices_results_that_depend_on_what_else_is_computed(tiny_model, kind):
    """The control: one last bit must lead to grid mode."""
    result = probe(forward_of(tiny_model, kind), None)
    assert result.mode == "grid"
    assert 0 < result.differences <= result.comparisons
    assert result.layout == GRID


class _Narrow(Forward):
    """Rounds as kernels for 4-bit weights do: to 16 bits, whatever the dtype."""

    def run(self, chunks, layout):
        return [1.02 * part for part in super().run(chunks, layout)]


def test_quantised_weights_may_round_to_16_bits_and_others_may_not(tiny_model, monkeypatch):
    assert probe(forward_of(tiny_model, _Narrow), None).mode == "none"
    monkeypatch.setattr(tiny_model, "is_quantized", True, raising=False)
    result = probe(forward_of(tiny_model, _Narrow), None)
    assert result.mode == "grid"
    assert "quantised" in result.reason


def test_experts_are_never_trusted_to_be_invariant():
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
    result = probe(forward_of(MixtralForCausalLM(config).eval()), None)
    assert result.mode == "grid"
    assert "experts" in result.reason
