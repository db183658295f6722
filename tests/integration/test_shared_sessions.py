"""Sessions that several machines share: begun on one, gone on with, ended and erased on another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("redis")

from axolotl_cache.cli.main import main
from axolotl_cache.config import Settings, load_settings
from axolotl_cache.errors import StoreError
from axolotl_cache.request import Message
from axolotl_cache.session import Sessions
from axolotl_cache.session.sessions import SessionName
from axolotl_cache.stored_sessions import drop_stored_entity, open_sessions

ANN = SessionName("shop", "ann", "s")
SAID = [Message("user", "Where is order 67890?"), Message("assistant", "Order 67890 is in Lyon.")]


def soon(condition: Callable[[], object], seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "not in time"
        time.sleep(0.002)
    return time.monotonic() - started


class Fleet:
    """Machines of one fleet: servers and settings shared, folders their own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.tag = folder, url, uuid4().hex
        self.made: list[Sessions] = []

    def settings(self, name: str, **inference: object) -> Settings:
        content = {
            "base_model": "a-model",
            "inference_settings": {
                "environment_tag": self.tag,
                "persistence_path": str(self.folder / name),
                **inference,
            },
            "cluster_cache": {"connection_string": self.url, "replication_count": 1},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_settings(path, environ={})

    def machine(self, name: str, **inference: object) -> Sessions:
        sessions = open_sessions(self.settings(name, **inference))
        assert sessions is not None
        assert sessions._store.news.wait_until_listening(10)
        self.made.append(sessions)
        return sessions


@pytest.fixture
def fleet(tmp_path: Path, valkey) -> Iterator[Fleet]:
    made = Fleet(tmp_path, valkey.url)
    yield made
    for sessions in made.made:
        with suppress(StoreError):
            sessions.close()


def turn(sessions: Sessions, name: SessionName = ANN, said: list[Message] = SAID) -> int:
    """Take a turn; return which one it was."""
    session = sessions.use(name)
    session.conversation.read(said)
    session.turns += 1
    sessions.save(session)
    assert sessions._store.flush(10)
    return session.turns


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("persistent", [True, False])
def test_a_session_goes_on_where_another_machine_left_it(fleet, monkeypatch, sealed, persistent):
    options = {"enable_persistence": persistent}
    if sealed:
        pytest.importorskip("cryptography")
        monkeypatch.setenv("SESSION_KEY", "00" * 32)
        options["encryption_key_from"] = "env:SESSION_KEY"
    one, two = fleet.machine("one", **options), fleet.machine("two", **options)
    assert turn(one) == 1
    session = two.use(ANN)
    assert (session.turns, two.begun) == (1, 0)
    assert [entity.canonical for entity in session.conversation.about] == ["order 67890"]
    more = [*SAID, Message("user", "And where is it now?")]
    found = session.conversation.read(more)
    assert [entity.canonical for entity in found.entities] == ["order 67890"], "it is known what `it` is"
    # The control: who is somebody else, or of another tenant, has another session.
    for stranger in (SessionName("shop", "bob", "s"), SessionName("bank", "ann", "s")):
        assert two.use(stranger).turns == 0


def test_programs_of_another_environment_have_sessions_of_their_own(fleet):
    one, other = fleet.machine("one"), fleet.machine("other", environment_tag="staging")
    turn(one)
    assert other.use(ANN).turns == 0


def test_what_one_machine_ends_is_begun_anew_on_all(fleet):
    one, two, three = (fleet.machine(name) for name in ("one", "two", "three"))
    turn(one)
    assert turn(two, said=[*SAID, Message("user", "Thanks")]) == 2
    soon(lambda: one._store.stamp(ANN.key) is None or one._store.get(ANN.key) is not None)
    three.end("s")  # it has never seen it
    for each in (one, two):
        soon(lambda each=each: each.use(ANN).turns == 0)


def test_a_tenant_ends_its_own_session_of_that_name_and_no_other(fleet):
    one, two = fleet.machine("one"), fleet.machine("two")
    bank = SessionName("bank", "ann", "s")
    turn(one)
    turn(one, bank)
    two.end("s", tenant="bank")
    soon(lambda: one.use(bank).turns == 0)
    assert one.use(ANN).turns == 1


def test_erasing_reaches_every_machine_and_nothing_is_left_on_the_servers(fleet, valkey):
    one, two = fleet.machine("one"), fleet.machine("two")
    turn(one)
    assert turn(two) == 2
    bob = SessionName("shop", "bob", "b")
    turn(one, bob)
    _, report = two.erase(tag="user:ann")
    assert report.entries >= 1
    soon(lambda: [each.name for each in one.take_idle()] == [ANN])
    assert one.use(ANN).turns == 0
    assert one.use(bob).turns == 1, "the control: what is somebody else's stays"
    client = valkey.nodes[0].client()
    names = [name for name in client.scan_iter(match="*sessions*:e:*") if ANN.key.encode() in name]
    assert names == []


def test_word_of_a_changed_entity_reaches_machines_that_run(fleet):
    one = fleet.machine("one")
    assert one.dropped_at("order 67890") is None
    drop_stored_entity(fleet.settings("two"), "order 67890")
    soon(lambda: one.dropped_at("order 67890") is not None)


def test_ending_from_the_command_line_reaches_machines_that_run(fleet):
    one = fleet.machine("one")
    turn(one)
    fleet.settings("two")
    result = CliRunner().invoke(main, ["invalidate", str(fleet.folder / "two.yaml"), "--session", "s"])
    assert result.exit_code == 0, result.output
    soon(lambda: one.use(ANN).turns == 0)


def test_without_servers_sessions_are_this_machines(tmp_path: Path, servers, monkeypatch):
    monkeypatch.setattr("axolotl_cache.stored_sessions._PASS_ON_SECONDS", 0.1)
    fleet = Fleet(tmp_path, f"redis://127.0.0.1:{servers.free_port()}")
    sessions = open_sessions(fleet.settings("one"))
    session = sessions.use(ANN)
    session.turns += 1
    sessions.save(session)
    assert sessions.use(ANN).turns == 1
    assert sessions.store_errors == 0
    with pytest.raises(StoreError, match="ther machines"):
        sessions.end("s")
    sessions.close()
    with pytest.raises(StoreError, match="ther machines"):
        drop_stored_entity(fleet.settings("two"), "order 67890")
