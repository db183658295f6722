"""A machine that is cut off from a Valkey server that is well: no packet goes either way, nobody says so."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

pytest.importorskip("redis")

from axolotl_cache import SmartInferenceCache
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.tier import SharedTier


def soon(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


class Cable:
    """Carries bytes to a port of this machine, unless it is cut; connections stay open either way."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._closed = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._closed = True
        self._whole.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listening.accept()
            except TimeoutError:
                continue
            carrying = threading.Thread(target=self._carry, args=(near,))
            self._threads.append(carrying)
            carrying.start()

    def _carry(self, near: socket.socket) -> None:
        self._whole.wait()
        with near, socket.create_connection(("127.0.0.1", self._to)) as far:
            other = {near: far, far: near}
            while not self._closed:
                for ready in select.select([near, far], [], [], 0.05)[0]:
                    try:
                        data = ready.recv(65536)
                        self._whole.wait()
                        other[ready].sendall(data)
                    except OSError:
                        return
                    if not data:
                        return


@pytest.fixture
def cable(valkey) -> Iterator[Cable]:
    made = Cable(valkey.nodes[0].port)
    yield made
    made.close()


def machine(url: str, namespace: str) -> SmartInferenceCache:
    cache = SmartInferenceCache(100, 1800, namespace=namespace, shared=SharedTier(url, lookup_seconds=0.1))
    assert cache.shared.news.wait_until_listening(10)
    return cache


def test_who_is_cut_off_goes_on_alone_and_catches_up(valkey, cable):
    namespace = uuid4().hex
    near = machine(valkey.url, namespace)
    far = machine(f"redis://127.0.0.1:{cable.port}/0", namespace)
    with near, far:
        far.set("k", "v", tags=["red"])
        far.set("m", "w", tags=["blue"])
        soon(lambda: (near.get("k"), near.get("m")) == ("v", "w"))

        cable.cut()
        assert far.get("k") == "v", "its own tiers serve"
        assert [far.get_or_compute(str(n), lambda n=n: f"made {n}") for n in range(5)] == [
            f"made {n}" for n in range(5)
        ]
        soon(lambda: not far.shared.report().is_up)
        stats = far.stats().shared
        assert stats.link.opened == 1, "the breaker is open"
        assert stats.failed_lookups <= 2, "and nobody asks any more"
        near.invalidate(tag="red")
        assert far.get("k") == "v", "it can't have heard of that"
        with pytest.raises(StoreError, match="on this machine alone"):
            far.invalidate(tag="blue")
        assert (far.get("m"), near.get("m")) == (None, "w")

        cable.mend()
        soon(lambda: far.get("k") is None)
        soon(lambda: near.get("m") is None)
        soon(lambda: near.get("0") == "made 0")
        assert far.shared.report().is_up
        assert far.stats().shared.link.closed == 1
        assert far.stats().shared.removals_to_pass_on == 0
