"""Questions in other words within a session: what is served, and never about something else or too late."""

import random

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.pipeline import Pipeline, within_session
from axolotl_cache.pipeline.semantic import SHADOW, open_semantic
from axolotl_cache.pipeline.session import SessionStep
from axolotl_cache.pipeline.within_session import LEANS, NO_QUESTION
from axolotl_cache.pipeline.writing import Writing
from axolotl_cache.request import CacheControl, Message, Request, Sampling, Served
from axolotl_cache.server.replies import source_headers
from axolotl_cache.session import Records, Sessions

FIRST = "When does my order 67890 arrive?"
AGAIN = "hi, when does my order 67890 arrive please"
OTHER = "When does my order 11111 arrive?"


class Orders:
    """Everybody may see every order."""

    kinds = ("order",)
    ttl_seconds = 0

    def __init__(self):
        self.expected = {"67890": "Monday", "11111": "Friday"}

    def may_see(self, entity, who):
        return True

    def fetch(self, entity, tenant):
        return {"expected": self.expected[entity.value]}


@pytest.fixture
def make(loaded, engine, bag_of_words, monkeypatch):
    engine.clear()
    said = iter(range(1000))

    def text(self):
        if not hasattr(self, "_told"):
            self._told = f"Answer {next(said)}."
        return self._told

    monkeypatch.setattr(Writing, "text", property(text))
    monkeypatch.setattr(Writing, "finish_reason", "stop")
    made = []

    def make(folder=None, orders=None, **options):
        clock = ManualClock()
        renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        cache = SmartInferenceCache(100, 6000, folder, clock=clock)
        settings = {"max_error_rate": 0.3, "check_share": 0.0} | options
        semantic = open_semantic(cache, embedder=bag_of_words, clock=clock, rng=random.Random(1), **settings)
        records = None if orders is None else Records(orders, clock)
        step = SessionStep(renderer, Sessions(1000, clock), records)
        pipeline = Pipeline(
            engine, renderer, loaded.namespace, cache, semantic=semantic, clock=clock, session=step
        )
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        pipeline.semantic.close()
        pipeline.response.close()


class Talk:
    """A client that sends the whole conversation each time."""

    def __init__(self, pipeline, system="You help.", session="s", principal="ann", **options):
        self.pipeline = pipeline
        self.system = Message("system", system)
        self.options = {"session": session, "principal": principal} | options
        self.said = ()

    def ask(self, text, **options):
        now = (*self.said, Message("user", text))
        given = {"sampling": Sampling(max_new_tokens=2)} | self.options | options
        answer = self.pipeline.answer(Request(messages=(self.system, *now), **given))
        self.said = (*now, Message("assistant", answer.text))
        return answer


def test_a_session_answers_its_own_question_in_other_words(make):
    talk = Talk(make())
    first = talk.ask(FIRST)
    answer = talk.ask(AGAIN)
    assert (answer.served, answer.text) == (Served.HIT_SESSION, first.text)
    assert (answer.match.question, answer.match.key) == (FIRST, first.key)
    assert answer.session.turn == 2
    assert answer.usage.computed_tokens == 0
    assert talk.pipeline.totals.stored_tokens == answer.usage.prompt_tokens
    assert dict(source_headers([answer])) == {b"x-cache": b"hit-session", b"age": b"0"}
    # Served once more behind its own hit, and behind questions about other things.
    assert talk.ask("Hello when does my order 67890 arrive").served is Served.HIT_SESSION
    assert talk.ask(OTHER).served is not Served.HIT_SESSION
    assert talk.ask("Thanks! When does my order 67890 arrive").served is Served.HIT_SESSION


def test_what_points_back_counts_as_what_it_points_to(make):
    talk = Talk(make())
    first = talk.ask(FIRST)
    pointing = talk.ask("When does it arrive?")
    assert (pointing.served, pointing.text) == (Served.HIT_SESSION, first.text)
    other = talk.ask(OTHER)
    assert other.served is not Served.HIT_SESSION
    now_other = talk.ask("When does it arrive?")
    assert (now_other.served, now_other.text) == (Served.HIT_SESSION, other.text)


def other_account(make):
    """Two accounts that the requests name themselves, and no word of the question tells apart."""
    talk = Talk(make())
    talk.ask("What is the present balance?", entities=("account 1111",))
    return talk.ask("what is the present balance please", entities=("account 2222",))


def test_never_about_another_entity(make):
    assert other_account(make).served is not Served.HIT_SESSION


def test_without_the_entities_in_the_partition_another_ones_answer_would_be_served(make, monkeypatch):
    monkeypatch.setattr(within_session, "entities_of", lambda topic: [])
    assert other_account(make).served is Served.HIT_SESSION


