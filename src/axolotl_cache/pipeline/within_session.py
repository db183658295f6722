"""Whether the answer to an earlier question of a session is still right for one that means the same.

Between the two lie the first answer and perhaps more turns. What is compared is the message itself, with the
names of entities in the place of what points back to them. What was said since may only be questions, as all
else may have changed what the answer told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.namespace import Namespace
from axolotl_cache.pipeline.topic import Topic
from axolotl_cache.request import Message, Request
from axolotl_cache.response import Entry
from axolotl_cache.response.semantic.asked import Asked
from axolotl_cache.response.semantic.context import stands_alone
from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.guards import Veto
from axolotl_cache.response.semantic.lexicon import lexicon
from axolotl_cache.response.semantic.tier import SemanticTier, partition_of

KEY: Final = "in_session"
"""Where in a stored question lies what it was within its session."""
UNSURE: Final = "it points back to one of several, and it can't be told to which"
NO_QUESTION: Final = "about an entity, a session answers only questions again, and this is none that is known"
LEANS: Final = "without what was said before it can't be told what is asked"
_AUXILIARY: Final = frozenset({"is", "are", "was", "were", "has", "have", "had", "do", "does", "did"})
_ASKING: Final = _AUXILIARY - {"do"} | {"what", "when", "where", "who", "whose", "which", "how", "why"}
_ASKED_TO_ACT: Final = frozenset({"you", "your", "yourself", "let", "us", "if", "about"})
_CHINESE_TO_ACT: Final = re.compile("[你您帮请把吧]|能不能|可不可以|可以|能否|可否")
_HAN: Final = re.compile("[\u4e00-\u9fff]")
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+(?:\.(?=\d)[^.!?。！？\n]*)*[.!?。！？]*")
_CLAUSE: Final = re.compile("[,;:，；：—]")
_ENDS: Final = ".!?。！？ "
_COURTESY: Final = frozenset(
    {"", "please", "thanks", "thank you", "hi", "hello", "谢谢", "多谢", "你好", "您好"}
)


@dataclass(frozen=True, slots=True)
class WithinSession:
    """A question as it is looked up and stored within its session."""

    asked: Asked
    topic: Topic

    def to_value(self) -> dict[str, Any]:
        """Return what is stored beside the answer: JSON, and of what was said before digests only."""
        said = [_digest(message) for message in self.topic.said]
        return {**self.asked.to_value(), "said": said, "records": list(self.topic.records)}

    def guard(self, entry: Entry | None) -> Veto | None:
        """Return why a stored answer of this session is not right any more, or None if it is.

        Args:
            entry: the answer; None if it has gone.
        """
        stored = stored_in_session(entry)
        if entry is None or stored is None:
            return Veto("session", "", "an answer that has gone")
        if set(stored["records"]) - set(self.topic.records):
            return Veto("session", "", "a record that has changed since")
        said, now = list(stored["said"]), self.topic.said
        before = len(said) - 1
        if [_digest(message) for message in now[:before]] != said[:before]:
            return Veto("session", "", "another conversation")
        if len(now) == len(said):
            return None  # the same question at the same place, in other words
        answer = _digest(Message("assistant", str(entry.value["text"])))
        if [_digest(message) for message in now[before : before + 2]] != [said[-1], answer]:
            return Veto("session", "", "another conversation")
        since = (message for message in now[before + 2 : -1] if message.role == "user")
        changing = next((text for text in map(_may_change_facts, since) if text), "")
        return Veto("session", changing, "") if changing else None


def within_session(
    topic: Topic, request: Request, namespace: Namespace, tier: SemanticTier, leave_out: Iterable[str]
) -> WithinSession | str:
    """Return a question about entities as its session compares it, or why it does not.

    Args:
        topic: what it is about.
        request: as it is answered.
        namespace: of the model that would answer it, and of its tenant.
        tier: what compares.
        leave_out: sampling settings that do not matter.
    """
    if topic.is_unsure:
        return UNSURE
    facts = facts_of(topic.text)
    if not _is_question(facts):
        return NO_QUESTION
    if not _says_all(facts, topic):
        return LEANS
    ignored = set(leave_out)
    sampling = {name: value for name, value in request.sampling.canonical().items() if name not in ignored}
    partition = partition_of(
        within="session",
        namespace=namespace.digest,
        request_namespace=request.cache_control.namespace,
        session=[topic.session.tenant, topic.session.principal, topic.session.id],
        system=topic.system,
        sampling=sorted(sampling.items(), key=lambda item: item[0]),
        entities=entities_of(topic),
        embedder=tier.embedder.name,
    )
    return WithinSession(tier.asked(partition, [{"role": "user", "content": topic.text}]), topic)


def entities_of(topic: Topic) -> list[tuple[str, str, str]]:
    """Return what must be equal of the entities that two questions are about, their records included."""
    return list(topic.entities)


def stored_in_session(entry: Entry | None) -> Mapping[str, Any] | None:
    """Return what `WithinSession.to_value` stored beside an answer; None if it did not."""
    asked = entry.value.get("asked") if entry is not None and isinstance(entry.value, dict) else None
    stored = asked.get(KEY) if isinstance(asked, dict) else None
    return stored if isinstance(stored, dict) else None


def _is_question(facts: Facts) -> bool:
    """Return whether a text asks for information, and for nothing to be done."""
    if _HAN.search(facts.text):
        return facts.kind not in {"", "yes_no"} and _CHINESE_TO_ACT.search(facts.text) is None
    return bool(facts.plain) and facts.plain[0] in _ASKING and not _ASKED_TO_ACT & set(facts.plain)


def _says_all(facts: Facts, topic: Topic) -> bool:
    """Return whether a text, pointers to entities spelled out, needs nothing that was said before."""
    if stands_alone(facts):
        return True
    if set(facts.plain) & (lexicon().pointing - {"now"}):
        return False
    # "Where is order 67890?" says all; "why order 67890?", made of "why is that?", leans on the last answer.
    kinds = {word for name, *_ in topic.entities for word in facts_of(name).content}
    is_as_said = topic.text == topic.said[-1].content
    return bool(set(facts.content) - kinds) or (facts.kind == "where" and is_as_said)


def _may_change_facts(message: Message) -> str:
    """Return the first sentence of a user's message that is no mere question; empty if there is none."""
    for sentence in _SENTENCE.findall(message.content):
        parts = [part.strip() for part in _CLAUSE.split(sentence)]
        parts = [part for part in parts if part.rstrip(_ENDS).casefold() not in _COURTESY]
        if len(parts) > 1 or (parts and not _asks_and_ends(parts[0])):
            return str(sentence).strip()
    return ""


def _asks_and_ends(text: str) -> bool:
    """Return whether a text is a question, and not what only begins like one: "when it comes, send it"."""
    facts = facts_of(text)
    is_whole = text.endswith(("?", "？")) or bool(_AUXILIARY & set(facts.plain[1:2]))
    return is_whole and _is_question(facts)


def _digest(message: Message) -> str:
    told = f"{message.role}\n{message.content.strip()}".encode("utf-8", "surrogatepass")
    return blake2b(told, digest_size=16, person=b"axc-said").hexdigest()
