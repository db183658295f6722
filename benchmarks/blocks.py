"""A prefix that another machine has computed: is loading it faster than computing it?

The model is the real one; the network between is a proxy on this machine that lets so many bytes a second
pass. Over a fast one blocks are loaded; over one so slow that computing is faster, the engine computes, as it
measures both. The first row has no proxy.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from uuid import uuid4

from common import make_engine

PROMPT_TOKENS = 1025
BYTES_PER_SECOND = (None, 100_000_000, 20_000_000, 2_000_000)
"""What the network lets pass; None is this machine's own loopback."""
_PIECE_BYTES = 65_536


@contextlib.contextmanager
def slowed(port: int, bytes_per_second: float | None) -> Iterator[int]:
    """Give a port that leads to `port`, at that speed each way; the same port where there is no bound."""
    if bytes_per_second is None:
        yield port
        return
    door = socket.create_server(("127.0.0.1", 0))
    gates = (Gate(bytes_per_second), Gate(bytes_per_second))
    open_sockets: list[socket.socket] = [door]

    def let_in() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = door.accept()
                far = socket.create_connection(("127.0.0.1", port))
                open_sockets.extend((near, far))
                for gate, source, target in zip(gates, (near, far), (far, near), strict=True):
                    threading.Thread(target=gate.carry, args=(source, target), daemon=True).start()

    threading.Thread(target=let_in, daemon=True).start()
    try:
        yield int(door.getsockname()[1])
    finally:
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Gate:
    """One direction, for all connections together."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes, at the speed that there is."""
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                with self._lock:
                    now = time.monotonic()
                    self._free_at = max(now, self._free_at) + len(piece) / self._bytes_per_second
                    wait = self._free_at - now
                time.sleep(wait)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def remote_blocks(loaded: Any, port: int, *, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return, for each speed, what loading a block takes and computing one, and which of them the engine did.

    Args:
        loaded: the model.
        port: of the server.
        rounds: new engines for each number.
        say: told of each row.
    """
    computed = [_first_token(loaded, None, "")[0] for _ in range(rounds)]
    rows, name = [], uuid4().hex[:8]
    _first_token(loaded, port, name)  # a machine with a fast way there has computed it
    for speed in BYTES_PER_SECOND:
        with slowed(port, speed) as way:
            taken = [_first_token(loaded, way, name) for _ in range(rounds)]
        blocks = PROMPT_TOKENS // taken[0][3]
        loads = [load for _, _, load, _ in taken if load is not None]
        compute = median(computed) / blocks
        row = {
            "what": "blocks",
            "network_bytes_per_second": speed,
            "prompt_tokens": PROMPT_TOKENS,
            "block_tokens": taken[0][3],
            "cached_tokens": median(cached for _, cached, _, _ in taken),
            "compute_seconds_per_block": round(compute, 5),
            "load_seconds_per_block": round(median(loads), 5) if loads else None,
            "load_over_compute": round(median(loads) / compute, 4) if loads else None,
            "first_token_computed_seconds": round(median(computed), 4),
            "first_token_with_server_seconds": round(median(each[0] for each in taken), 4),
        }
        say(f"  {row}")
        rows.append(row)
    return rows


def _first_token(loaded: Any, port: int | None, name: str) -> tuple[float, int, float | None, int]:
    """Return what a new engine takes: seconds, tokens reused, seconds of load for a block, tokens of one."""
    from axolotl_cache.engine.lower import LowerTier, layout_digest
    from axolotl_cache.stores.redis.tier import SharedTier

    def lower(layout: Any, block: int) -> list[LowerTier]:
        if port is None:
            return []
        kind = f"kv-{layout_digest(layout, block)}-{name}"
        store = SharedTier(f"redis://127.0.0.1:{port}").blocks(kind, 1000, encryption_key=None)
        return [LowerTier(store, layout=layout, block_size=block)]

    engine = make_engine(loaded, max_cache_bytes=10**9, lower=lower)
    # Another prompt first, so that the engine knows what computing costs.
    _answer(engine, [3 + n % 900 for n in range(PROMPT_TOKENS // 2)])
    started = time.perf_counter()
    answer = _answer(engine, [7 + n * 31 % 1000 for n in range(PROMPT_TOKENS)])
    seconds = time.perf_counter() - started
    stats = [tier.stats for tier in engine._cache._lower]
    size = engine.block_size
    engine.close()
    per_block = [each.load_seconds / each.loaded_blocks for each in stats if each.loaded_blocks]
    return seconds, answer.cached_tokens, per_block[0] if per_block else None, size


def _answer(engine: Any, tokens: list[int]) -> Any:
    from axolotl_cache.request import Sampling

    answer = engine.generate(tokens, Sampling(max_new_tokens=1), namespace="bench")
    next(iter(answer))
    return answer
