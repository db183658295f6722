"""A trace through the real engine, with a tiny random model: its counters, and what was predicted of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any, get_args

from axolotl_cache.clock import ManualClock
from axolotl_cache.prefix import PolicyName
from axolotl_cache.profiling.requests import BlockLog
from axolotl_cache.profiling.simulate import BlockRequest, capacity_for, simulate

SEED = 8
FRACTIONS, QUICK_FRACTIONS = (0.05, 0.25), (0.1,)
REQUESTS, QUICK_REQUESTS = 300, 100
MOST_BLOCKS = 60
"""Longer prompts are cut: 60 blocks of the engine's are 1,920 tokens."""
TOGETHER_SECONDS, TOGETHER_MOST = 1.0, 8
"""Requests that arrive so close run at once in the engine; the prediction takes them one after another."""
VOCABULARY = 500


def compare(
    logs: Mapping[str, BlockLog], *, quick: bool, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return a row for each trace, policy and capacity: the engine's hit rate, the predicted one, the error.

    Args:
        logs: by name.
        quick: fewer requests.
        report: gets a line for each row.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, log in logs.items():
            small = _scaled(log, QUICK_REQUESTS if quick else REQUESTS)
            for fraction in QUICK_FRACTIONS if quick else FRACTIONS:
                capacity = capacity_for(fraction, small, _engine_block())
                for policy in get_args(PolicyName):
                    row = _row(name, small, capacity, policy, Path(folder))
                    report(
                        f"{name[:24]:24}  {policy:8}  {capacity:5} blocks  engine {row['engine']:.4f}  "
                        f"predicted {row['predicted']:.4f}  off by {row['error_points']:.2f} points"
                    )
                    rows.append(row)
    return rows


def _row(
    name: str, requests: list[BlockRequest], capacity: int, policy: PolicyName, memo: Path
) -> dict[str, Any]:
    done = simulate(requests, block_size=_engine_block(), capacity_blocks=capacity, policy=policy)
    engine = _engine_rate(requests, capacity, policy, memo)
    return {
        "trace": name,
        "requests": len(requests),
        "policy": policy,
        "capacity_blocks": capacity,
        "engine": engine,
        "predicted": done.hit_rate,
        "error_points": abs(100 * (engine - done.hit_rate)),
    }


def _engine_block() -> int:
    from axolotl_cache.namespace import BLOCK_SIZE_TOKENS

    return BLOCK_SIZE_TOKENS


def _scaled(log: BlockLog, count: int) -> list[BlockRequest]:
    """Return some requests with blocks of the engine's size, each as much of a block as it was."""
    size = _engine_block()
    scaled = []
    for request in _thinned(log, count):
        whole, rest = divmod(request.prompt_tokens, log.block_size)
        whole = min(whole, MOST_BLOCKS)
        tokens = whole * size + rest * size // log.block_size
        scaled.append(BlockRequest(request.at_seconds, request.blocks[:whole], max(1, tokens)))
    return scaled


def _thinned(log: BlockLog, count: int) -> Sequence[BlockRequest]:
    """Return about `count` requests: conversations, told apart by their second block, or the first."""
    seconds = sorted({request.blocks[1] for request in log.requests if len(request.blocks) > 1})
    if len(seconds) < count:
        return log.requests[:count]
    kept = set(Random(SEED).sample(seconds, len(seconds) * count // len(log.requests)))  # noqa: S311
    return [request for request in log.requests if len(request.blocks) > 1 and request.blocks[1] in kept]


def _together(requests: Sequence[BlockRequest]) -> Iterator[list[BlockRequest]]:
    group: list[BlockRequest] = []
    for request in requests:
        late = bool(group) and request.at_seconds - group[0].at_seconds >= TOGETHER_SECONDS
        if late or len(group) == TOGETHER_MOST:
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _engine_rate(requests: list[BlockRequest], capacity: int, policy: PolicyName, memo: Path) -> float:
    """Return the engine's own hit rate."""
    from axolotl_cache.request import Sampling

    clock = ManualClock(0.0)
    engine = _engine(capacity, policy, clock, memo)
    sampling = Sampling(max_new_tokens=1)
    for sent in _together(requests):
        clock.now_seconds = sent[0].at_seconds
        running = [engine.generate(_tokens(r), sampling, namespace="trace") for r in sent]
        for generation in running:
            for _ in generation:
                pass
    stats = engine.prefix_stats
    engine.close()
    return stats.hit_rate


def _engine(capacity: int, policy: PolicyName, clock: ManualClock, memo: Path) -> Any:
    import torch

    from axolotl_cache.engine.engine import Engine

    model = _model()
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    page_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4 * _engine_block()
    engine = Engine(
        model,
        device=torch.device("cpu"),
        context_length_tokens=config.max_position_embeddings,
        end_tokens=frozenset(),
        max_cache_bytes=capacity * page_bytes,
        cache_policy=policy,
        draft_tokens=0,
        memo=memo,
        clock=clock,
    )
    if (engine.block_size, engine.kv_bytes_per_token * engine.block_size) != (_engine_block(), page_bytes):
        raise RuntimeError(
            "the engine cuts blocks of another size here: the comparison would be of two sizes"
        )
    return engine


@lru_cache(maxsize=1)
def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def _tokens(request: BlockRequest) -> list[int]:
    size = _engine_block()
    whole = [token for block in request.blocks for token in _block_tokens(block)]
    rest = request.prompt_tokens - len(whole)
    return whole + [3 + n for n in range(rest)] if rest > 0 else whole[: request.prompt_tokens or size]


@cache
def _block_tokens(block: int) -> tuple[int, ...]:
    # The number itself first, digit by digit, so that no two blocks are alike by chance.
    digits = [3 + block // 400**n % 400 for n in range(4)]
    rng = Random(block)  # noqa: S311 - no secret
    return (*digits, *(rng.randrange(3, VOCABULARY) for _ in range(_engine_block() - 4)))
