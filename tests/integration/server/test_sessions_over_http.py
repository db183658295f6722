"""Headers that name a session, and that what takes its time is never done on the event loop."""

import threading
from types import SimpleNamespace

import openai
import pytest

from axolotl_cache.errors import RequestError
from axolotl_cache.session import SessionName


def ask(client, text, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = client.chat.completions.with_raw_response.create(
        model="small",
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=8,
        extra_headers=named,
    )
    return raw.headers["x-cache"]


def test_a_session_is_its_principals(served, client):
    sessions = served.pipeline.session.sessions
    assert ask(client, "Where is it?", X_Session_Id="talk", X_Principal="ann") == "miss"
    assert ask(client, "Where is it?", X_Session_Id="talk", X_Principal="ann") == "hit-exact"
    assert ask(client, "Where is it?", X_Session_Id="talk", X_Principal="ben") != "hit-exact"
    ask(client, "Where is it?")
    turns = {session.name: session.turns for session in sessions}
    assert turns == {SessionName("", "ann", "talk"): 2, SessionName("", "ben", "talk"): 1}
    assert not any(session.lease.users for session in sessions)


def test_sessions_and_other_words_are_looked_up_beside_the_event_loop(served, client, monkeypatch):
    pipeline, threads = served.pipeline, {}
    begin, join = pipeline.begin, pipeline.session.join

    def note(name):
        threads[name] = threading.current_thread()

    def find(*_):
        note("find")
        raise RequestError("as far as this goes")

    monkeypatch.setattr(pipeline, "begin", lambda *given: (note("begin"), begin(*given))[1])
    monkeypatch.setattr(pipeline.session, "join", lambda *given: (note("join"), join(*given))[1])
    monkeypatch.setattr(pipeline, "semantic", SimpleNamespace(enabled=True, find=find, close=lambda: None))
    with pytest.raises(openai.BadRequestError, match="as far as this goes"):
        ask(client, "In other words?", X_Session_Id="beside")
    assert threads["join"] is threads["find"] is not threads["begin"]
