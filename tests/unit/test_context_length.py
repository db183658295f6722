"""How many tokens a model takes: what its positions allow, and no more than can be computed the same way."""

import pytest
from transformers import GPT2Config, LlamaConfig, Phi3Config

from axolotl_cache.engine.loader import context_length

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 4096,
}


def longrope():
    return Phi3Config(
        hidden_size=64,
        num_attention_heads=4,
        pad_token_id=0,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters=dict(LONGROPE),
    )


@pytest.mark.parametrize(
    ("config", "sequence_len", "expected"),
    [
        (LlamaConfig(max_position_embeddings=2048), None, 2048),
        (LlamaConfig(max_position_embeddings=2048), 512, 2048),
        (LlamaConfig(max_position_embeddings=2048), 4096, 4096),
        (GPT2Config(n_positions=1024), 4096, 1024),  # learned positions: there are no more
        (longrope(), None, 4096),
        (
            LlamaConfig(
                max_position_embeddings=2048,
                rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
            ),
            8192,
            2048,
        ),
    ],
)
def test_accepted_tokens(config, sequence_len, expected):
    assert context_length(config, None, sequence_len)[0] == expected


def test_says_why_less_is_accepted_than_the_model_claims():
    (warning,) = context_length(longrope(), None, None)[1]
    assert "4096 tokens" in warning
