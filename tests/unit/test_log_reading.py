"""Every kind of log is recognised by what is in it, and what is damaged is counted."""

import gzip
import json

import pytest

from axolotl_cache.profiling.reading import LogError, Reading, read_logs
from axolotl_cache.prompts_file import from_file
from axolotl_cache.request import Request

OURS = {
    "v": 1,
    "time": 1767225600.25,
    "tenant": "shop",
    "session": "c-17",
    "model": "smollm2",
    "namespace": "5d0c",
    "status": "ok",
    "served": "hit-prefix",
    "prompt_tokens": 70,
    "cached_tokens": 64,
    "sampling": {"max_new_tokens": 128, "temperature": 0.0},
    "block_size": 32,
    "blocks": ["0f5be3c1a9d2e874", "77aa01c3e5b9d2f0"],
    "tail": "c2b7a6f51d03e948",
    "total_seconds": 3.9,
}
CHAT = {"model": "m", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hello"}]}
BATCH = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
PAIR = {
    "request": CHAT | {"temperature": 0.7, "max_tokens": 9},
    "response": {
        "created": 1767225600,
        "choices": [{"message": {"role": "assistant", "content": "Hi"}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
    },
}
LITELLM = {
    "id": "x",
    "call_type": "acompletion",
    "startTime": 1767225600.0,
    "endTime": 1767225602.5,
    "completionStartTime": 1767225600.5,
    "model": "gpt",
    "messages": CHAT["messages"],
    "response": PAIR["response"],
    "prompt_tokens": 12,
    "completion_tokens": 2,
    "cache_hit": False,
    "model_parameters": {"temperature": 0.2},
}
MOONCAKE = {"timestamp": 27482, "input_length": 1030, "output_length": 52, "hash_ids": [0, 46, 47]}
LMCACHE = {"timestamp": 1760428221546118, "input": "Fix this", "output": "ls", "session_id": "abc"}
VLLM = (
    "(APIServer pid=9) INFO 02-13 11:33:33 [logger.py:49] Received request chatcmpl-a2: prompt: "
    "'<|im_start|>user\\nIt\\'s \\u4f60<|im_end|>', params: SamplingParams(n=1, temperature=0.7, seed=None, "
    "stop=[], max_tokens=100), prompt_token_ids: [1, 2, 3], lora_request: None."
)


def read(tmp_path, *lines, name="log"):
    path = tmp_path / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    reading = Reading()
    return list(read_logs([path], reading)), reading


def test_our_request_log(tmp_path):
    skipped = OURS | {"status": "overloaded", "served": None}
    (record,), reading = read(tmp_path, {"v": 1, "event": "start", "time": 1.0}, OURS, skipped)
    assert record.block_ids == [0x0F5BE3C1A9D2E874, 0x77AA01C3E5B9D2F0, 0xC2B7A6F51D03E948]
    assert (record.block_tokens, record.prompt_tokens, record.served) == (32, 70, "hit-prefix")
    assert record.sampling["max_tokens"] == 128
    assert (record.tenant, record.session, record.namespace) == ("shop", "c-17", {"namespace": "5d0c"})
    assert reading.damaged == 0


def test_a_newer_request_log_is_refused_and_not_guessed_at(tmp_path):
    with pytest.raises(LogError, match="version 2"):
        read(tmp_path, OURS | {"v": 2})


@pytest.mark.parametrize("line", [CHAT, BATCH, PAIR])
def test_openai_in_its_shapes(tmp_path, line):
    (record,), _ = read(tmp_path, line)
    assert record.messages == (("system", "S"), ("user", "Hello"))


def test_openai_with_its_answer(tmp_path):
    (record,), _ = read(tmp_path, PAIR)
    assert (record.answer, record.prompt_tokens, record.cached_tokens) == ("Hi", 12, 8)
    assert record.arrived_seconds == 1767225600
    assert record.sampling == {"temperature": 0.7, "max_tokens": 9}
    assert not record.is_repeatable


def test_content_in_parts_and_tool_calls_are_text(tmp_path):
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "u"}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    (record,), _ = read(tmp_path, {"messages": [{"role": "user", "content": parts}, call]})
    assert record.messages[0][1].startswith("look\n{")
    assert '"name":"f"' in record.messages[1][1]


@pytest.mark.parametrize(
    "line",
    [
        LITELLM,
        {"standard_logging_object": LITELLM},
        LITELLM | {"messages": json.dumps(LITELLM["messages"]), "startTime": "2026-01-01T00:00:00Z"},
    ],
)
def test_litellm(tmp_path, line):
    (record,), _ = read(tmp_path, line)
    assert record.messages[1] == ("user", "Hello")
    assert record.total_seconds == pytest.approx(2.5)
    assert record.ttft_seconds == pytest.approx(0.5)
    assert record.sampling == {"temperature": 0.2}


def test_litellm_without_messages_says_what_to_set(tmp_path):
    with pytest.raises(LogError, match="store_prompts_in_spend_logs"):
        read(tmp_path, LITELLM | {"messages": {}})


def test_vllm_between_its_other_lines(tmp_path):
    other = "INFO 02-13 11:33:39 [loggers.py:257] Engine 000: Avg prompt throughput: 0.8 tokens/s (vllm)"
    (record,), reading = read(tmp_path, other, VLLM, other)
    assert record.prompt == "<|im_start|>user\nIt's 你<|im_end|>"
    assert record.sampling == {"temperature": 0.7, "max_tokens": 100}
    assert record.prompt_tokens == 3
    assert reading.damaged == 0


def test_vllm_without_prompts_says_what_to_set(tmp_path):
    with pytest.raises(LogError, match="VLLM_LOGGING_LEVEL=DEBUG"):
        read(tmp_path, VLLM.replace("prompt: ", "").replace("prompt_token_ids", "x"))


def test_mooncake_lmcache_and_gzip(tmp_path):
    (record,), _ = read(tmp_path, MOONCAKE, name="a.gz")
    assert (record.arrived_seconds, record.block_ids, record.block_tokens) == (27.482, [0, 46, 47], 512)
    (record,), _ = read(tmp_path, LMCACHE)
    assert (record.prompt, record.answer, record.session) == ("Fix this", "ls", "abc")
    assert record.arrived_seconds == pytest.approx(1760428221.546, abs=0.01)


def test_tables(tmp_path):
    records, _ = read(
        tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46.6805900,374,44"
    )
    assert (records[0].prompt_tokens, records[0].completion_tokens) == (374, 44)
    assert records[0].arrived_seconds == pytest.approx(1700158546.68)
    records, reading = read(tmp_path, "text,category", '"one, and', 'two",a', "three,b")
    assert [record.question for record in records] == ["one, and\ntwo", "three"]
    assert reading.damaged == 0


def test_documents_conversations_and_bare_questions(tmp_path):
    records, _ = read(tmp_path, {"train": [["how are you", "greeting"], ["bye", "end"]]})
    assert [record.question for record in records] == ["how are you", "bye"]
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    records, _ = read(tmp_path, {"task_id": 3, "traj": [*turns, {"role": "assistant", "content": "d"}]})
    assert [len(record.messages) for record in records] == [1, 3]
    assert {record.session for record in records} == {"3"}
    records, _ = read(tmp_path, json.dumps([CHAT, CHAT], indent=1))
    assert len(records) == 2


PROMPTS = [
    {"user": "Where is order 7?", "system": "Be brief.", "session": "s", "tenant": "t", "principal": "ann"},
    {"user": "And now?", "entities": ["order 7"], "tools": [{"name": "f"}], "ttl": "2h", "adapter": "own"},
    {"messages": [{"role": "user", "content": "Hi"}], "tenant": "t", "principal": "ann", "session": "s"},
    {"prompt": "<|im_start|>user"},
    "Only a text",
]


def test_a_file_of_prompts_is_read_as_the_commands_that_answer_it_do(tmp_path):
    records, reading = read(tmp_path, *(json.dumps(line) for line in PROMPTS))
    answered = [named.request for named in from_file(tmp_path / "log", Request(), None)]
    assert reading.damaged == 0
    for record, request in zip(records, answered, strict=True):
        assert record.messages == tuple((m.role, m.content) for m in request.messages)
        assert (record.prompt, record.session) == (request.prompt, request.session)
        assert (record.tenant, record.principal) == (request.tenant, request.principal)
    assert records[0].system == "Be brief."
    assert (records[1].entities, records[1].model, records[1].ttl_seconds) == (("order 7",), "own", 7200.0)
    assert [json.loads(tool) for tool in records[1].tools] == [{"name": "f"}]
    assert reading.formats["prompts file"] == 2


def test_a_line_of_a_prompts_file_that_means_nothing_is_damaged(tmp_path):
    lines = [{"user": "Hello"}, {"user": "Hello", "ttl": "soon"}, {"user": 5}]
    records, reading = read(tmp_path, *map(json.dumps, lines))
    assert len(records) == 1
    assert reading.damaged == 2
    assert "`ttl`" in reading.examples[0]


def test_who_asks_is_no_question_where_there_is_one(tmp_path):
    (record,), _ = read(tmp_path, json.dumps({"user": "bob", "question": "Where is my order?"}))
    assert record.question == "Where is my order?"


def test_damaged_lines_are_counted_and_shown(tmp_path):
    cut = json.dumps(CHAT)[:30]
    records, reading = read(tmp_path, CHAT, cut, "", {"a": 1}, {"messages": []}, CHAT)
    assert len(records) == 2
    assert reading.damaged == 3
    assert ":2: not JSON" in reading.examples[0]


def test_a_gzip_file_without_its_end_gives_what_came_before(tmp_path):
    path = tmp_path / "cut.gz"
    lines = "".join(json.dumps(CHAT | {"n": i}) + "\n" for i in range(5_000)).encode()
    path.write_bytes(gzip.compress(lines)[:-200])
    reading = Reading()
    assert len(list(read_logs([path], reading))) > 100
    assert "ends early" in reading.examples[-1]


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(LogError, match="Known are our request log"):
        read(tmp_path, "hello", "world")
    with pytest.raises(LogError, match="can't be read"):
        list(read_logs([tmp_path / "missing"], Reading()))
