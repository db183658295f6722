"""The commands as people and scripts run them."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from axolotl_cache.cli.inference import axolotl_inference
from axolotl_cache.cli.main import main

SYSTEM = "You help the customers of a bank. " * 12
SHORT = ["--max-new-tokens", "4", "--cache-truncated"]  # the small model's answers have no end of their own
BLOCKS = {
    "model_config": {"prefix_length": 64, "system_prompts": [SYSTEM]},
    "inference_settings": {"persistence_path": "./answers"},
}


@pytest.fixture
def write(small_model_folder, tmp_path, monkeypatch):
    """Write a YAML for the small model into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name="your_config.yaml", **more):
        content = {"base_model": str(small_model_folder), "chat_template": "tokenizer_default"} | more
        Path(name).write_text(yaml.safe_dump(content), encoding="utf-8")
        return name

    return write


def run(*arguments, command=main, stdin=None, code=0):
    result = CliRunner().invoke(command, list(arguments), input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def answers(result):
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def python(*arguments, **options):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        **options,
    )


def test_word_for_word_prefix_cache(write):
    write()
    process = python(
        *shlex.split("-m axolotl.cli.inference your_config.yaml --use-prefix-cache --cache-ttl=7200")
    )
    out, err = process.communicate("Where is my card?\n", timeout=120)
    assert process.returncode == 0, err
    assert out.strip()
    assert "1 request" in err
    assert "===" not in out


