"""Keys: made, kept as digests, found, removed; and who comes in with them."""

import json
import stat

import pytest
from click.testing import CliRunner

from axolotl_cache.cli.main import main
from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import ConfigError
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.keys import KeyFile, KeyRing, Tenant, read_keys, write_keys
from axolotl_cache.server.opening import open_doors
from axolotl_cache.server.refusal import Refusal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "keys.json"


def make(path, *arguments):
    result = CliRunner().invoke(main, ["keys", "add", *arguments, "--keys", str(path)])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_key_is_printed_once_and_kept_as_a_digest(path):
    key = make(path, "ann", "--requests-per-minute", "60")
    kept = path.read_text()
    assert key.split("-", 2)[2] not in kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    owner = read_keys(path).owner(key)
    assert owner == Tenant("ann", requests_per_minute=60)


def test_a_bound_on_bytes_is_kept_and_wrong_ones_are_refused(path):
    key = make(path, "ann", "--cache-bytes", "10MB")
    ring = read_keys(path)
    assert ring.owner(key).cache_bytes == ring.cache_bytes("ann") == 10_000_000
    assert ring.cache_bytes("bob") is None
    listed = CliRunner().invoke(main, ["keys", "list", "--keys", str(path)]).stdout
    assert "cache bytes 10,000,000" in listed
    refused = CliRunner().invoke(main, ["keys", "add", "ann", "--cache-bytes", "much", "--keys", str(path)])
    assert refused.exit_code == 2
    assert "--cache-bytes" in refused.output


def test_a_file_from_before_there_were_such_bounds_is_read(path):
    key = make(path, "ann")
    path.write_text(path.read_text().replace(',\n      "cache_bytes": null', ""))
    assert "cache_bytes" not in path.read_text()
    assert read_keys(path).owner(key) == Tenant("ann")


@pytest.mark.parametrize("change", ["", "axc-", "axc--", "axc-00000000-x", "KEYx", "KE", "sk-1", "aéc-ü-ß"])
def test_other_keys_are_nobodys(path, change):
    key = make(path, "ann")
    assert read_keys(path).owner(change.replace("KEY", key).replace("KE", key[:-1])) is None


def test_several_keys_of_one_tenant_go_one_by_one_or_all_together(path):
    keys = [make(path, "ann"), make(path, "ann"), make(path, "bob")]
    listed = CliRunner().invoke(main, ["keys", "list", "--keys", str(path)]).stdout
    assert listed.count("ann") == 2
    run = CliRunner().invoke(main, ["keys", "remove", keys[0].split("-")[1], "--keys", str(path)])
    assert run.exit_code == 0
    ring = read_keys(path)
    assert [ring.owner(key) and ring.owner(key).name for key in keys] == [None, "ann", "bob"]
    assert CliRunner().invoke(main, ["keys", "remove", "ann", "--keys", str(path)]).exit_code == 0
    assert set(read_keys(path).tenants) == {"bob"}
    assert CliRunner().invoke(main, ["keys", "remove", "ann", "--keys", str(path)]).exit_code == 2


def test_a_running_server_knows_of_changes_within_a_second_and_outlives_slips(path):
    first = make(path, "ann")
    clock = ManualClock()
    keys = KeyFile(path, clock)
    second = make(path, "bob")
    assert keys.owner(second) is None  # it has just looked
    clock.advance(1)
    assert keys.owner(second).name == "bob"
    path.write_text("no JSON")
    clock.advance(1)
    assert keys.owner(first).name == "ann"


def test_a_file_that_others_may_read_is_refused(path):
    make(path, "ann")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "tenants": [1], "keys": []}']
)
def test_what_is_no_key_file_is_said(path, text):
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(path)


def test_the_file_has_no_more_than_it_needs(path):
    ring = KeyRing({}, {})
    ring.add(Tenant("ann"))
    write_keys(path, ring)
    kept = json.loads(path.read_text())
    assert set(kept) == {"format", "tenants", "keys"}
    assert set(kept["keys"][0]) == {"id", "tenant", "salt", "digest"}
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "10.0.0.7"])
def test_without_keys_nobody_else_is_let_in(path, host):
    with pytest.raises(ConfigError, match="keys add"):
        open_doors(None, path, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_without_keys_this_machine_is_let_in(path, host):
    doors = open_doors(None, path, host)
    assert doors.tenant({"host": "localhost:8000"}).name == ""
    assert doors.tenant({"host": "[::1]:8000"}).name == ""
    with pytest.raises(Refusal) as refused:
        doors.tenant({"host": "evil.example:8000"})  # a name that was made to point here
    assert refused.value.status == 421


def test_roles_are_kept_apart(path):
    tenant, operator = make(path, "ann"), make(path, "op", "--operator")
    doors = Doors(KeyFile(path, ManualClock()))
    assert doors.tenant({"authorization": f"Bearer {tenant}"}).name == "ann"
    for headers, status in [
        ({}, 401),
        ({"authorization": "Bearer nonsense"}, 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"authorization": f"Bearer {operator}"}, 403),
    ]:
        with pytest.raises(Refusal) as refused:
            doors.tenant(headers)
        assert refused.value.status == status
