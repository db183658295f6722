"""How would hit rate and bandwidth go with nodes and block size, beyond this machine? A model, on paper.

    python benchmarks/scale.py [--prefill 8000] [--link 1.25e9] [--kv 131072] ...

Nothing here is measured: each figure follows from the inputs by the formulas of docs/design/scale.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

NODES = (1, 2, 4, 8, 16, 32, 64)
BLOCKS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is assumed."""

    prefill: float = 8000.0
    """Tokens that a node computes in a second."""
    kv: float = 131_072.0
    """Bytes of keys and values a token: 32 layers, 8 heads of 128, 2 bytes."""
    link: float = 1.25e9
    """Bytes that a node's network brings in a second: 10 Gbit/s."""
    server: float = 2.5e9
    """Bytes that one Redis server gives in a second."""
    servers: int = 1
    round_trip: float = 0.0005
    """Seconds, for each batch of blocks."""
    batch: int = 8
    """Blocks asked for at once."""
    memory: float = 32e9
    """Bytes of blocks that a node holds."""
    prefixes: int = 20_000
    """Different prefixes that are asked for."""
    skew: float = 0.9
    """Of Zipf's law, by which they are asked for."""
    prefix_tokens: int = 2000
    own_tokens: int = 300
    """Of each prompt behind its prefix, computed by all."""
    requests: float = 3.0
    """A node serves in a second."""


def load_seconds(inputs: Inputs, nodes: int, block: int) -> float:
    """Return how long it takes a node to load a block, while all load."""
    share = min(inputs.link, inputs.server * inputs.servers / nodes)
    return block * inputs.kv / share + inputs.round_trip / inputs.batch


def usable_tokens(inputs: Inputs, block: int) -> int:
    """Return how many of a prefix's tokens are in whole blocks."""
    return inputs.prefix_tokens // block * block


def hot_share(inputs: Inputs, held: float) -> float:
    """Return the share of requests whose prefix is among the `held` most asked for."""
    if held >= inputs.prefixes:
        return 1.0
    return _harmonic(held, inputs.skew) / _harmonic(inputs.prefixes, inputs.skew)


def _harmonic(n: float, skew: float) -> float:
    """Return the sum of i^-skew for i to n, to a thousandth."""
    head = min(int(n), 50)
    total = sum(i**-skew for i in range(1, head + 1))
    if n > head:
        power = 1 - skew
        from_, to = head + 0.5, n + 0.5
        total += math.log(to / from_) if power == 0 else (to**power - from_**power) / power
    return total


def rows(inputs: Inputs, nodes: tuple[int, ...] = NODES) -> Iterator[dict[str, float]]:
    """Yield, for each number of nodes, hit rates by how requests are sent, and what the servers carry."""
    for count in nodes:
        held = inputs.memory / (inputs.prefix_tokens * inputs.kv)
        at_random = hot_share(inputs, held)
        by_prefix = hot_share(inputs, held * count)
        tokens = inputs.prefix_tokens / (inputs.prefix_tokens + inputs.own_tokens)
        missed = count * inputs.requests * inputs.prefix_tokens * inputs.kv
        yield {
            "nodes": count,
            "random": at_random * tokens,
            "prefix": by_prefix * tokens,
            "random_bytes_per_second": missed * (1 - at_random),
            "prefix_bytes_per_second": missed * (1 - by_prefix),
            "server_bytes_per_second": inputs.server * inputs.servers,
        }


def blocks(inputs: Inputs, nodes: int) -> Iterator[dict[str, float]]:
    """Yield, for each block size, what a block costs to load and to compute, and the part it covers."""
    for block in BLOCKS:
        loaded = load_seconds(inputs, nodes, block)
        computed = block / inputs.prefill
        yield {
            "block": block,
            "bytes": block * inputs.kv,
            "load_seconds": loaded,
            "compute_seconds": computed,
            "load_over_compute": loaded / computed,
            "covered": usable_tokens(inputs, block) / inputs.prefix_tokens,
        }


def most_nodes(inputs: Inputs, block: int = 32) -> int:
    """Return with how many nodes loading at once it is still faster than computing; 0 if it never is."""
    if load_seconds(replace(inputs, server=math.inf), 1, block) >= block / inputs.prefill:
        return 0
    spare = block / inputs.prefill - inputs.round_trip / inputs.batch
    return int(inputs.server * inputs.servers * spare / (block * inputs.kv))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = Inputs()
    for name in Inputs.__slots__:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--quick", action="store_true", help="the same: there is nothing to measure")
    chosen = vars(parser.parse_args())
    chosen.pop("quick")
    inputs = Inputs(**chosen)
    print("inputs: " + ", ".join(f"{name} {value:g}" for name, value in chosen.items()))
    print(
        f"\n{'nodes':>5} {'random':>8} {'prefix':>8} {'random GB/s':>12} {'prefix GB/s':>12} {'servers':>8}"
    )
    for row in rows(inputs):
        print(
            f"{row['nodes']:>5.0f} {row['random']:>8.1%} {row['prefix']:>8.1%} "
            f"{row['random_bytes_per_second'] / 1e9:>12.1f} {row['prefix_bytes_per_second'] / 1e9:>12.1f} "
            f"{row['server_bytes_per_second'] / 1e9:>8.1f}"
        )
    print(f"\n{'block':>5} {'MB':>6} {'load ms':>8} {'compute ms':>10} {'load/compute':>12} {'covers':>7}")
    for row in blocks(inputs, 1):
        print(
            f"{row['block']:>5.0f} {row['bytes'] / 1e6:>6.1f} {1e3 * row['load_seconds']:>8.2f} "
            f"{1e3 * row['compute_seconds']:>10.2f} {row['load_over_compute']:>12.2f} {row['covered']:>7.1%}"
        )
    print(f"\nloading is faster than computing with up to {most_nodes(inputs)} nodes loading at once")


if __name__ == "__main__":
    main()
