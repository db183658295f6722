"""`axolotl-cache invalidate`: answers go, without a model and without torch."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import owner_tags


@pytest.fixture
def cache(config):
    with SmartInferenceCache(persistence_path="./answers") as made:
        made.set("a", 1, tags=[*owner_tags(session="s", entities=["order 1"], tenant="t"), "faq"])
        made.set("b", 2, tags=owner_tags(session="s", user="ada", models=["m"], version="v"))
        made.set("c", 3)
        yield made


@pytest.fixture
def run(run_command):
    return partial(run_command, "invalidate")


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--key", "c"], "c"),
        (["--tag", "faq"], "a"),
        (["--session", "s"], "ab"),
        (["--session", "s", "--key", "a"], "a"),
        (["--entity", "order 1"], "a"),
        (["--tenant", "t"], "a"),
        (["--user", "ada"], "b"),
        (["--model", "m"], "b"),
        (["--version", "v"], "b"),
        (["--older-than", "1h"], ""),
        (["--everything"], "abc"),
        (["--key", "nothing"], ""),
    ],
)
def test_what_meets_the_conditions_goes_for_running_programs_too(run, config, cache, options, gone):
    assert run(config, *options) == f"{len(gone)}\n"
    assert {*cache} == {*"abc"} - {*gone}


def test_a_wrong_answer_is_never_stored_again(run, config, cache):
    assert run(config, "--key", "c", "--wrong") == "1\n"
    assert run(config, "--key", "c", "--wrong") == "0\n"
    assert cache.set("c", 3) is False
    assert cache.set("c", 4) is True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "say which answers"),
        (["--everything", "--key", "a"], "say which answers"),
        (["--session", "s", "--tenant", "t"], "give one of --session, --tenant"),
        (["--wrong"], "say which answers"),
        (["--wrong", "--key", "a", "--tag", "faq"], "--wrong reports the one answer"),
        (["--older-than", "soon"], "not a time"),
        (["--tag", "session:s"], "begins with 'session:'"),
        (["--session", ""], "empty name"),
    ],
)
def test_what_is_not_clear_is_refused_and_nothing_goes(run, config, cache, options, says):
    assert says in run(config, *options, code=2)
    assert len(cache) == 3


def test_where_nothing_was_stored_nothing_is_made(run, config):
    assert run(config, "--everything") == "0\n"
    assert not Path("answers").exists()


def test_answers_in_a_running_programs_memory_are_out_of_reach(run, config):
    Path(config).write_text("inference_settings: {enable_persistence: false}\n")
    assert "in the memory of the running program" in run(config, "--everything", code=2)


def test_it_runs_without_torch(config, cache):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from axolotl_cache.cli.main import main\n"
        f"main(['invalidate', {config!r}, '--key', 'c'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
