"""Three traces through the real server over HTTP: its own counters, and what its own request log predicts.

`axolotl-cache serve` runs in a process of its own with a tiny random model and little room in both tiers.
The prediction is made from nothing but the request log that this server wrote: the response cache simulated
over all requests, the prefix cache over those that it would miss.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import airline
import planted
from axolotl_cache.prefix import PolicyName
from axolotl_cache.profiling.requests import BlockLog
from axolotl_cache.profiling.response_curve import hits
from axolotl_cache.profiling.simulate import BlockRequest, simulate
from common import REPOSITORY, arrivals
from workloads import scaled_gaps

SEED = 8
POLICIES: tuple[PolicyName, ...] = ("lru", "adaptive")
QUICK_POLICIES: tuple[PolicyName, ...] = ("lru",)
MOST_BLOCKS = 40
AT_ONCE = 4
_WORDS_PER_BLOCK = 24
_VOCABULARY = 2000
_BLOCK_TOKENS = 32
_HIDDEN, _HEADS, _CONTEXT = 32, 2, 8192
_BLOCK_BYTES = 2 * (_HIDDEN // _HEADS) * 4 * _BLOCK_TOKENS
"""Of one layer with one key-value head, in float32."""
_SPECIAL = ("<pad>", "<s>", "</s>")
_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_METRIC = re.compile(r'^axolotl_cache_(\w+)\{(?:served|tier)="([\w-]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Trace:
    """Requests, and how much room there is for them."""

    name: str
    bodies: list[dict[str, Any]]
    gaps: list[float] | None
    """Seconds before each; None sends the next as soon as one of four is answered."""
    blocks: int
    entries: int
    ttl_seconds: float


def compare(mooncake: BlockLog | None, *, quick: bool, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return a row for each trace and policy: both tiers' hit rates, counted and predicted.

    Args:
        mooncake: the conversation trace, if it is there.
        quick: fewer requests, and `lru` only.
        report: gets a line for each row.
    """
    traces = [each for each in (_hashes(mooncake, quick), _shop(quick), _airline(quick)) if each]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_model(
            folder / "model", [json.dumps(body, ensure_ascii=False) for t in traces for body in t.bodies]
        )
        for trace in traces:
            for policy in QUICK_POLICIES if quick else POLICIES:
                row = _row(trace, policy, folder)
                answers = f"{row['response_served']:.4f} (predicted {row['response_predicted']:.4f})"
                tokens = f"{row['prefix_served']:.4f} (predicted {row['prefix_predicted']:.4f})"
                report(
                    f"{trace.name[:24]:24}  {policy:8}  server: answers {answers}  tokens {tokens}  "
                    f"off by {row['error_points']:.2f} points"
                )
                rows.append(row)
    return rows


# What is sent


