"""The four workloads, served by our engine and by its peers in turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import workloads
from common import MODEL, arrivals, say
from peers import Side, llama_cpp_side
from peers.turns import Entry, alternate, hold, quickest
from workloads import Size, Texts, TokenRequest

SEED = 32
ROUNDS = 3
NEW_TOKENS = 32
MEAN_GAP_SECONDS = 0.2
"""Of the mixed workload: five requests a second are more than any side can serve."""
GENERATE, BATCH = "transformers generate", "transformers generate_batch"
LLAMA_CPP = ("llama-cpp-python", "llama-cpp-python, LlamaRAMCache")

Rows = list[dict[str, Any]]
Figures = dict[str, float]


def transformers_sides(requests: Sequence[TokenRequest]) -> tuple[list[Side], Rows]:
    """Return transformers' two ways to serve, each in the dtype that is quicker here."""
    from peers.hugging_face import GenerateBatch, GenerateOneByOne, load_plain

    models = [load_plain(MODEL, dtype) for dtype in ("bfloat16", "float32")]
    sides: list[Side] = []
    rows: Rows = []
    for make in (GenerateOneByOne, GenerateBatch):
        side, tried = quickest([lambda m=model, make=make: make(m) for model in models], requests)
        sides.append(side)
        rows += tried
    return sides, rows


def llama_cpp_sides(requests: Sequence[TokenRequest]) -> tuple[list[Side], Rows]:
    """Return llama-cpp-python without and with its RAM cache, with the weights that are quickest here."""
    if llama_cpp_side.version() is None:
        say("llama-cpp-python: left out; benchmarks/prepare installs it")
        return [], []
    from peers.llama_cpp_side import LlamaCpp, Settings

    candidates = [
        Settings(weights, batch) for weights in llama_cpp_side.model_files() for batch in (128, 512)
    ]
    plain, rows = quickest([lambda s=s: LlamaCpp(s) for s in candidates], requests)
    return [plain, LlamaCpp(plain.chosen.with_ram_cache())], rows


def all_peers(requests: Sequence[TokenRequest]) -> tuple[list[Side], Rows]:
    """Return every peer that is there, at its best settings, and a row for each setting that was tried."""
    sides, rows = transformers_sides(requests)
    more, tried = llama_cpp_sides(requests)
    return sides + more, rows + tried


class Comparison:
    """The four workloads, the same for every side.

    Args:
        ours: our engine with its cache.
        off: our engine without.
        peers: the others that are there.
        texts: makes a source of text; the same name gives the same text.
        size: how much work.
    """

    def __init__(
        self, ours: Side, off: Side, peers: Sequence[Side], texts: Callable[[str], Texts], size: Size
    ) -> None:
        self._ours, self._off, self._peers = ours, off, peers
        self._texts, self._size = texts, size

    def shared(self) -> tuple[Rows, Figures]:
        """32 requests behind one prefix of 512 tokens, all at once."""
        requests = shared_requests(self._texts("shared"), 32)
        entries = [Entry(self._ours, ROUNDS), *(self._peer(peer, ROUNDS) for peer in self._peers)]
        compared = alternate("shared512", entries, requests)
        figures = {
            "tokens_per_second_over_hf_generate": compared.ratio(self._ours.name, GENERATE),
            "tokens_per_second_over_generate_batch": compared.ratio(self._ours.name, BATCH),
        }
        llama = [name for name in LLAMA_CPP if name in compared.rates]
        if llama:
            best = compared.best(llama)
            figures["tokens_per_second_over_llama_cpp"] = compared.ratio(self._ours.name, best)
        return compared.rows, figures

    def unshared(self) -> tuple[Rows, Figures]:
        """Prompts of 200 to 500 tokens with nothing in common, all at once."""
        requests = workloads.unshared(
            self._texts("unshared"),
            requests=self._size.unshared_requests,
            lengths=(200, 500),
            new_tokens=NEW_TOKENS,
            rng=random.Random(SEED),  # noqa: S311 - a workload, not a secret
        )
        entries = [Entry(side, self._size.unshared_rounds) for side in (self._ours, self._off)]
        entries += [self._peer(peer, 1) for peer in self._peers]
        compared = alternate("no_sharing", entries, requests)
        ratio = compared.ratio(self._ours.name, self._off.name)
        return compared.rows, {"no_sharing_on_over_off": ratio}

    def mixed(self) -> tuple[Rows, Figures]:
        """Prompts of 64 to 1,500 tokens, three of four behind one of four prefixes, one after another."""
        rng = random.Random(SEED)  # noqa: S311 - a workload, not a secret
        count = self._size.mixed_requests
        traced = arrivals(count + 1)
        gaps = (
            workloads.scaled_gaps(traced, count, MEAN_GAP_SECONDS)
            if traced
            else workloads.exponential_gaps(count, MEAN_GAP_SECONDS, rng)
        )
        requests = workloads.mixed(
            self._texts("mixed"),
            gaps=gaps,
            prefixes=(96, 256, 512, 1024),
            shared_fraction=0.75,
            lengths=(64, 1500),
            new_tokens=(16, 64),
            rng=rng,
        )
        entries = [Entry(self._ours, ROUNDS)]
        entries += [self._peer(peer, ROUNDS if peer.name == GENERATE else 1) for peer in self._peers]
        compared = alternate("mixed", entries, requests)
        for row in compared.rows:
            row["gaps"] = "Azure's conversation trace, scaled" if traced else "exponential"
        return compared.rows, {
            "mixed_tokens_per_second_over_hf_generate": compared.ratio(self._ours.name, GENERATE)
        }

    def turns(self) -> Rows:
        """Four conversations; each turn's prompt holds all turns and answers before it."""
        held = workloads.conversations(
            self._texts("turns"), count=4, turns=self._size.turns, system=256, new_tokens=48
        )
        entries = [Entry(self._ours, ROUNDS), *(Entry(peer, 1) for peer in self._peers)]
        return hold("turns", entries, held)

    def _peer(self, peer: Side, rounds: int) -> Entry:
        if peer.name == BATCH and self._size.slow_requests is not None:
            return Entry(peer, 1)  # what it gives for few requests at once can't be scaled to many
        return Entry(peer, rounds, self._size.slow_requests)


def shared_requests(texts: Texts, count: int) -> list[TokenRequest]:
    """Return requests with 32 tokens of their own behind 512 shared ones."""
    return workloads.shared(texts, requests=count, prefix=512, suffix=32, new_tokens=NEW_TOKENS)


def table(rows: Rows) -> None:
    """Write the throughput rows for people."""
    say(f"\n{'':<12}{'side':<34}{'tokens/s':>9}{'TTFT ms':>9}{'computed':>10}  settings")
    for row in rows:
        computed = "?" if row["computed_tokens"] is None else row["computed_tokens"]
        where = row["workload"] + (f" {row['turn']}" if "turn" in row else "")
        scaled = f", {row['requests']} requests, scaled" if "scaled_to_requests" in row else ""
        say(
            f"{where:<12}{row['side']:<34}{row['tokens_per_second']:>9.1f}{row['ttft_median_ms']:>9.0f}"
            f"{computed:>10}  {row['settings']}{scaled}"
        )