@pytest.mark.parametrize(
    "change",
    [
        {"session": "another"},
        {"principal": "ben"},
        {"tenant": "another"},
        {"system": "You are rude."},
        {"sampling": Sampling(max_new_tokens=3)},
        {"cache_control": CacheControl(namespace="another")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_never_across(make, change):
    pipeline = make()
    talk = Talk(pipeline)
    talk.ask(FIRST)
    other = Talk(pipeline, **change)
    other.said = talk.said
    answer = other.ask(AGAIN)
    assert answer.served not in {Served.HIT_SESSION, Served.HIT_SEMANTIC}
    assert talk.ask("Hello when does my order 67890 arrive").served is Served.HIT_SESSION  # the control


@pytest.mark.parametrize("changed", [False, True])
def test_a_record_that_changed_is_no_hit(make, changed):
    orders = Orders()
    talk = Talk(make(orders=orders))
    talk.ask(FIRST)
    talk.ask(OTHER)
    if changed:
        orders.expected["67890"] = "Tuesday"
    answer = talk.ask(AGAIN)
    assert (answer.served is Served.HIT_SESSION) is not changed


def test_another_record_of_its_prompt_that_changed_is_no_hit_either(make):
    orders = Orders()
    talk = Talk(make(orders=orders))
    talk.ask(OTHER)
    talk.ask(FIRST)
    orders.expected["11111"] = "Sunday"
    answer = talk.ask(AGAIN)
    assert answer.served is not Served.HIT_SESSION
    assert "a record that has changed since" in answer.semantic_miss.reason


@pytest.mark.parametrize(
    ("between", "is_served"),
    [
        ("Where is the depot?", True),
        ("Thanks!", True),
        ("Please cancel it.", False),
        ("yes", False),
        ("Can you cancel it?", False),
        ("Why don't you cancel it?", False),
        ("Where is it, I moved to Rome?", False),
        ("I moved. Where is it?", False),
        ("取消订单67890可以吗？", False),
    ],
)
def test_only_questions_may_lie_between(make, between, is_served):
    talk = Talk(make())
    talk.ask(FIRST)
    talk.ask(between)
    answer = talk.ask(AGAIN)
    assert (answer.served is Served.HIT_SESSION) is is_served
    if not is_served:
        assert "the guard for session" in answer.semantic_miss.reason
        assert talk.ask("Hello when does my order 67890 arrive").text == answer.text  # the newer one


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Please cancel order 67890.", NO_QUESTION), ("Why is order 67890 so?", LEANS)],
)
def test_what_is_no_question_or_leans_on_what_was_said_is_computed(make, text, reason):
    talk = Talk(make())
    talk.ask(text)
    answer = talk.ask(f"Hello {text}")
    assert answer.served not in {Served.HIT_SESSION, Served.HIT_SEMANTIC}
    assert answer.semantic_miss.reason == reason


def test_an_edited_answer_is_another_conversation(make):
    talk = Talk(make())
    talk.ask(FIRST)
    talk.said = (talk.said[0], Message("assistant", "It was lost."))
    assert talk.ask(AGAIN).served is not Served.HIT_SESSION
    talk.said = ()
    assert talk.ask(AGAIN).served is Served.HIT_SESSION  # the first turn again, in other words


def test_off_and_shadow_serve_nothing(make):
    talk = Talk(make())
    talk.ask(FIRST)
    talk.pipeline.semantic.enabled = False
    assert talk.ask(AGAIN).served is not Served.HIT_SESSION
    talk.pipeline.semantic.enabled = True
    assert talk.ask("Hello when does my order 67890 arrive").served is Served.HIT_SESSION
    no = talk.ask("hi when does my order 67890 arrive", cache_control=CacheControl(semantic=False))
    assert no.served is not Served.HIT_SESSION
    shadow = Talk(make(mode="shadow"))
    shadow.ask(FIRST)
    assert shadow.ask(AGAIN).semantic_miss.reason == SHADOW


def test_without_semantic_matching_nothing_is_served_by_similarity(make):
    pipeline = make()
    plain = Pipeline(
        pipeline.engine, pipeline.renderer, pipeline.namespace, pipeline.response, session=pipeline.session
    )
    talk = Talk(plain)
    talk.ask(FIRST)
    again = talk.ask(AGAIN)
    assert (again.served in {Served.MISS, Served.HIT_PREFIX}, again.semantic_miss) == (True, None)


def test_a_restart_finds_it_and_an_erasure_leaves_nothing(make, tmp_path):
    talk = Talk(make(tmp_path))
    talk.ask("When does my order QUUX67890 arrive?")
    later = Talk(make(tmp_path))
    later.said = talk.said
    assert later.ask("hi, when does my order QUUX67890 arrive please").served is Served.HIT_SESSION
    assert b"QUUX67890" in _everything(tmp_path)  # the control
    later.pipeline.erase(session="s")
    assert b"QUUX67890" not in _everything(tmp_path)


def _everything(folder):
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