def test_word_for_word_cache_optimization(write, small_model_folder, tmp_path):
    """The YAML is what the name says: a 4-bit base with an adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small_model_folder)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    write("qlora.yaml", adapter="qlora", load_in_4bit=True, lora_model_dir="./adapter", bf16=True)
    process = python(*shlex.split("-m axolotl.cli.inference qlora.yaml --enable-cache-optimization"))
    out, err = process.communicate("Where is my card?\n", timeout=180)
    assert process.returncode == 0, err
    assert out.strip()
    assert "1 request" in err


def test_axolotls_command_caches_nothing_unless_asked(write, tmp_path):
    name = write()
    asked = [name, "--prompt", "Hello?", "--prompt", "Hello?", "--json", *SHORT]
    plain = answers(run(*asked, command=axolotl_inference))
    assert [a["served"] for a in plain] == ["miss", "miss"]
    assert [a["cached_tokens"] for a in plain] == [0, 0]
    assert not list((tmp_path / "cache-home").rglob("*.sqlite*"))
    flagged = answers(run(*asked, "--use-prefix-cache", command=axolotl_inference))
    assert [a["served"] for a in flagged] == ["miss", "hit-exact"]
    write(**BLOCKS)
    blocks = answers(run(*asked, command=axolotl_inference))
    assert [a["served"] for a in blocks] == ["hit-prefix", "hit-exact"]
    assert len({a["text"] for a in plain + flagged}) == 1


def test_ours_caches_by_default_and_streams_only_answers_to_standard_output(write):
    name = write(**BLOCKS)
    asked = ["inference", name, "--prompt", "Hello?", *SHORT]
    first, again = run(*asked), run(*asked)
    assert first.stdout == again.stdout
    assert first.stdout.endswith("\n")
    assert "hit-prefix" in first.stderr
    assert "hit-exact" in again.stderr
    assert "time saved" in again.stderr
    quiet = run(*asked, "--quiet")
    assert quiet.stdout == first.stdout
    assert "requests" not in quiet.stderr


def test_a_prompts_file_gives_a_json_line_an_answer(write):
    name = write(**BLOCKS)
    lines = [
        '"Hello?"',
        '{"id": "b", "user": "Hello?"}',
        '{"id": "c", "user": "Hello?", "system": "You are terse."}',
        '{"id": "d", "messages": [{"role": "user", "content": "Hello?"}]}',
        '{"id": "e", "prompt": "Once upon a time"}',
        "",
    ]
    Path("prompts.jsonl").write_text("\n".join(lines))
    found = answers(run("inference", name, "--prompts-file", "prompts.jsonl", *SHORT))
    assert [a["id"] for a in found] == ["1", "b", "c", "d", "e"]
    # Equal ones that come together are computed once, whichever comes first.
    assert sorted(a["served"] for a in found[:2]) == ["hit-exact", "hit-prefix"]
    assert "hit-exact" not in [a["served"] for a in found][2:]
    assert found[2]["misses"]["response"]["reason"]
    assert all(
        a["prompt_tokens"] >= a["cached_tokens"] and a["ttft_seconds"] <= a["total_seconds"] for a in found
    )


def test_lines_of_a_prompts_file_say_how_they_are_cached(write):
    rules = {"rules": [{"tag": "faq", "kind": "static"}]}
    prices = {"currency": "EUR", "models": {"*": {"input_per_million": 2, "output_per_million": 10}}}
    settings = BLOCKS["inference_settings"] | {"ttl_rules": rules, "prices": prices}
    name = write(**BLOCKS | {"inference_settings": settings})
    lines = [
        {"user": "Hello?", "truncated": True, "tags": ["faq"]},
        {"user": "Hello?"},
        {"user": "Hello?", "cache_control": "no-cache, no-store"},
        {"user": "Hello?", "namespace": "other", "truncated": True, "ttl": "2h"},
        {"user": "Is it open today?", "truncated": True},
        {"user": "Where?", "cache_control": "only-if-cached"},
    ]
    Path("prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    asked = [
        "inference",
        name,
        "--prompts-file",
        "prompts.jsonl",
        "--max-new-tokens",
        "4",
        "--concurrency",
        "1",
    ]
    result = run(*asked, code=2)
    found = answers(result)
    assert [a.get("served") for a in found] == [
        "hit-prefix",
        "hit-exact",
        "hit-prefix",
        "hit-prefix",
        "hit-prefix",
        None,
    ]
    assert found[1]["ttl"] == {"seconds": 172800, "kind": "static", "why": "rule 1 of ttl_rules: tag 'faq'"}
    assert found[1]["key"] == found[0]["key"] != found[3]["key"]
    assert float(found[1]["saved"]["money"]) > 0
    assert found[1]["saved"]["currency"] == "EUR"
    assert "no-store" in found[2]["not_stored"]
    assert found[3]["ttl"]["seconds"] == 7200
    assert found[4]["not_stored"].startswith("realtime, never stored")
    assert "nothing stored can answer" in found[5]["error"]
    for line in (
        "stored: 1 for 2d, static: rule 1 of ttl_rules: tag 'faq'",
        "stored: 1 for 2h, the request's own ttl",
        "EUR, at the prices given",
        "not stored: 1, realtime, never stored",
    ):
        assert line in result.stderr
    wrong = run("invalidate", name, "--key", found[0]["key"], "--wrong")
    assert wrong.stdout == "1\n"
    again = answers(run(*asked, code=2))
    assert again[0]["not_stored"] == "this same answer was reported as wrong"
    assert again[1]["served"] != "hit-exact"


def test_every_bad_line_of_a_prompts_file_is_named_before_anything_runs(write):
    name = write()
    Path("prompts.jsonl").write_text('{"user": "fine"}\n{"usr": "x"}\nnot json\n{"messages": []}\n')
    result = run("inference", name, "--prompts-file", "prompts.jsonl", code=2)
    assert result.stdout == ""
    for number in (2, 3, 4):
        assert f"prompts.jsonl:{number}" in result.stderr
    assert "prompts.jsonl:1" not in result.stderr


def test_a_request_that_can_not_be_served_leaves_the_others_alone(write):
    name = write()
    Path("prompts.jsonl").write_text('"Hello?"\n{"id": "long", "user": "%s"}\n"Bye?"\n' % ("x y " * 2000))
    result = run("inference", name, "--prompts-file", "prompts.jsonl", "--max-new-tokens", "3", code=2)
    found = answers(result)
    assert ["text" in a for a in found] == [True, False, True]
    assert "2,048 positions" in found[1]["error"]
    assert "request long" in result.stderr


def test_prompts_come_from_a_pipe(write):
    name = write()
    result = run("inference", name, "--max-new-tokens", "3", stdin="two\nlines\n")
    assert result.stdout.strip()
    assert "empty" in run("inference", name, stdin=" \n", code=2).stderr


def test_a_chat_knows_what_was_said_and_reuses_it(write):
    name = write(**BLOCKS)
    turns = "Hello?\n" + "Where is my card? " * 8 + "\n/clear\nHello?\n"
    found = answers(run("inference", name, "--chat", "--json", *SHORT, stdin=turns))
    assert len(found) == 3
    assert found[1]["prompt_tokens"] > found[0]["prompt_tokens"]
    assert found[1]["cached_tokens"] >= 64
    assert found[2]["text"] == found[0]["text"]
    assert found[2]["served"] == "hit-exact"


def test_sampling_options_reach_the_model(write):
    name = write()
    asked = ["inference", name, "--prompt", "Hello?", "--json", "--cache-truncated", "--max-new-tokens", "8"]
    greedy = answers(run(*asked))[0]
    seeded = [answers(run(*asked, "--temperature", "1.5", "--seed", s))[0] for s in ("1", "1", "2")]
    assert seeded[0]["text"] == seeded[1]["text"] != seeded[2]["text"]
    assert seeded[1]["served"] == "hit-exact"
    unseeded = run(*asked, "--temperature", "1.5")
    assert "without a seed" in answers(unseeded)[0]["not_stored"]
    assert "without a seed" in unseeded.stderr
    assert greedy["not_stored"] is None
    assert "top_p" in run(*asked, "--temperature", "1", "--top-p", "7", code=2).stderr


def test_all_mistakes_of_a_yaml_are_named_at_once(write):
    name = write(
        model_config={"prefix_lenght": 64, "max_cache_size": "huge"},
        inference_settings={"entry_timeout": "soon"},
    )
    result = run("inference", name, "--prompt", "Hello?", code=2)
    for word in ("prefix_lenght", "prefix_length", "huge", "soon", f"{name}:"):
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_genuine_overrides_reach_the_model(write):
    name = write(model_config={"max_position_embeddings": 300, "enable_prefix_cache": True})
    result = run("inference", name, "--prompt", "Hello? " * 400, code=2)
    assert "300 positions" in result.stderr


def test_an_override_that_the_model_does_not_know_is_refused(write):
    name = write(model_config={"max_position_embedings": 300})
    result = run("inference", name, "--prompt", "Hello?", code=2)
    assert "max_position_embeddings" in result.stderr


def test_a_system_message_can_be_chosen(write):
    name = write(**BLOCKS)
    base = ["inference", name, "--prompt", "Hello?", "--json", "--max-new-tokens", "3"]
    default, own, none = (
        answers(run(*base, *s))[0] for s in ([], ["--system", "Be terse."], ["--system", ""])
    )
    assert default["prompt_tokens"] > none["prompt_tokens"]
    assert default["cached_tokens"] == 64
    assert own["cached_tokens"] == none["cached_tokens"] == 0


def test_bench_compares_off_and_on_and_leaves_the_stored_answers_alone(write):
    name = write(**BLOCKS)
    result = run("bench", name, *SHORT, "--json")
    found = json.loads(result.stdout)
    assert found["requests"] == 12
    assert found["hit_rate"] == pytest.approx(4 / 12)
    assert found["identical"] == 12
    assert not Path("answers").exists()
    shown = run("bench", name, "--max-new-tokens", "2", "--limit", "3").stdout
    assert "answers identical" in shown


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_the_middle_every_answer_given_is_kept(write, how):
    name = write(**BLOCKS)
    Path("prompts.jsonl").write_text("\n".join(json.dumps(f"question {i}") for i in range(400)))
    asked = ["inference", name, "--prompts-file", "prompts.jsonl", *SHORT]
    process = python("-m", "axolotl_cache.cli.main", *asked)
    given = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(how)
    rest, err = process.communicate(timeout=60)
    given += [json.loads(line) for line in rest.splitlines() if line.endswith("}")]
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL), err
    if how is signal.SIGINT:
        assert "Traceback" not in err
        assert "requests" in err
    Path("prompts.jsonl").write_text("\n".join(json.dumps(f"question {i}") for i in range(len(given))))
    again = answers(run(*asked))
    assert [a["served"] for a in again] == ["hit-exact"] * len(given)
    assert [a["text"] for a in again] == [a["text"] for a in given]


@pytest.mark.parametrize("arguments", [["--help"], ["inference", "--help"], ["bench", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    program = (
        f"import sys; from axolotl_cache.cli.main import main; main({arguments}, standalone_mode=False); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout


def test_blank_characters_that_are_no_line_ends_and_a_byte_order_mark_are_fine(write):
    name = write()
    lines = [json.dumps("a\u2028b\u0085c", ensure_ascii=False), '"two"']
    Path("prompts.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = answers(run("inference", name, "--prompts-file", "prompts.jsonl", "--max-new-tokens", "2"))
    assert len(found) == 2


def test_what_is_no_text_is_that_requests_fault(write):
    name = write()
    Path("prompts.jsonl").write_text('"\\ud800"\n"fine"\n')
    result = run("inference", name, "--prompts-file", "prompts.jsonl", "--max-new-tokens", "2", code=2)
    assert ["text" in a for a in answers(result)] == [False, True]


def test_bench_names_requests_that_can_not_be_served_before_it_starts(write):
    name = write()
    Path("log.jsonl").write_text('"Hello?"\n{"id": "long", "user": "%s"}\n' % ("x y " * 2000))
    assert "request long" in run("bench", name, "--workload", "log.jsonl", code=2).stderr
