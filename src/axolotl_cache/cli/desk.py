"""Where prompts are answered on standard output: one after another, many at once, or as a conversation."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from axolotl_cache.cli.session import session_json
from axolotl_cache.cli.terminal import say
from axolotl_cache.errors import RequestError
from axolotl_cache.prompts_file import Named, fit, from_text
from axolotl_cache.request import Answer, Delta, Message, Request

if TYPE_CHECKING:
    from axolotl_cache.engine.loader import LoadedModel
    from axolotl_cache.pipeline import Pipeline

_RULE: Final = "=" * 80


class Desk:
    """Answers on standard output, one after another."""

    def __init__(
        self,
        pipeline: Pipeline,
        loaded: LoadedModel,
        template: Request,
        system: str | None,
        *,
        as_json: bool,
    ) -> None:
        self._pipeline = pipeline
        self._loaded = loaded
        self._told: set[Path] = set()
        self.refused = 0
        self._template = template
        self._system = system
        self._as_json = as_json

    def named(self, number: int, text: str) -> Named:
        """Return the request of a text of the command line, and what it is called."""
        return Named(str(number), self._request(text))

    def with_sampling(self, named: Named) -> Named:
        """Return a request of a file with the command line's way of choosing tokens."""
        return Named(named.name, replace(named.request, sampling=self._template.sampling))

    def answer_all(self, requests: Iterable[Named]) -> None:
        """Answer one after another."""
        for named in requests:
            self._answer(named)

    def answer_many(self, requests: list[Named], concurrency: int) -> None:
        """Answer many at once, as objects, in their order."""
        engine = self._pipeline.engine
        with engine.in_background(), ThreadPoolExecutor(concurrency) as threads:
            try:
                for named, outcome in zip(requests, threads.map(self._outcome, requests), strict=True):
                    self._tell_of_changed_files()
                    self._tell(named, outcome)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                engine.cancel_all()
                raise

    def _outcome(self, named: Named) -> Answer | RequestError:
        try:
            return self._pipeline.answer(
                fit(named.request, takes_messages=self._pipeline.renderer.takes_messages)
            )
        except RequestError as error:
            return error

    def _tell(self, named: Named, outcome: Answer | RequestError) -> None:
        if isinstance(outcome, RequestError):
            self._refuse(named, outcome)
        else:
            click.echo(json.dumps(_as_json(named.name, outcome), ensure_ascii=False))

    def terminal(self) -> None:
        """Ask for instructions until an empty one, as Axolotl does."""
        while True:
            click.echo(f"{_RULE}\nGive me an instruction (Ctrl + D to submit, nothing to leave):", err=True)
            text = sys.stdin.read().strip()
            if not text:
                return
            click.echo(_RULE, err=True)
            self._answer(Named("", self._request(text)))

    def chat(self) -> None:
        """Hold a conversation: a line is a turn."""
        if not self._pipeline.renderer.takes_messages:
            raise RequestError("this model has no chat template; --chat needs one (set chat_template)")
        click.echo("A line is a turn; /clear starts over, Ctrl + D leaves.", err=True)
        head = [Message("system", self._system)] if self._system else []
        said: list[Message] = []
        template = self._in_session()
        while True:
            click.echo("> ", nl=False, err=True)
            line = sys.stdin.readline()
            text = line.strip()
            if (not line or text == "/clear") and not self._template.session:
                self._pipeline.end_session(template.session)
            if not line:
                return
            if text == "/clear":
                said, template = [], self._in_session()
            elif text:
                turn = [*said, Message("user", text)]
                answer = self._answer(Named("", replace(template, messages=(*head, *turn))))
                if answer:
                    said = [*turn, Message("assistant", answer.text)]

    def _in_session(self) -> Request:
        """Return the template for a conversation: in the session that was named, or in one of its own."""
        return replace(self._template, session=self._template.session or f"chat-{uuid.uuid4().hex}")

    def _request(self, text: str) -> Request:
        return from_text(text, self._template, self._system)

    def _tell_of_changed_files(self) -> None:
        changed = set(self._loaded.changed_files()) - self._told
        self._told |= changed
        for file in sorted(changed):
            say(f"warning: {file} was changed since it was loaded; start again to use what it holds now")

    def _answer(self, named: Named) -> Answer | None:
        """Answer one request; one that can't be served says why and leaves the others alone."""
        self._tell_of_changed_files()
        try:
            return self._write(named)
        except RequestError as error:
            self._refuse(named, error)
            return None

    def _refuse(self, named: Named, error: RequestError) -> None:
        self.refused += 1
        say(f"request {named.name}: {error}" if named.name else str(error))
        if self._as_json:
            click.echo(json.dumps({"id": named.name, "error": str(error)}, ensure_ascii=False))

    def _write(self, named: Named) -> Answer:
        done: Answer | None = None
        request = fit(named.request, takes_messages=self._pipeline.renderer.takes_messages)
        with closing(self._pipeline.stream(request)) as stream:
            for part in stream:
                if isinstance(part, Delta):
                    if not self._as_json:
                        click.echo(part.text, nl=False)
                        sys.stdout.flush()
                else:
                    done = part
        if done is None:
            raise RuntimeError("the stream ended without an answer")
        click.echo(json.dumps(_as_json(named.name, done), ensure_ascii=False) if self._as_json else "")
        return done


def _as_json(name: str, answer: Answer) -> dict[str, Any]:
    misses = {
        "response": answer.response_miss,
        "semantic": answer.semantic_miss,
        "prefix": answer.prefix_miss,
    }
    return {
        "id": name,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "served": answer.served.value,
        "prompt_tokens": answer.usage.prompt_tokens,
        "cached_tokens": answer.usage.cached_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "ttft_seconds": round(answer.ttft_seconds, 6),
        "total_seconds": round(answer.total_seconds, 6),
        "age_seconds": round(answer.age_seconds, 3),
        "saved": {
            "tokens": answer.saved.tokens,
            "seconds": round(answer.saved.seconds, 6),
            "money": None if answer.saved.money is None else f"{answer.saved.money:f}",
            "currency": answer.saved.currency,
        },
        "key": answer.key,
        "match": answer.match
        and {
            "question": answer.match.question,
            "key": answer.match.key,
            "probability": round(answer.match.probability, 4),
        },
        "ttl": answer.ttl
        and {"seconds": answer.ttl.ttl_seconds, "kind": answer.ttl.kind, "why": answer.ttl.why},
        "misses": {
            tier: {
                "reason": miss.reason,
                "first_difference_tokens": miss.first_difference_tokens,
                "expected_text": miss.expected_text,
                "found_text": miss.found_text,
            }
            for tier, miss in misses.items()
            if miss
        },
        "not_stored": answer.not_stored,
        "session": session_json(answer),
    }
