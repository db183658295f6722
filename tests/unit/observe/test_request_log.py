"""The request log: what stands in it, what never does, and that no request waits for it."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import StoreError
from axolotl_cache.namespace import Namespace
from axolotl_cache.observe import Call, Failure, Observer, RequestLog
from axolotl_cache.observe.block_hashes import chain_of_text, chain_of_tokens, read_or_make_secret
from axolotl_cache.observe.request_log import Cutter
from axolotl_cache.request import Answer, Message, Miss, Request, Sampling, Served, TtlDecision, Usage

PAGE = Path(__file__).resolve().parents[3] / "docs" / "request-log.md"
START = 1_700_000_000.0
NAMESPACE = Namespace("w", "a", "t", "c", "bfloat16")
SECRET_TEXT = "my account is 4711-0815"


def cutter(block_size=4) -> Cutter:
    def tokens(request: Request) -> list[int]:
        return list("".join(m.content for m in request.messages).encode())

    return Cutter(tokens, lambda request: NAMESPACE.for_tenant(request.tenant), block_size)


def asked(text=SECRET_TEXT, **more) -> Request:
    return Request(messages=(Message("user", text),), sampling=Sampling(stop=("private stop",)), **more)


ANSWER = Answer(
    "the answer's own words", "stop", Served.HIT_PREFIX, Usage(23, 8, 5), 0.2, 1.0, key="k",
    ttl=TtlDecision(1800.0, "dynamic", "default"), response_miss=Miss("never seen"),
    prefix_miss=Miss("differs", 9, "another's text", "this text"),
)  # fmt: skip


def written(path: Path, requests, **options) -> list[dict]:
    log = RequestLog(path, secret=b"k" * 32, **({"cutter": cutter()} | options))
    observer = Observer(log=log, clock=ManualClock(START))
    for n, request in enumerate(requests):
        observer.finished(
            request, ANSWER, Call(f"r{n}", START, "/v1/chat/completions", "m", queue_seconds=0.1)
        )
    observer.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_documented_fields_and_no_other(tmp_path):
    page = PAGE.read_text()
    table = page[page.index("## A line") :]
    documented = {
        name
        for row in re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    tools = ({"type": "function", "function": {"name": "find"}},)
    start, line = written(tmp_path / "log", [asked(tools=tools)], with_text=True)
    (_, plain) = written(tmp_path / "plain", [Request(prompt="just text")], with_text=True, cutter=None)
    assert set(line) | set(plain) == documented
    assert start == {"v": 1, "event": "start", "time": start["time"], "settings": {"block_size": 4}}
    assert line["ttft_seconds"] == pytest.approx(0.3)
    assert line["prefix_miss"] == {"reason": "differs", "first_difference_tokens": 9}
    assert line["namespace"] == NAMESPACE.digest
    assert line["sampling"]["stop"] == 1


def test_by_default_no_text_is_written(tmp_path):
    written(tmp_path / "log", [asked(tenant="t")])
    content = (tmp_path / "log").read_text()
    for secret in (SECRET_TEXT, "4711", "own words", "another's text", "private stop"):
        assert secret not in content
    written(tmp_path / "told", [asked()], with_text=True)
    assert SECRET_TEXT in (tmp_path / "told").read_text(), (
        "with text it is there: the check above looks right"
    )


def test_the_file_is_the_users_alone(tmp_path):
    (tmp_path / "log").write_text("")
    (tmp_path / "log").chmod(0o644)
    written(tmp_path / "log", [asked()])
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_prompts_that_begin_alike_have_hashes_that_begin_alike(tmp_path):
    texts = ["aaaabbbbcccc1", "aaaabbbbdddd1", "xaaabbbbcccc1", "aaaabbbbcccc2"]
    one, other, shifted, tail = (line["blocks"] for line in written(tmp_path / "log", map(asked, texts))[1:])
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert not set(one) & set(shifted), "a block's hash says what stands before it, too"
    assert one == tail
    lines = written(tmp_path / "again", map(asked, texts))[1:]
    assert lines[0]["tail"] != lines[3]["tail"]
    assert lines[0]["blocks"] == one, "equal between runs"


def test_who_has_only_the_log_cant_try_out_texts():
    here, elsewhere = chain_of_text("yes", secret=b"a" * 32), chain_of_text("yes", secret=b"b" * 32)
    assert here != elsewhere
    assert chain_of_tokens([], block_size=4, secret=b"a").blocks == ()


def test_the_secret_is_made_once_and_is_the_users_alone(tmp_path):
    file = tmp_path / "home" / "key"
    first = read_or_make_secret(file)
    assert read_or_make_secret(file) == first
    assert len(first) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(b"short")
    with pytest.raises(StoreError, match="delete it"):
        read_or_make_secret(file)


def test_namespaces_are_spelt_out_once(tmp_path):
    lines = written(tmp_path / "log", [asked(), asked(), asked(tenant="t"), asked(tenant="t")])[1:]
    assert [("namespace_parts" in line) for line in lines] == [True, False, True, False]
    assert lines[2]["namespace_parts"]["tenant"] == "t"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path):
    path = tmp_path / "log"
    log = RequestLog(path, cutter=cutter(), secret=b"k")
    observer = Observer(log=log, clock=ManualClock(START))
    observer.finished(asked(), ANSWER, Call("a", START))
    while not path.read_text():
        pass
    path.rename(tmp_path / "log.1")
    observer.finished(asked(), ANSWER, Call("b", START))
    observer.close()
    moved, new = ((tmp_path / name).read_text().splitlines() for name in ("log.1", "log"))
    assert [json.loads(line).get("id") for line in moved] == [None, "a"]
    assert [json.loads(line).get("id") for line in new] == [None, "b"]


def test_a_disk_that_refuses_costs_lines_and_no_request(tmp_path, monkeypatch):
    said = []
    log = RequestLog(tmp_path / "log", cutter=cutter(), secret=b"k", report=said.append)
    observer = Observer(log=log, clock=ManualClock(START))
    real = os.write
    monkeypatch.setattr(os, "write", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    observer.finished(asked(), ANSWER, Call("a", START))
    while not said:
        pass
    monkeypatch.setattr(os, "write", real)
    observer.finished(asked(), ANSWER, Call("b", START))
    observer.close()
    assert log.dropped == 1
    assert "No space left" in said[0]
    assert said[1] == "the request log is written again"
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["id"] == "b"


def test_half_a_line_spoils_no_other(tmp_path, monkeypatch):
    said = []
    log = RequestLog(tmp_path / "log", cutter=cutter(), secret=b"k", report=said.append)
    observer = Observer(log=log, clock=ManualClock(START))
    real, calls = os.write, []

    def half(file, content):
        calls.append(1)
        if len(calls) == 1:
            return real(file, content[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    observer.finished(asked(), ANSWER, Call("a", START))
    while not said:
        pass
    monkeypatch.setattr(os, "write", real)
    observer.finished(asked(), ANSWER, Call("b", START))
    observer.close()
    torn, start, line = (tmp_path / "log").read_text().splitlines()
    assert len(torn) == 50
    assert json.loads(start)["event"] == "start"
    assert json.loads(line)["id"] == "b"


def test_what_got_no_answer_is_logged_too(tmp_path):
    log = RequestLog(tmp_path / "log", cutter=cutter(), secret=b"k")
    observer = Observer(log=log, clock=ManualClock(START + 2))
    observer.failed(Failure.DEADLINE, Call("a", START), request=asked())
    observer.failed(Failure.INVALID, Call("b", START), tenant="t")
    observer.close()
    late, wrong = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()][1:]
    assert (late["status"], late["served"], late["total_seconds"]) == ("deadline", None, 2.0)
    assert late["blocks"]
    assert (wrong["status"], wrong["tenant"]) == ("invalid", "t")


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(StoreError, match="another file"):
        RequestLog(tmp_path / "no" / "log", secret=b"k")


def test_half_characters_do_not_stop_the_log(tmp_path):
    assert len(written(tmp_path / "log", [Request(prompt="\ud800")], with_text=True, cutter=None)) == 2
