"""Step 1 of a request's way: whose conversation it is, what it is about, and who may see what is known.

    request -> session -> entities -> may this principal see their records? -> records join the prompt

What comes of it is another request, with the records at their place, and what the later steps need to know:
which parts of the prompt are not everybody's (fences), and under what its keys and values are held (a lease).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.entities import Entity
from axolotl_cache.erasure import ErasureReport, erased_in_all
from axolotl_cache.errors import StoreError
from axolotl_cache.pipeline.topic import Topic, spelled_out
from axolotl_cache.prefix import Fence, Fences, Lease
from axolotl_cache.prefix.agreement import common_length
from axolotl_cache.request import Answer, EntityUse, Message, Request, SessionAccount
from axolotl_cache.session import (
    Records,
    Seen,
    Session,
    SessionName,
    Sessions,
    Sight,
    Who,
    entity_fence,
    entity_of,
)
from axolotl_cache.session.render import last_system, place

MOST_RECORDS: Final = 8
"""Records in one prompt; of further entities none is fetched."""
_HEADS_KEPT: Final = 512
_PROBES: Final = ("A b", "7\n")
_ABOUT: Final = {
    Sight.NO_PROVIDER: "no provider of records: what the conversation itself says of it is what is reused",
    Sight.LEFT_OUT: f"a prompt takes {MOST_RECORDS} records, and others came up before",
}


@dataclass(frozen=True, slots=True)
class _Use:
    entity: Entity
    why: str
    seen: Seen


@dataclass(frozen=True, slots=True)
class Joined:
    """A request behind step 1."""

    request: Request
    uses: tuple[_Use, ...] = ()
    records: tuple[str, ...] = ()
    """Digests of the records in the prompt, in their order."""
    heads: tuple[tuple[int, ...], ...] = ()
    """What every conversation begins with, as tokens: without records, and with one more each time."""
    fence: str = ""
    """Whose the conversation is; empty for everybody's."""
    session: Session | None = None
    turn: int = 0
    unsure: tuple[str, ...] = ()
    topic: Topic | None = None
    """What this turn is about; None without a session, and for a plain prompt."""
    drops: int = 0
    """How many entities this process had dropped when it was joined."""
    began_at: float = 0.0
    """When it was joined, on the clock of the sessions."""

    def lease(self, tokens: Sequence[int]) -> Lease | None:
        """Return what the keys and values of the prompt are to be held under."""
        if self.session is None:
            return None
        self.session.lease.shared_tokens = self._places(tokens)[-1]
        return self.session.lease

    def fences(self, tokens: Sequence[int]) -> Fences:
        """Return where the prompt stops being everybody's. Cost: O(leading tokens up to the conversation)."""
        names = [entity_fence(use.entity.canonical) for use in self._joined]
        places = self._places(tokens)
        fences = [Fence(at, name) for at, name in zip(places, names, strict=False)]
        return (*fences, Fence(places[-1], self.fence)) if self.fence else tuple(fences)

    def account(self, tokens: Sequence[int] | None, cached_tokens: int) -> SessionAccount:
        """Return what session and entities did.

        Args:
            tokens: of the prompt; None where the answer was stored.
            cached_tokens: leading tokens that were not computed.
        """
        places = self._places(tokens) if tokens is not None else [0] * (len(self._joined) + 1)
        sizes = pairwise(places)
        entities = []
        for use in self.uses:
            start, end = next(sizes) if use.seen.sight is Sight.JOINED else (0, 0)
            entities.append(
                EntityUse(
                    use.entity.canonical,
                    use.why,
                    use.seen.sight.value,
                    use.seen.why or _ABOUT.get(use.seen.sight, ""),
                    end - start,
                    max(min(cached_tokens, end) - start, 0),
                )
            )
        total = 0 if tokens is None else len(tokens)
        return SessionAccount(
            "" if self.session is None else self.session.name.id,
            self.turn,
            tuple(entities),
            self.unsure,
            total - places[-1],
            max(cached_tokens - places[-1], 0) if total else 0,
        )

    @property
    def _joined(self) -> list[_Use]:
        return [use for use in self.uses if use.seen.sight is Sight.JOINED]

    def _places(self, tokens: Sequence[int]) -> list[int]:
        """Return where each record begins, and at the end the conversation: the most that can be told.

        What agrees with the prompt as it would be without a record says nothing about the record.
        """
        return [common_length(head, tokens) for head in self.heads] or [0]


_DROPS_KEPT: Final = 1_000


