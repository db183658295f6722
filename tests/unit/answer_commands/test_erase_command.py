"""`axolotl-cache erase`: everything of somebody goes from the files, without a model and without torch."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.paths import keys_and_values_home
from axolotl_cache.response import owner_tags
from axolotl_cache.stores import Record, SqliteStore

CANARY = "yellow-canary"


@pytest.fixture
def cache(config):
    with SmartInferenceCache(persistence_path="./answers") as made:
        made.set("a", CANARY, tags=owner_tags(session="s", tenant="t"))
        made.set("b", CANARY * 20_000, tags=owner_tags(session="s", user="ada"))
        made.set("c", "sparrow", tags=owner_tags(tenant="another"))
        yield made


@pytest.fixture
def blocks(config):
    folder = keys_and_values_home() / "kv-0123456789abcdef"
    with_blocks = SqliteStore(folder, 9)
    with_blocks.put("k", Record(CANARY.encode() * 20_000, "kv-block", 0.0), 0.0)
    with_blocks.close()
    return folder


@pytest.fixture
def run(run_command):
    return partial(run_command, "erase")


def holds_canary(folder):
    return any(CANARY.encode() in path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def test_a_session_goes_from_files_and_running_programs(run, config, cache):
    assert cache["a"] == CANARY
    assert holds_canary("answers")
    assert run(config, "--session", "s").startswith("erased: 2 entries, 1 files, 260,")
    assert not holds_canary("answers")
    assert {*cache} == {"c"}
    assert cache.get("a") is None


@pytest.mark.parametrize(("owner", "stay"), [(("--tenant", "t"), "bc"), (("--user", "ada"), "ac")])
def test_so_do_a_tenant_and_a_user(run, config, cache, owner, stay):
    assert run(config, *owner).startswith("erased: 1 entries")
    assert {*cache} == {*stay}


def test_keys_and_values_on_disk_are_named_and_go_when_asked_for(run, config, cache, blocks):
    told = run(config, "--tenant", "t")
    assert f"left: keys and values of prompts in {blocks}" in told
    assert "--keys-and-values" in told
    assert holds_canary(blocks)
    assert run(config, "--tenant", "t", "--keys-and-values").startswith("erased: 1 entries, 1 files")
    assert not holds_canary(blocks)
    assert {*cache} == {*"bc"}


def test_what_can_not_be_erased_is_an_error_that_names_it(run, config, cache):
    stuck = Path("answers") / "cache.sqlite3.damaged-1"
    stuck.mkdir()
    said = run(config, "--session", "s", code=2)
    assert "not everything is erased (2 entries and 1 files are gone)" in said
    assert str(stuck) in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "say whose"),
        (["--session", "s", "--tenant", "t"], "say whose"),
        (["--user", ""], "name is empty"),
        (["--keys-and-values"], "say whose"),
    ],
)
def test_what_is_not_clear_is_refused_and_nothing_goes(run, config, cache, options, says):
    assert says in run(config, *options, code=2)
    assert len(cache) == 1 + 2


def test_where_nothing_was_stored_nothing_is_made(run, config):
    assert run(config, "--user", "ada") == "erased: 0 entries, 0 files, 0 bytes\n"
    assert not Path("answers").exists()


def test_answers_in_a_running_programs_memory_are_out_of_reach(run, config):
    Path(config).write_text("inference_settings: {enable_persistence: false}\n")
    assert "in the memory of the running program" in run(config, "--user", "ada", code=2)


def test_it_runs_without_torch(config, cache):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from axolotl_cache.cli.main import main\n"
        f"main(['erase', {config!r}, '--user', 'ada'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("erased: 1 entries")
