"""An answer that was reported as wrong is removed, and never stored again; another one may be."""

import os
import subprocess
import sys
import warnings

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import StoreError
from axolotl_cache.response.wrong import FILE_NAME, answer_digest
from axolotl_cache.stores import StoreWarning

CHAT = {
    "id": "a",
    "created": 1,
    "usage": {"prompt_tokens": 5},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "5"}, "finish_reason": "stop"}],
}


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path if request.param == "disk" else None) as made:
        yield made


def test_the_same_answer_is_refused_and_another_taken(cache):
    assert cache.set("q", "wrong") is True
    assert cache.report_wrong("q") is True
    assert "q" not in cache
    assert cache.set("q", "wrong") is False
    assert "q" not in cache
    assert cache.stats().refused_as_wrong == 1
    assert cache.set("another question", "wrong") is True
    assert cache.set("q", "right") is True
    assert cache["q"] == "right"
    assert cache.set("q", "wrong") is False
    assert cache["q"] == "right", "what is refused takes the place of nothing"


def test_a_report_in_the_midst_of_storing_is_not_lost(cache, monkeypatch):
    keep = cache._tiers.keep

    def keep_late(key, record):
        monkeypatch.undo()
        cache.report_wrong("q", "wrong")  # by another thread, say, between the question and the storing
        keep(key, record)

    monkeypatch.setattr(cache._tiers, "keep", keep_late)
    assert cache.set("q", "wrong") is False
    assert "q" not in cache


def test_computing_it_again_gives_it_to_who_asks_and_stores_nothing(cache):
    cache.set("q", "wrong")
    cache.report_wrong("q")
    assert cache.get_or_compute("q", lambda: "wrong") == "wrong"
    assert len(cache) == 0


def test_a_promise_goes_with_it(cache):
    cache.set("q", "wrong")
    assert cache.contains("q")
    cache.report_wrong("q")
    assert cache.get("q") is None


def test_a_promise_that_outlived_its_entry_goes_with_it(tmp_path):
    clock = ManualClock()
    with SmartInferenceCache(10, 1, tmp_path, clock=clock) as cache:
        cache.set("q", "wrong")
        assert cache.contains("q")
        clock.advance(2)
        assert cache.get("q") == "wrong"  # promised
        assert cache.report_wrong("q", "wrong") is False
        assert cache.get("q") is None


def test_what_is_not_there_can_be_reported_by_its_value(cache):
    assert cache.report_wrong("q") is False
    assert cache.report_wrong("q", "wrong") is False
    assert cache.set("q", "wrong") is False
    cache.set("q", "right")
    assert cache.report_wrong("q", "wrong") is False
    assert cache["q"] == "right", "the entry is another answer by now"
    assert cache.report_wrong("q", "right") is True


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (CHAT, CHAT | {"id": "b", "created": 2, "usage": {}}, True),
        (CHAT, CHAT | {"choices": []}, False),
        (
            {"text": "x", "finish_reason": "stop", "seconds": 1.0},
            {"text": "x", "finish_reason": "stop"},
            True,
        ),
        ({"text": "x", "finish_reason": "stop"}, {"text": "y", "finish_reason": "stop"}, False),
        ({"id": 1}, {"id": 2}, False),
        ("1", 1, False),
        ("a", b"a", False),
        (["a"], ["a"], True),
    ],
)
def test_which_answers_are_the_same(one, other, equal):
    assert (answer_digest(one) == answer_digest(other)) == equal


def test_it_is_remembered_across_restarts_and_namespaces_are_apart(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path, namespace="a") as cache:
        cache.set("q", "wrong")
        cache.report_wrong("q")
    with SmartInferenceCache(persistence_path=tmp_path, namespace="a") as cache:
        assert cache.set("q", "wrong") is False
    with SmartInferenceCache(persistence_path=tmp_path, namespace="b") as cache:
        assert cache.set("q", "wrong") is True


def test_the_control_without_the_file_it_is_forgotten(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.set("q", "wrong")
        cache.report_wrong("q")
    (tmp_path / FILE_NAME).unlink()
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        assert cache.set("q", "wrong") is True


def test_another_process_knows_it_with_its_next_call(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.set("q", "wrong")
        code = (
            "import sys; from axolotl_cache import SmartInferenceCache as C\n"
            "with C(persistence_path=sys.argv[1]) as cache: print(cache.report_wrong('q'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
        )
        assert done.stdout == "True\n"
        assert "q" not in cache
        assert cache.set("q", "wrong") is False


def test_a_line_that_was_cut_off_by_a_crash_costs_no_other(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.set("q", "wrong")
        cache.report_wrong("q")
        with (tmp_path / FILE_NAME).open("ab") as file:
            file.write(b"wrong1 0123")
        cache.set("p", "wrong too")
        cache.report_wrong("p")
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        assert [cache.set("q", "wrong"), cache.set("p", "wrong too"), cache.set("r", "wrong")] == [
            False,
            False,
            True,
        ]


def test_the_file_is_its_owners_and_holds_no_text(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.report_wrong("the question", "the answer")
    path = tmp_path / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert "question" not in path.read_text()
    assert "answer" not in path.read_text()


def test_a_memory_that_can_not_be_written_is_said_and_the_answer_goes_all_the_same(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.set("q", "wrong")
        (tmp_path / FILE_NAME).mkdir()
        with pytest.raises(StoreError, match="can't be written"):
            cache.report_wrong("q")
        assert cache.get("q") is None


def test_not_knowing_what_was_reported_it_stores_nothing(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        (tmp_path / FILE_NAME).mkdir()
        with pytest.warns(StoreWarning, match="can't be read"):
            assert cache.set("q", "anything") is False
        assert cache.stats().store_errors == 1


def test_after_a_fork_the_child_goes_on(tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path) as cache:
        cache.set("q", "wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os._exit(0 if cache.report_wrong("q") else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert cache.set("q", "wrong") is False
