"""Planted causes are named, a healthy log has none, and each request's miss can be explained."""

import json
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from axolotl_cache.cli.main import main
from axolotl_cache.language.volatile import kinds_in, masked
from axolotl_cache.profiling.doctor.examine import examine
from axolotl_cache.profiling.doctor.server import ServerError, examine_server
from axolotl_cache.profiling.reading import Reading, read_logs
from axolotl_cache.profiling.record import Record

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import planted

    return planted


@pytest.fixture
def run(tmp_path):
    def call(*arguments):
        return CliRunner().invoke(main, ["doctor", "--quiet", *map(str, arguments)])

    return call


def test_every_planted_cause_is_named_alone_and_a_healthy_log_has_none(planted, tmp_path):
    found = planted.figures(tmp_path, requests=400, seed=7)
    assert found["planted_causes_found"] == 10
    assert found["false_alarms"] == 0
    for row in found["rows"]:
        assert row["named"] == ([row["planted"]] if row["planted"] else []), row


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("Today is Monday, {day} January 2026, {hour:02}:{minute:02} UTC. ", "clock-in-prompt"),
        ("[{hour:02}:{minute:02}:{second:02}] ", "clock-in-prompt"),
        ("现在是2026年1月{day}日 {hour:02}:{minute:02}。", "clock-in-prompt"),
        ("trace_id=req-{number:08x}a1; ", "id-in-prompt"),
        ("(session {hex32}) ", "id-in-prompt"),
    ],
)
def test_what_changes_is_found_in_the_middle_of_a_line_too(planted, line, cause):
    rng, records = Random(2), []
    for number, asked in enumerate(planted.traffic(rng, 200)):
        changing = line.format(
            day=1 + number // 60,
            hour=number // 20 % 24,
            minute=number * 7 % 60,
            second=number * 13 % 60,
            number=number,
            hex32=f"{rng.getrandbits(128):032x}",
        )
        rules = " ".join(planted.RULES)
        system = f"You are a friendly assistant. {changing}{rules}"
        records.append(Record(messages=(("system", system), ("user", asked.question))))
    assert [finding.cause.value for finding in examine(records).findings] == [cause]


def test_what_is_no_clock_and_no_id_is_left_alone():
    for text in (
        "I ordered 2 lamps of 28 inches",
        "version 3.11.7",
        "call 555-0199",
        "iPhone 15",
        "deadbeef",
    ):
        assert not kinds_in(text), text
    assert masked("at 2026-01-01T10:00:00Z, id 123e4567-e89b-12d3-a456-426614174000") == "at <time>, id <id>"
    assert masked("12:30 and 0a1b2c3d4e5f6a7b", "id") == "12:30 and <id>"


def test_ttl_and_capacity_of_a_configuration_are_held_against_any_log(run, planted, tmp_path):
    log, yaml = tmp_path / "log.jsonl", tmp_path / "c.yaml"
    planted.write(planted.HEALTHY[0], log, requests=400, seed=3)
    yaml.write_text("base_model: m\ninference_settings:\n  entry_timeout: 10\n  max_cache_entries: 2000\n")
    causes = [f["cause"] for f in json.loads(run(log, "--config", yaml, "--json").stdout)["findings"]]
    assert causes == ["ttl-too-short"]
    yaml.write_text("base_model: m\ninference_settings:\n  entry_timeout: 48h\n  max_cache_entries: 2\n")
    causes = [f["cause"] for f in json.loads(run(log, "--config", yaml, "--json").stdout)["findings"]]
    assert causes == ["capacity-too-small"]


def test_what_changed_in_the_namespace_is_said(run, planted, tmp_path):
    log = tmp_path / "log.jsonl"
    planted.write(planted.MORE[0], log, requests=400, seed=3)
    seen, lines = set(), []
    for line in map(json.loads, log.read_text().splitlines()):
        if line["namespace"] not in seen:
            seen.add(line["namespace"])
            line["namespace_parts"] = {"weights": "w", "cache_version": line["namespace"]}
        lines.append(line)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run(log)
    assert result.exit_code == 1
    assert "what changed: cache_version" in result.stdout


def test_answers_that_differ_are_told_apart_by_why(planted):
    def asked(model_says, **more):
        messages = (("user", f"What is {number % 20}?"),)
        return Record(messages=messages, answer=model_says, **more)

    records = []
    for number in range(100):
        records.append(asked(f"answer {number}"))
    unexplained = examine(records).findings
    assert [f.cause.value for f in unexplained if f.symptom == "inconsistent answers"] == ["answers-differ"]
    records = []
    for number in range(100):
        records.append(asked(f"version {number // 50}", namespace={"namespace": f"n{number // 50}"}))
    versions = [f.cause.value for f in examine(records).findings if f.symptom == "inconsistent answers"]
    assert versions == ["namespace-changed"]
    records = []
    for number in range(100):
        records.append(asked(f"answer {number % 20}"))
    assert not examine(records).findings


def test_exit_status_and_json(run, planted, tmp_path):
    sick, healthy = tmp_path / "sick.jsonl", tmp_path / "healthy.jsonl"
    planted.write(planted.TEN[0], sick, requests=200, seed=1)
    planted.write(planted.HEALTHY[0], healthy, requests=200, seed=1)
    assert (run(healthy).exit_code, run(sick).exit_code) == (0, 1)
    assert "nothing found" in run(healthy).stdout
    (finding,) = json.loads(run(sick, "--json").stdout)["findings"]
    assert (finding["cause"], finding["symptom"]) == ("clock-in-prompt", "low hit rate")
    assert finding["gain_requests"] > 0.3
    assert run(tmp_path / "missing").exit_code == 2


