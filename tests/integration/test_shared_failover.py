"""Servers that are killed under load: no request fails, and nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
import subprocess
import time
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("redis")

from axolotl_cache import SmartInferenceCache
from axolotl_cache.errors import ConfigError
from axolotl_cache.stores import Record
from axolotl_cache.stores.redis.address import parse_address
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.store import RedisStore
from axolotl_cache.stores.redis.tier import SharedTier

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def kills(servers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("kills")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_twenty_kills_of_a_primary_fail_no_request_and_lose_no_acknowledged_write(kills, kind):
    outcome = kills.kill_primaries(kind, 20)
    assert outcome.kills == 20
    assert outcome.failed_requests == 0
    assert len(outcome.acknowledged) >= 10_000
    assert outcome.lost == 0
    for ours, failover in zip(outcome.recovery_seconds, outcome.failover_seconds, strict=True):
        assert ours < failover + 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_the_control_without_wait_and_with_lagging_replicas_writes_are_lost(kills, kind):
    outcome = kills.kill_primaries(kind, 2, copies=1, lag_seconds=0.5)
    assert outcome.lost > 0
    assert outcome.failed_requests == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicas", "sentinel", "cluster"])
def test_any_address_of_a_deployment_leads_to_all_of_it(servers, kind):
    with servers.deployment(kind) as deployment:
        urls = [deployment.url, *(f"redis://{node.address}" for node in deployment.nodes[-1:])]
        urls += [f"redis://{each.address}" for each in deployment.sentinels[-1:]]
        for url in urls:
            store = RedisStore(Link(parse_address(url), copies=3), 10_000, space="s", within_seconds=5)
            for name in map(str, range(50)):
                assert store.write(name, Record(url.encode(), "text", 1.0), 1.0).is_acknowledged
                assert store.get(name).payload == url.encode()
            assert len(store) == 50
            store.check_invariants()
            found = store.link.report().kind
            # a node that sentinels watch does not know of them
            assert found == kind or (found == "single" and kind != "cluster")
            store.close()


@pytest.mark.slow
def test_without_failover_strategy_no_other_primary_is_looked_for(servers):
    with servers.deployment("sentinel") as deployment:
        link = Link(parse_address(deployment.url), follow=False)
        assert link.wait_up(10)
        (before,) = link.layout.primaries
        deployment.primaries()[0].kill()
        servers.until(deployment.primaries, "a replica was promoted")
        time.sleep(1.5)
        assert link.layout.primaries == (before,)
        assert not link.is_up()
        link.close()


REDIS_SERVER = shutil.which("redis-server")


def certificates(folder: Path) -> Path:
    """Make a key and a certificate that vouches for itself."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    made = (
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    )
    subprocess.run([*command.split(), *made], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed: apt install redis-server")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_user_and_password_with_redis(servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certificate, port = certificates(tmp_path), servers.free_port()
    files = "--tls-cert-file cert.pem --tls-key-file key.pem --tls-ca-cert-file cert.pem"
    tls = f"--tls-port {port} --port 0 {files}"
    account = [
        "--tls-auth-clients",
        "no",
        "--user",
        "axolotl",
        "on",
        ">hunter2",
        "~*",
        "&*",
        "+@all",
        "--user",
        "default",
        "off",
    ]
    process = subprocess.Popen(
        [REDIS_SERVER, *tls.split(), *account, "--dir", str(tmp_path), "--save", "", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    lines: list[str] = []
    url = f"rediss://axolotl@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    monkeypatch.setenv("AXOLOTL_CACHE_REDIS_PASSWORD", "hunter2")
    try:
        tier = SharedTier(url, lookup_seconds=2, report=lines.append)
        with SmartInferenceCache(10, namespace=uuid4().hex, shared=tier) as cache:
            servers.until(lambda: cache.stats().shared.link.is_up, "it is reached")
            cache.set("k", "v")
            assert cache.shared.flush(10)
            assert cache.stats().shared.link.server.startswith("redis ")
            assert cache.shared.news.wait_until_listening(10)
            cache.invalidate("k")
        untrusted = Link(parse_address(f"rediss://axolotl:hunter2@127.0.0.1:{port}"))
        servers.until(lambda: "CERTIFICATE" in untrusted.report().trouble.upper(), "it is not trusted")
        stranger = Link(parse_address(f"rediss://axolotl:wrong@127.0.0.1:{port}?ssl_ca_certs={certificate}"))
        servers.until(lambda: "password" in stranger.report().trouble, "it is refused")
        for link in (untrusted, stranger):
            assert "hunter2" not in link.report().trouble
            assert "wrong@" not in link.report().trouble
            link.close()
        assert "hunter2" not in "".join(lines)
    finally:
        process.kill()
        process.wait()


def test_what_is_no_connection_string_is_refused_at_once():
    with pytest.raises(ConfigError, match="connection_string"):
        SmartInferenceCache(10, shared=SharedTier("http://cache"))
