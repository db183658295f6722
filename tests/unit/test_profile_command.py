"""`axolotl-cache profile` from a log to the report, the page, the JSON, and a YAML that our loader takes."""

import json
from random import Random

import pytest
from click.testing import CliRunner

from axolotl_cache.cli.main import main
from axolotl_cache.config import load_settings

SYSTEM = "You are the help desk of a bank. " + "Answer politely, in two sentences, and never guess. " * 12


@pytest.fixture
def log(tmp_path):
    """300 requests over 50 minutes: one system prompt, conversations of 3 turns, questions that recur."""
    rng, lines = Random(5), []
    questions = [f"How do I change the address of account {n}?" for n in range(20)]
    for number in range(100):
        messages = [{"role": "system", "content": SYSTEM}]
        for turn in range(3):
            messages = [*messages, {"role": "user", "content": rng.choice(questions)}]
            answer = f"You can do that in the app, number {number} turn {turn}. " * 4
            lines.append(
                {
                    "timestamp": 1_767_225_600 + number * 30 + turn * 8,
                    "request": {"model": "m", "messages": messages},
                    "session_id": f"s{number}",
                    "latency": 12.0,
                    "response": {"choices": [{"message": {"content": answer}}]},
                }
            )
            messages = [*messages, {"role": "assistant", "content": answer}]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    return path


