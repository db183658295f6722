"""Sessions and records as the commands have them, from a YAML that names a provider."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from axolotl_cache.cli.main import main

SYSTEM = "You help the customers of a shop that sells lamps. " * 8
SHORT = ["--max-new-tokens", "4", "--cache-truncated", "--concurrency", "1"]
PROVIDER = """
from pathlib import Path

class Orders:
    kinds = ("order", "invoice")
    def may_see(self, entity, who):
        return who.principal == "ann"
    def fetch(self, entity, tenant):
        with Path("fetched").open("a") as file:
            file.write(entity.value + " ")
        return {"status": "shipped with the night train on the 2nd of June, and seen in Lyon"}
"""


@pytest.fixture
def config(small_model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("our_orders.py").write_text(PROVIDER)
    content = {
        "base_model": str(small_model_folder),
        "chat_template": "tokenizer_default",
        "model_config": {"system_prompts": [SYSTEM], "prefix_length": 64},
        "inference_settings": {"persistence_path": "./answers"},
        "session_management": {
            "entity_provider": "our_orders:Orders",
            "entity_kinds": {"invoice": r"INV-(\d{4})"},
        },
    }
    Path("c.yaml").write_text(yaml.safe_dump(content))
    yield "c.yaml"
    sys.modules.pop("our_orders", None)


def run(*arguments, stdin=None, code=0):
    result = CliRunner().invoke(main, list(arguments), input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def ask(config, *lines):
    Path("p.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    result = run("inference", config, "--prompts-file", "p.jsonl", *SHORT)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


QUESTION = {"user": "Where is order #67890?", "session": "a", "principal": "ann"}


def test_a_file_of_sessions_and_what_is_said_about_them(config):
    found, told = ask(
        config,
        QUESTION,
        QUESTION | {"session": "b", "user": "Has order 67890 left, and is INV-1234 paid?"},
        QUESTION | {"principal": "eve"},
    )
    first, second, third = (each["session"] for each in found)
    assert [(e["name"], e["record"]) for e in first["entities"]] == [("order 67890", "joined")]
    assert {e["name"]: e["record"] for e in second["entities"]} == {
        "order 67890": "joined",
        "invoice 1234": "joined",
    }
    assert {e["name"]: e["cached_tokens"] > 0 for e in second["entities"]} == {
        "order 67890": True,
        "invoice 1234": False,
    }
    assert [e["record"] for e in third["entities"]] == ["not allowed"]
    assert Path("fetched").read_text() == "67890 1234 "
    assert "sessions: 3 turns" in told


def test_invalidating_an_entity_or_a_session_loads_no_model_and_reaches_the_next_run(config):
    ask(config, QUESTION, QUESTION | {"session": "b", "principal": "eve"})
    (again,), _ = ask(config, QUESTION)
    assert again["served"] == "hit-exact"
    assert again["session"]["turn"] == 2
    assert run("invalidate", config, "--entity", "#67890").stdout == "2\n"
    (again,), _ = ask(config, QUESTION)
    assert again["served"] != "hit-exact"
    run("invalidate", config, "--session", "a")
    (again,), _ = ask(config, QUESTION)
    assert again["session"]["turn"] == 1
    assert "entries" in run("erase", config, "--user", "ann").stdout
    files = [p for p in Path("answers").rglob("*") if p.is_file()]
    assert files
    assert not any(b"67890" in p.read_bytes() and b"ann" in p.read_bytes() for p in files)


@pytest.mark.slow
def test_a_chat_has_a_session_of_its_own(config):
    result = run(
        "inference", config, "--chat", "--principal", "ann", "--json", "--max-new-tokens", "4",
        stdin="Where is order 67890?\nAnd when will it arrive?\n/clear\nHello?\n",
    )  # fmt: skip
    first, second, third = (json.loads(line)["session"] for line in result.stdout.splitlines())
    assert first["id"] == second["id"] != third["id"]
    assert [each["turn"] for each in (first, second, third)] == [1, 2, 1]
    assert [(e["name"], e["why"]) for e in second["entities"]] == [("order 67890", "this turn")]
    assert third["entities"] == []


@pytest.mark.slow
def test_without_the_session_cache_a_session_is_a_label(config):
    content = yaml.safe_load(Path(config).read_text())
    content["session_management"] = {"enable_session_cache": False}
    Path(config).write_text(yaml.safe_dump(content))
    (answer,), _ = ask(config, QUESTION)
    assert answer["session"] is None
    assert not Path("answers/sessions").exists()


@pytest.mark.slow
def test_a_provider_or_a_pattern_that_can_not_be_used_is_refused_with_its_line(config):
    content = yaml.safe_load(Path(config).read_text())
    content["session_management"]["entity_provider"] = "our_orders:Nothing"
    Path(config).write_text(yaml.safe_dump(content))
    told = run("inference", config, "--prompt", "Hello", code=2).stderr
    assert "session_management.entity_provider" in told
    assert "c.yaml:" in told
    content["session_management"] = {"entity_kinds": {"order": "("}}
    Path(config).write_text(yaml.safe_dump(content))
    assert "entity_kinds" in run("inference", config, "--prompt", "Hello", code=2).stderr
