"""Connection strings, taken apart: where the servers are, and who we are to them."""

import pytest

pytest.importorskip("redis")

from axolotl_cache.errors import ConfigError
from axolotl_cache.stores.redis.address import Host, parse_address


@pytest.mark.parametrize(
    ("text", "kind", "hosts", "name", "database", "tls"),
    [
        ("redis://cache", "auto", "cache:6379", "", 0, False),
        ("redis://cache:7000/3", "auto", "cache:7000", "", 3, False),
        ("valkey://a,b:7000", "auto", "a:6379,b:7000", "", 0, False),
        ("rediss://[fe80::1]:7000/0", "auto", "[fe80::1]:7000", "", 0, True),
        ("redis+sentinel://h1,h2:7,h3/main", "sentinel", "h1:26379,h2:7,h3:26379", "main", 0, False),
        ("redis+sentinel://h1/main/2", "sentinel", "h1:26379", "main", 2, False),
        ("redis+sentinel://h1", "sentinel", "h1:26379", "", 0, False),
        ("valkeys+cluster://a,b", "cluster", "a:6379,b:6379", "", 0, True),
        ("unix:///run/redis.sock?db=1", "auto", "/run/redis.sock", "", 1, False),
    ],
)
def test_what_a_connection_string_says(text, kind, hosts, name, database, tls):
    found = parse_address(text, environ={})
    assert (found.kind, ",".join(map(str, found.hosts))) == (kind, hosts)
    assert (found.name, found.database, found.tls) == (name, database, tls)
    assert (found.login.username, found.login.password) == (None, None)


def test_who_we_are_stands_in_it_or_in_the_environment_and_is_never_shown():
    environ = {"AXOLOTL_CACHE_REDIS_USERNAME": "env-user", "AXOLOTL_CACHE_REDIS_PASSWORD": "env-secret"}
    sentinel = {"AXOLOTL_CACHE_SENTINEL_PASSWORD": "watch-secret"}
    written = parse_address("redis+sentinel://user:p%40ss@h1,h2/main", environ=environ | sentinel)
    assert (written.login.username, written.login.password) == ("user", "p@ss")
    assert written.sentinel_login.password == "watch-secret"
    inherited = parse_address("redis://cache", environ=environ)
    assert (inherited.login.username, inherited.login.password) == ("env-user", "env-secret")
    assert parse_address("redis://:only@cache", environ={}).login.password == "only"
    for address in (written, inherited):
        assert all(word not in f"{address} {address!r}" for word in ("p@ss", "p%40ss", "secret"))


def test_certificates_are_for_tls_only():
    found = parse_address("rediss://cache?ssl_ca_certs=/ca.pem&ssl_check_hostname=false", environ={})
    assert dict(found.tls_options) == {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False}
    with pytest.raises(ConfigError, match="rediss"):
        parse_address("redis://cache?ssl_ca_certs=/ca.pem", environ={})


@pytest.mark.parametrize(
    "text",
    [
        "http://:hunter2@cache",
        "redis://:hunter2@cache:0",
        "redis://:hunter2@cache:70000",
        "redis://:hunter2@cache/x",
        "redis://:hunter2@cache/0/1",
        "redis://:hunter2@cache?ssl_cert_reqs=none",
        "redis+cluster://:hunter2@cache/1",
        "redis://:hunter2@ca che",
        "unix:///run/redis.sock?password=hunter2",
    ],
)
def test_what_is_none_is_refused_without_repeating_it(text):
    with pytest.raises(ConfigError) as error:
        parse_address(text, environ={})
    assert "cluster_cache: connection_string" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_socket_is_shown_as_its_path():
    assert str(Host(path="/run/redis.sock")) == "/run/redis.sock"