def test_one_request_is_explained(run, planted, tmp_path):
    log = tmp_path / "log.jsonl"
    system = "You answer in one sentence. " * 20
    ask = [("08:01", "Hello"), ("08:02", "Hello"), ("08:02", "Bye"), ("08:02", "Bye")]
    lines = [
        {"messages": [{"role": "system", "content": f"{system}It is {t}."}, {"role": "user", "content": q}]}
        for t, q in ask
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "only a date or time differs from request 1" in run(log, "--request", 2).stdout
    third = json.loads(run(log, "--request", 3, "--json").stdout)
    assert (third["nearest"], third["here"][:3], third["there"][:5]) == (2, "Bye", "Hello")
    assert third["shared_tokens"] > 100
    assert "request 3 is the same" in run(log, "--request", 4).stdout
    assert "no request before it" in run(log, "--request", 1).stdout
    refused = run(log, "--request", 9)
    assert refused.exit_code == 2
    assert "the log has 4" in refused.stderr


SYSTEM = "You answer in one sentence. " * 20


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def said(system, question, **more):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"messages": messages, **more}


def test_where_two_requests_part_is_told_by_message_and_token(run, tmp_path):
    log = write(tmp_path / "l", said(SYSTEM, "Where is it?"), said(SYSTEM, "Where was it?"), said("A", "B"))
    found = json.loads(run(log, "--request", 2, "--json").stdout)
    assert (found["part"], found["part_characters"]) == ("message 2, of the user", 6)
    about = len(SYSTEM) / 4
    assert about < found["first_difference_tokens"] < about + 12
    assert found["tokens_are"] == "estimated"
    assert "in message 2, of the user at character 6" in run(log, "--request", 2).stdout
    assert "no request before it" in run(log, "--request", 3).stdout


def test_an_answer_is_part_of_what_the_next_turn_goes_on_from(run, tmp_path):
    first = said(SYSTEM, "Where is it?")
    answered = {
        "response": {"choices": [{"message": {"role": "assistant", "content": "It is on its way. " * 9}}]}
    }
    then = said(SYSTEM, "Where is it?")
    answer = {"role": "assistant", "content": "It is on its way. " * 9}
    then["messages"] += [answer, {"role": "user", "content": "And now?"}]
    log = write(tmp_path / "l", first | answered, then)
    found = json.loads(run(log, "--request", 2, "--json").stdout)
    assert (found["part"], found["there"]) == ("message 3, of the assistant", "")
    assert found["shared_characters"] > len(SYSTEM) + len(answer["content"])


@pytest.mark.model
def test_the_first_token_that_differs_is_the_models_own(run, tmp_path, smollm2_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    lines = [said(SYSTEM, "Where is it?"), said(SYSTEM, "Where was it?")]
    log = write(tmp_path / "l", *lines)
    ids = [
        tokenizer.apply_chat_template(line["messages"], add_generation_prompt=True)["input_ids"]
        for line in lines
    ]
    found = json.loads(run(log, "--request", 2, "--tokenizer", smollm2_folder, "--json").stdout)
    at = found["first_difference_tokens"]
    assert ids[0][:at] == ids[1][:at]
    assert ids[0][at] != ids[1][at]
    assert (found["token_here"], found["token_there"]) == (" was", " is")
    assert (found["tokens_are"], found["prompt_tokens"]) == ("counted", len(ids[1]))
    assert found["shared_tokens"] == at // 32 * 32


def test_of_hashes_the_block_is_told(run, tmp_path):
    both = [[1, 2, n, n] for n in (3, 4)]
    lines = [{"timestamp": 1, "input_length": 2_000, "output_length": 1, "hash_ids": ids} for ids in both]
    log = write(tmp_path / "l", *lines)
    told = run(log, "--request", 2).stdout
    assert "they part in the block that begins at token 1,024: the log has hashes" in told
    again = write(tmp_path / "m", lines[0], lines[0])
    assert "they part" not in run(again, "--request", 2).stdout


OVERVIEW = {
    "summary": {"requests": 1_000, "hits": 50, "prompt_tokens": 10_000, "cached_tokens": 500},
    "since_start": {"requests": 4_000},
    "misses": {"expired": 900, "never_seen": 3_000, "evicted": 3},
    "tiers": [
        {
            "title": "Prefixes in memory",
            "held_bytes": 990,
            "max_bytes": 1_000,
            "entries": 30,
            "evicted": 400,
            "refused": 0,
        }
    ],
}


def test_a_server_is_asked_about_its_misses_and_its_memory():
    asked = []

    def fetch(url):
        asked.append(url)
        return OVERVIEW

    status = examine_server("http://localhost:8000/dashboard", fetch=fetch)
    assert asked == ["http://localhost:8000/dashboard/api/overview?span=3600"]
    assert [finding.cause.value for finding in status.findings] == ["ttl-too-short", "memory-full"]
    healthy = OVERVIEW | {"misses": {"never_seen": 10}, "tiers": []}
    assert not examine_server("http://localhost", fetch=lambda url: healthy).findings
    with pytest.raises(ServerError, match="does not answer as axolotl-cache"):
        examine_server("http://localhost", fetch=lambda url: {"a": 1})
    with pytest.raises(ServerError, match="is the server running"):
        examine_server("http://127.0.0.1:9")


def test_tool_order_costs_both_tiers_and_both_are_counted(planted, tmp_path):
    log = tmp_path / "log.jsonl"
    planted.write(planted.TEN[1], log, requests=300, seed=5)
    (finding,) = examine(read_logs([log], Reading())).findings
    assert finding.gain_requests > 0.3
    assert finding.gain_tokens > 0.1