class SessionStep:
    """Joins requests with their sessions and with the records of what they are about. From any thread.

    Args:
        renderer: the model's template and tokenizer.
        sessions: None keeps none: only the records that requests ask for themselves join them.
        records: None has none.
        tracking: whether entities are looked for in what is said.
    """

    def __init__(
        self,
        renderer: PromptRenderer,
        sessions: Sessions | None,
        records: Records | None = None,
        *,
        tracking: bool = True,
    ) -> None:
        self.sessions = sessions
        self.records = records
        self._renderer = renderer
        self._tracking = tracking
        self._heads: OrderedDict[tuple[object, ...], tuple[int, ...]] = OrderedDict()
        self._drops = 0
        self._dropped: OrderedDict[str, int] = OrderedDict()
        """The entities dropped last, and which drop it was."""
        self._lock = threading.Lock()

    def join(self, request: Request, engine: Engine) -> Joined:
        """Return the request with what is known joined to it.

        Cost: reads what is new in the conversation; asks the provider about each entity; a new system message
        or record is rendered and cut into tokens once.

        Args:
            request: as it came.
            engine: where the KV of sessions whose time is over is given up.
        """
        drops, began_at = self._drops, 0.0 if self.sessions is None else self.sessions.now()
        asked = [entity for entity in map(entity_of, request.entities) if entity is not None]
        session, turn = None, 0
        unsure: tuple[str, ...] = ()
        named: list[Entity] = []
        earlier: list[Entity] = []
        meant = request.messages[-1].content if request.messages else ""
        if self.sessions is not None and request.session:
            self._end(self.sessions.take_idle(), engine)
            session = self.sessions.use(SessionName(request.tenant, request.principal, request.session))
            with session.lock:
                session.turns += 1
                turn = session.turns
                if self._tracking and request.messages:
                    found = session.conversation.read(request.messages)
                    named, unsure = list(found.entities), tuple(e.canonical for e in found.candidates)
                    earlier = list(session.conversation.about)
                    meant = spelled_out(meant, found)
        uses = self._uses(request, asked, named, earlier)
        if self.records is not None:
            for name in self.records.take_dropped():
                engine.clear_fenced(entity_fence(name))
        joined = [use for use in uses if use.seen.sight is Sight.JOINED]
        texts = [use.seen.text for use in joined]
        has_failed = any(use.seen.sight is Sight.FAILED for use in uses)
        control = request.cache_control
        messages = place(request.messages, texts)
        heads: tuple[tuple[int, ...], ...] = ()
        if request.messages:
            heads = tuple(self._head(request, texts[:count]) for count in range(len(texts) + 1))
        return Joined(
            replace(
                request,
                messages=messages,
                entities=tuple(dict.fromkeys((*request.entities, *(use.entity.canonical for use in uses)))),
                # What was said because a source failed should not outlast the failure.
                cache_control=replace(control, no_store=True) if has_failed else control,
            ),
            tuple(uses),
            tuple(use.seen.digest for use in joined),
            heads,
            "" if session is None else session.name.fence,
            session,
            turn,
            unsure,
            None if session is None else _topic(session.name, request, uses, meant, is_unsure=bool(unsure)),
            drops,
            began_at,
        )

    def is_dropped(self, joined: Joined) -> bool:
        """Return whether an entity of this request was dropped since it was joined, by any process."""
        return any(True for _ in self._dropped_since(joined))

    def _dropped_since(self, joined: Joined) -> Iterator[str]:
        for use in joined.uses:
            name = use.entity.canonical
            with self._lock:
                is_gone = self._dropped.get(name, 0) > joined.drops
                # What is not remembered any more may have been any.
                is_gone |= self._drops - joined.drops > _DROPS_KEPT
            elsewhere = None if is_gone or self.sessions is None else self.sessions.dropped_at(name)
            if is_gone or (elsewhere is not None and elsewhere >= joined.began_at):
                yield name

    def ended(self, joined: Joined, engine: Engine) -> None:
        """Note that a turn is over: the session's record is written, and what was dropped meanwhile goes."""
        for name in self._dropped_since(joined):
            try:
                engine.clear_fenced(entity_fence(name))
            except StoreError:
                if self.sessions is not None:
                    self.sessions.store_errors += 1
        if self.sessions is not None and joined.session is not None:
            self.sessions.save(joined.session)

    def end(self, id: str, engine: Engine, *, tenant: str | None = None, principal: str | None = None) -> int:
        """End the sessions of this id, and free what they hold; return the bytes of KV freed."""
        return (
            0
            if self.sessions is None
            else self._end(self.sessions.end(id, tenant=tenant, principal=principal), engine)
        )

    def drop(self, entity: Entity, engine: Engine) -> int:
        """Drop what is known of an entity: its records, and the KV of all prompts behind them.

        Returns:
            The records dropped in this process.

        Raises:
            StoreError: other processes could not be told, or KV on a disk not be removed; all else is done.
        """
        with self._lock:
            self._drops += 1
            self._dropped.pop(entity.canonical, None)
            self._dropped[entity.canonical] = self._drops
            while len(self._dropped) > _DROPS_KEPT:
                self._dropped.popitem(last=False)
        dropped = 0 if self.records is None else self.records.drop(entity)
        failed: StoreError | None = None
        if self.sessions is not None:
            try:
                self.sessions.drop_entity(entity.canonical)
            except StoreError as error:
                failed = error
        engine.clear_fenced(entity_fence(entity.canonical))
        if failed is not None:
            raise failed
        return dropped

    def erase(self, engine: Engine, *, tag: str) -> ErasureReport:
        """End the sessions of an owner, and erase their records and the KV of their conversations.

        The KV of a session whose requests had a principal is found by that: of such a session, what lower
        tiers have goes with its user.

        Args:
            engine: where the KV is.
            tag: the owner, as `user:ann`.

        Raises:
            ErasureError: something could not be erased; all else is.
        """
        return erased_in_all([lambda: self._erase_sessions(engine, tag), lambda: engine.erase_fenced(tag)])

    def _erase_sessions(self, engine: Engine, tag: str) -> ErasureReport:
        if self.sessions is None:
            return ErasureReport()
        gone, report = self.sessions.erase(tag=tag)
        self._end(gone, engine)
        return report

    def close(self) -> None:
        """Close what is open."""
        if self.sessions is not None:
            self.sessions.close()

    def _uses(
        self, request: Request, asked: Sequence[Entity], named: Sequence[Entity], earlier: Sequence[Entity]
    ) -> list[_Use]:
        """Return each entity, in the order in which they came up, and what may be seen of it."""
        whys = dict.fromkeys(earlier, "earlier turn") | dict.fromkeys(named, "this turn")
        whys |= dict.fromkeys(asked, "asked for")
        who = Who(request.tenant, request.principal)
        uses: list[_Use] = []
        for entity in dict.fromkeys((*earlier, *named, *asked)):
            joined = sum(use.seen.sight is Sight.JOINED for use in uses)
            if self.records is None:
                seen = Seen(Sight.NO_PROVIDER)
            elif not self.records.has_kind(entity):
                seen = Seen(Sight.NONE)
            elif joined == MOST_RECORDS:
                seen = Seen(Sight.LEFT_OUT)
            elif not request.messages:
                seen = Seen(Sight.LEFT_OUT, why="a plain prompt has no place for a record")
            else:
                seen = self.records.see(entity, who)
            uses.append(_Use(entity, whys[entity], seen))
        return uses

    def _head(self, request: Request, texts: Sequence[str]) -> tuple[int, ...]:
        """Return the tokens that every conversation begins with that has these records."""
        last = last_system(request.messages)
        system = request.messages[: 0 if last is None else last + 1]
        key = (system, tuple(texts), repr(request.tools))
        with self._lock:
            known = self._heads.get(key)
            if known is not None:
                self._heads.move_to_end(key)
                return known
        one, other = (
            self._renderer.tokens(
                self._renderer.render(place((*system, Message("user", word)), texts), tools=request.tools),
                is_plain=False,
            )
            for word in _PROBES
        )
        head = tuple(one[: common_length(one, other)])
        with self._lock:
            self._heads[key] = head
            while len(self._heads) > _HEADS_KEPT:
                self._heads.popitem(last=False)
        return head

    def _end(self, sessions: Sequence[Session], engine: Engine) -> int:
        return sum(engine.end(session.lease) for session in sessions)


def _topic(
    name: SessionName, request: Request, uses: Sequence[_Use], meant: str, *, is_unsure: bool
) -> Topic | None:
    if not request.messages:
        return None
    spoken_of = [use for use in uses if use.why != "earlier turn"]
    entities = {(use.entity.canonical, use.seen.sight.value, use.seen.digest) for use in spoken_of}
    labels = {(label, "", "") for label in request.entities if entity_of(label) is None}
    return Topic(
        name,
        tuple(sorted(entities | labels)),
        tuple(use.seen.digest for use in uses if use.seen.sight is Sight.JOINED),
        request.messages,
        meant,
        is_unsure,
    )


def with_account(answer: Answer, joined: Joined, tokens: Sequence[int] | None) -> Answer:
    """Return an answer that says what its session and entities did."""
    return replace(answer, session=joined.account(tokens, answer.usage.cached_tokens))