def _hashes(log: BlockLog | None, quick: bool) -> Trace | None:
    """Mooncake's conversations: each block of the trace is a text of its own, as long as one of ours."""
    if log is None:
        return None
    rng = random.Random(SEED)  # noqa: S311 - no secret
    seconds = sorted({request.blocks[1] for request in log.requests if len(request.blocks) > 1})
    count = 150 if quick else 500
    kept = set(rng.sample(seconds, min(len(seconds), len(seconds) * count // len(log.requests))))
    chosen = [r for r in log.requests if len(r.blocks) > 1 and r.blocks[1] in kept]
    bodies = [
        {"prompt": " ".join(map(_block_text, request.blocks[:MOST_BLOCKS])), "max_tokens": 2}
        for request in chosen
    ]
    return Trace("mooncake conversations", bodies, None, len(chosen) * 2, 64, 1800.0)


def _block_text(block: int) -> str:
    rng = random.Random(block)  # noqa: S311 - no secret
    return " ".join(f"{rng.choice(_STEMS)}{rng.choice(_STEMS)}" for _ in range(_WORDS_PER_BLOCK))


_STEMS = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")


def _shop(quick: bool) -> Trace | None:
    """A help desk's traffic, arriving as Azure's does, with answers that expire in between."""
    count = 150 if quick else 400
    arrived = arrivals(count + 1)
    if arrived is None:
        return None
    rng = random.Random(SEED)  # noqa: S311 - no secret
    asked = planted.traffic(rng, count, questions=60)
    bodies = [
        {
            "messages": [
                {"role": "system", "content": each.system},
                {"role": "user", "content": each.question},
            ],
            "max_tokens": 2,
        }
        for each in asked
    ]
    return Trace("shop, Azure's arrivals", bodies, scaled_gaps(arrived, count, 0.1), 60, 24, 6.0)


def _airline(quick: bool) -> Trace | None:
    """tau-bench's conversations, eight under way at any time; whose turn is next is drawn."""
    found = airline.read()
    if found is None:
        return None
    rng = random.Random(SEED)  # noqa: S311 - no secret
    waiting = list(reversed(found[0][: 16 if quick else 48]))
    going = [[waiting.pop(), 0] for _ in range(8)]
    bodies: list[dict[str, Any]] = []
    while going:
        place = rng.randrange(len(going))
        talk, turn = going[place]
        bodies.append(_turn(talk, turn))
        going[place][1] += 1
        if turn + 1 == len(talk.says):
            going[place : place + 1] = [[waiting.pop(), 0]] if waiting else []
    return Trace("tau-bench airline", bodies, None, 160, 32, 1800.0)


def _turn(talk: Any, turn: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": talk.system}]
    for before in range(turn):
        messages.append({"role": "user", "content": talk.says[before]})
        messages.append({"role": "assistant", "content": talk.hears[before]})
    messages.append({"role": "user", "content": talk.says[turn]})
    return {"messages": messages, "max_tokens": 2}


# The server


def _row(trace: Trace, policy: PolicyName, folder: Path) -> dict[str, Any]:
    log = folder / f"{trace.name.split()[0]}-{policy}.jsonl"
    with _serving(trace, policy, folder, log) as port:
        _send_all(port, trace)
        counted = _counters(port)
    answered, tokens = counted["requests_total"], counted["queried_tokens_total"]["prefix"]
    served = answered.get("hit-exact", 0.0) / sum(answered.values())
    found = counted["hit_tokens_total"]["prefix"] / tokens
    predicted_served, predicted_found, records = _predicted(log, trace, policy)
    if records != len(trace.bodies):
        raise RuntimeError(f"{trace.name}: {len(trace.bodies)} requests sent, and {records} in the log")
    error = 100 * max(abs(served - predicted_served), abs(found - predicted_found))
    return {
        "part": "server",
        "trace": trace.name,
        "policy": policy,
        "requests": len(trace.bodies),
        "capacity_blocks": trace.blocks,
        "entries": trace.entries,
        "ttl_seconds": trace.ttl_seconds,
        "response_served": served,
        "response_predicted": predicted_served,
        "prefix_served": found,
        "prefix_predicted": predicted_found,
        "error_points": error,
    }


@contextmanager
def _serving(trace: Trace, policy: PolicyName, folder: Path, log: Path) -> Iterator[int]:
    config = folder / "config.yaml"
    config.write_text(
        f"base_model: {folder / 'model'}\nchat_template: tokenizer_default\nsequence_len: {_CONTEXT}\n"
        f"model_config:\n  max_cache_size: {trace.blocks * _BLOCK_BYTES}\n"
        f"inference_settings:\n  cache_policy: {policy}\n  max_cache_entries: {trace.entries}\n"
        f"  entry_timeout: {trace.ttl_seconds}\n  enable_persistence: false\n"
    )
    command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", str(config), "--port", "0"]
    command += [
        "--temperature",
        "0",
        "--model-name",
        "served",
        "--cache-truncated",
        "--request-log",
        str(log),
    ]
    own = {"AXOLOTL_CACHE_HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "config")}
    path = {"PYTHONPATH": str(REPOSITORY / "src")}
    with (folder / "server.log").open("w+") as said:
        running = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | own | path)
        try:
            yield _port(running, said.name)
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait()


def _port(running: subprocess.Popen[bytes], said: str) -> int:
    end = time.monotonic() + 180
    while True:
        text = Path(said).read_text(encoding="utf-8")
        if found := re.search(r"serving.*:(\d+)/v1", text):
            return int(found[1])
        if running.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the server did not start:\n{text[-3000:]}")
        time.sleep(0.1)


def _send_all(port: int, trace: Trace) -> None:
    began = time.monotonic()

    def send(body: dict[str, Any], due: float) -> None:
        time.sleep(max(0.0, began + due - time.monotonic()))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        content = json.dumps({"model": "served", **body}, ensure_ascii=False).encode()
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {text[:300]!r}")

    due, dues = 0.0, []
    for gap in trace.gaps or [0.0] * len(trace.bodies):
        due += gap
        dues.append(due)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, trace.bodies, dues))


def _counters(port: int) -> dict[str, dict[str, float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found: dict[str, dict[str, float]] = {}
    for name, label, value in _METRIC.findall(text):
        found.setdefault(name, {})[label] = float(value)
    return found


# What its log predicts


def _predicted(log: Path, trace: Trace, policy: PolicyName) -> tuple[float, float, int]:
    """Return the share of requests answered, the share of tokens found behind that, and the requests."""
    from axolotl_cache.profiling.blocks import Cutter
    from axolotl_cache.profiling.reading import Reading, read_logs

    records = sorted(read_logs([log], Reading()), key=lambda record: record.arrived_seconds or 0.0)
    cutter = Cutter()
    cut = [cutter.cut(record) for record in records]
    times = [record.arrived_seconds or 0.0 for record in records]
    lookups = ((at, blocks.key) for at, blocks in zip(times, cut, strict=True))
    served = list(
        hits(lookups, entries=trace.entries, ttl_seconds=trace.ttl_seconds, policy=policy, seed=SEED)
    )
    numbers: dict[int, int] = {}
    computed = [
        BlockRequest(
            record.arrived_seconds or 0.0,
            [numbers.setdefault(each, len(numbers)) for each in blocks.ids],
            blocks.tokens,
            record.ttft_seconds or 0.0,
        )
        for record, blocks, was_served in zip(records, cut, served, strict=True)
        if not was_served
    ]
    found = simulate(
        computed,
        block_size=_BLOCK_TOKENS,
        capacity_blocks=trace.blocks,
        policy=policy,
        ttl_seconds=trace.ttl_seconds,
    )
    return sum(served) / len(served), found.hit_rate, len(records)


# The model


def _make_model(folder: Path, texts: Sequence[str]) -> None:
    """Write a random model of one layer, and a tokenizer of the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from axolotl_cache.engine.loader import hide_progress

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=_HEADS,
        num_key_value_heads=1,
        max_position_embeddings=_CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    hide_progress()
    LlamaForCausalLM(config).save_pretrained(folder)
