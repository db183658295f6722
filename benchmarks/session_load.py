"""More sessions than there is room for: what is held, who goes first, and whether one in use breaks."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common import MODEL, say

SYSTEM = "You are the help desk of a shop for lamps. Answer in one short sentence, and be kind. " * 4
LIVE = 8
TURN_TOKENS = 100


def small_model(vocabulary: int) -> Any:
    """Return a model with random weights: what is held does not depend on what they say."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=4096,
        )
    ).eval()


def bytes_over_bound(*, sessions: int, room_for: int) -> dict[str, Any]:
    """Hold one turn of each of many sessions, some of them in use all the time; return what was seen.

    Args:
        sessions: how many begin, one after another.
        room_for: how many the bound has room for.
    """
    from transformers import AutoTokenizer

    from axolotl_cache.clock import wall_clock
    from axolotl_cache.engine.engine import Engine
    from axolotl_cache.engine.prompt import PromptRenderer
    from axolotl_cache.namespace import Namespace
    from axolotl_cache.pipeline import Pipeline
    from axolotl_cache.pipeline.session import SessionStep
    from axolotl_cache.request import Message, Request, Sampling
    from axolotl_cache.session import Sessions

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    renderer = PromptRenderer(tokenizer, tokenizer.chat_template)

    def request(number: int, new_tokens: int = 1) -> Any:
        text = f"Customer {number} asks: where is the lamp that I have ordered in the shop? " * 5
        return Request(
            messages=(Message("system", SYSTEM), Message("user", text)),
            sampling=Sampling(max_new_tokens=new_tokens),
            session=f"s{number}",
            principal=f"p{number}",
        )

    head = len(renderer.shared_prefix(SYSTEM)) // 32
    own = len(renderer.tokens(renderer.text(request(10**6)), is_plain=False)) // 32 - head
    page_bytes = 32 * 2 * 16 * 4  # tokens, keys and values, one head of 16 numbers, 4 bytes each
    engine = Engine(
        small_model(len(tokenizer)),
        device=torch.device("cpu"),
        context_length_tokens=4096,
        end_tokens=frozenset(),
        max_cache_bytes=(head + own * room_for) * page_bytes,
        draft_tokens=0,
    )
    namespace = Namespace("small", "", "smollm2", "smollm2", "float32")
    step = SessionStep(renderer, Sessions(4200.0, wall_clock), None)
    pipeline = Pipeline(engine, renderer, namespace, session=step)
    tree = engine._cache.tree
    started, most, over = time.time(), 0, 0
    broken = 0
    live = [_begun(pipeline, request(number, TURN_TOKENS)) for number in range(LIVE)]
    for number in range(LIVE, sessions):
        if number % (TURN_TOKENS // 2) == 0:  # in good time before these turns are over: the next ones
            for who in range(LIVE):
                broken += _cached_blocks(pipeline, request(who)) < head + own - 1
                live[who].close()
                live[who] = _begun(pipeline, request(who, TURN_TOKENS))
        pipeline.answer(request(number))
        most = max(most, tree.stats.held_bytes)
        over = max(over, tree.stats.held_bytes - tree.max_bytes)
        if number % 500 == 0:
            tree.check_invariants()
    for number, stream in enumerate(live):
        broken += _cached_blocks(pipeline, request(number)) < head + own - 1
        stream.close()
    kept = [
        number for number in range(LIVE, sessions) if _cached_blocks(pipeline, request(number)) > head + 1
    ]
    first_kept = kept[0] if kept else sessions
    result = {
        "part": "sessions over the bound",
        "sessions": sessions,
        "room_for": room_for,
        "bound_bytes": tree.max_bytes,
        "most_held_bytes": most,
        "bytes_over_bound": max(over, 0),
        "sessions_kept": len(kept),
        "kept_are_the_newest": kept == list(range(first_kept, sessions)),
        "live_broken": broken,
        "seconds": round(time.time() - started, 1),
    }
    say(
        f"{sessions:,} sessions, room for {room_for}: {most:,} of {tree.max_bytes:,} bytes held at the most; "
        f"{len(kept)} kept, the newest: {result['kept_are_the_newest']}; of {LIVE} in use {broken} broken"
    )
    return result


def _begun(pipeline: Any, request: Any) -> Any:
    stream = pipeline.stream(request)
    next(stream)
    return stream


def _cached_blocks(pipeline: Any, request: Any) -> int:
    joined = pipeline.session.join(request, pipeline.engine)
    tokens = pipeline.renderer.tokens(pipeline.renderer.text(joined.request), is_plain=False)
    namespace = pipeline.namespace.for_tenant(request.tenant).digest
    return pipeline.engine._cache.tree.peek(tokens, namespace=namespace, fences=joined.fences(tokens)) // 32