def run(*arguments):
    result = CliRunner().invoke(main, ["profile", "--quiet", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_report_says_what_is_in_the_log(log):
    found = json.loads(run(log, "--json"))
    profile = found["profile"]
    assert found["reading"]["damaged"] == 1
    assert profile["totals"]["requests"] == 300
    assert profile["systems"][0]["requests"] == 300
    assert profile["sessions"]["sessions"] == 100
    assert profile["concurrency"]["mean"] == pytest.approx(1.2, abs=0.05)
    assert profile["repeats"]["exact"] == 80  # first turns: 100 of 20 questions
    assert found["prediction"]["prefix"]["most"] > 0.8
    assert found["prediction"]["response"]["most"] == pytest.approx(80 / 300)


def test_the_yaml_that_is_printed_loads(log, tmp_path):
    path = tmp_path / "advised.yaml"
    path.write_text("base_model: some/model\n" + json.loads(run(log, "--json"))["advice"]["yaml"])
    settings = load_settings(path)
    assert settings.model.prefix_length >= 128
    assert 256 <= settings.inference.max_cache_entries <= 2000
    assert settings.max_memory_usage == 0.25
    assert settings.session.session_timeout == 600


def test_the_size_of_keys_and_values_is_that_of_the_model(log, tmp_path):
    (tmp_path / "model").mkdir()
    shape = {"num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96}
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape | {"dtype": "float32"}))
    yaml = tmp_path / "model.yaml"
    yaml.write_text("base_model: ./model\nbf16: true\n")
    found = json.loads(run(log, "--json", "--config", yaml))
    assert found["kv"]["token_bytes"] == 2 * 4 * 2 * 16 * 2
    assert "max_cache_size" in found["advice"]["yaml"]


def asked(*texts, **more):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": SYSTEM}, *messages], **more}


def sessions_of(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return json.loads(run(path, "--json"))["profile"]["sessions"]


def test_questions_behind_one_system_prompt_are_no_conversation(tmp_path):
    """However often they are the same, and though their whole blocks are."""
    rng = Random(1)
    questions = [f"Where is order {n}?" for n in range(9)]
    lines = [asked(rng.choice(questions)) for _ in range(200)]
    assert sessions_of(tmp_path / "messages", lines)["sessions"] == 0
    rendered = [{"prompt": f"{SYSTEM}\nQ: {rng.choice(questions)}\nA:"} for _ in range(200)]
    assert sessions_of(tmp_path / "prompts", rendered)["sessions"] <= 1


def test_control_conversations_are_recognised_without_names(tmp_path):
    lines, hashes = [], []
    for number in range(30):
        said = []
        for turn in range(4):
            said += [f"Question {turn} of {number}: what about it? " * 9]
            lines.append(asked(*said))
            blocks = [0, *range(100 * number + 1, 100 * number + 3 + 2 * turn)]
            size = 512 * len(blocks)
            hashes.append({"timestamp": 1, "input_length": size, "output_length": 400, "hash_ids": blocks})
            said += [f"It is so: {turn} of {number}. " * 9]
    prompts = [{"prompt": "\n".join(m["content"] for m in line["messages"])} for line in lines]
    for name, log in (("messages", lines), ("prompts", prompts), ("hashes", hashes)):
        found = sessions_of(tmp_path / name, log)
        assert (found["sessions"], found["longest_turns"], found["are_named"]) == (30, 4, False), name


def test_the_policy_is_the_one_that_both_tiers_gain_by(tmp_path):
    """Prompts asked once push out those that come back: what the prefix cache loses by lru counts."""
    rng, lines = Random(3), []
    for number in range(1_500):
        ids = [rng.randrange(60)] if number % 2 else [1_000 + number]
        blocks = [10_000 * (ids[0] + 1) + n for n in range(6)]
        lines.append(
            {"timestamp": number * 1_000, "input_length": 3_200, "output_length": 9, "hash_ids": blocks}
        )
    path = tmp_path / "hashes"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = json.loads(run(path, "--json"))
    (chosen,) = [each for each in found["advice"]["settings"] if each["key"] == "cache_policy"]
    assert chosen["value"] in {"adaptive", "lfu"}
    assert "points of all tokens more than lru finds" in chosen["why"]


def test_what_a_log_of_lengths_does_not_say_is_not_claimed(tmp_path):
    path = tmp_path / "lengths.csv"
    rows = [f"2023-11-16 18:15:{n:02d}.000000,374,44" for n in range(50)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    told = run(path)
    assert "what repeats is not known" in told
    assert "few prompts repeat" not in told


def test_a_date_at_the_top_does_not_turn_the_prefix_cache_off(tmp_path):
    path = tmp_path / "dated"
    lines = [asked(f"Question {n}?") for n in range(50)]
    for number, line in enumerate(lines):
        line["messages"][0]["content"] = f"It is 2026-01-01 08:{number:02d}. {SYSTEM}"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = run(path)
    (line,) = [line for line in told.splitlines() if "enable_prefix_cache" in line]
    assert "true" in line
    assert "once what changes early is moved" in line
    page = tmp_path / "report.html"
    run(path, "--html", page)
    text = page.read_text()
    assert text.index("What changes early</h2>") < text.index("Hit rates</h2>")
    lines = [asked(f"{n} " + "".join(Random(n).choices("abcdefgh ", k=2_000))) for n in range(50)]
    for line in lines:
        del line["messages"][0]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "enable_prefix_cache: false" in run(path), "control: nothing repeats, and nothing to move"


def test_the_page_stands_alone_and_shows_what_the_log_says_as_text(log, tmp_path):
    page = tmp_path / "report.html"
    evil = {"messages": [{"role": "user", "content": "<script>alert(1)</script>"}]}
    log.write_text(log.read_text() + 2 * (json.dumps(evil) + "\n"))
    assert "What was read" in run(log, "--html", page)
    text = page.read_text()
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("<svg") >= 4
    assert page.stat().st_mode & 0o777 == 0o600


def test_what_is_no_log_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "x").write_text("hello\n")
    result = CliRunner().invoke(main, ["profile", "--quiet", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "Known are our request log" in result.stderr


def totals_of(*arguments):
    return json.loads(run(*arguments, "--json"))["profile"]["totals"]


@pytest.mark.model
def test_tokens_are_counted_by_the_models_own_tokenizer(log, tmp_path, smollm2_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    lines = [json.loads(line) for line in log.read_text().splitlines()[:-1]]
    expected = sum(
        len(
            tokenizer.apply_chat_template(line["request"]["messages"], add_generation_prompt=True)[
                "input_ids"
            ]
        )
        for line in lines
    )
    yaml = tmp_path / "c.yaml"
    yaml.write_text(f"base_model: {smollm2_folder}\nchat_template: tokenizer_default\n")
    for found in (totals_of(log, "--tokenizer", smollm2_folder), totals_of(log, "--config", yaml)):
        assert (found["prompt_tokens"], found["tokens_are"]) == (expected, "counted")
    estimated = totals_of(log)
    assert estimated["tokens_are"].startswith("estimated")
    assert estimated["prompt_tokens"] != expected


def test_a_folder_without_a_tokenizer_is_refused_and_a_model_that_is_not_here_is_estimated(log, tmp_path):
    refused = CliRunner().invoke(main, ["profile", "--quiet", str(log), "--tokenizer", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--tokenizer" in refused.stderr
    yaml = tmp_path / "c.yaml"
    yaml.write_text(f"base_model: {tmp_path / 'nothing'}\n")
    told = CliRunner().invoke(main, ["profile", "--quiet", str(log), "--config", str(yaml)])
    assert told.exit_code == 0
    assert "tokens are estimated" in told.stderr
