"""Conversations: whether the last message stands alone, and whether what was said before is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axolotl_cache.response.semantic.facts.extract import facts_of
from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.facts.residue import residue_of
from axolotl_cache.response.semantic.guards import check
from axolotl_cache.response.semantic.guards.veto import Veto
from axolotl_cache.response.semantic.lexicon import lexicon

STANDALONE_WORDS = 3
"""Content words that a message needs to mean something without what was said before."""
ALIGNED = 0.5
"""Share of words from which two sentences are one sentence in two versions."""
MOST = 0.8
"""Share of the shorter history's sentences that leaves no room for another one."""
SAME_CONVERSATION = 0.4
"""Share of the shorter history's sentences in the other, from which both are versions of one conversation."""
CONTEXT_FEATURES = (
    "standalone",
    "same_and_clean",
    "same_and_contained",
    "same_and_changed",
    "same_and_other_question",
    "reworded_and_no_typed_difference",
    "reworded_vocabulary",
    "reworded_users_cosine",
    "reworded_reply_cosine",
)
"""Their names, in order. A pair of histories is of one of three sorts, and each feature speaks of one only:
the last message stands alone; versions of the same conversation; told in other words."""
_SENTENCE = re.compile(r"[^.!?。！？\n;；]+(?:[.!?。！？;；]+(?=\d)[^.!?。！？\n;；]*)*[.!?。！？;；]*")
_TYPED = ("numbers", "amounts", "dates", "ids", "entities")


@dataclass(frozen=True, slots=True)
class Context:
    """A conversation, ready to be compared."""

    last: Facts
    """Of the last message, the user's."""
    users: tuple[Facts, ...]
    """Of the sentences of the user's messages before it."""
    answers: tuple[Facts, ...]
    """Of the assistant's sentences."""
    reply: tuple[Facts, ...]
    """Of the sentences of the assistant's last message, to which the last one replies."""

    @property
    def standalone(self) -> bool:
        """Whether the last message says all that its answer needs."""
        return not (self.users or self.answers) or stands_alone(self.last)

    @property
    def proposal(self) -> tuple[Facts, ...]:
        """The questions of the assistant's last message, or its last sentence if it asks none."""
        asked = tuple(f for f in self.reply if f.text.rstrip().endswith(("?", "？")))
        return asked or self.reply[-1:]

    def said(self) -> str:
        """Return the text of the user's messages before the last, newest last, at most 2,000 characters."""
        return " ".join(facts.text for facts in self.users)[-2000:]

    def asked_back(self) -> str:
        """Return the assistant's last message, to which the user's last one replies."""
        return " ".join(facts.text for facts in self.reply)


def context_of(messages: Sequence[Mapping[str, str]]) -> Context:
    """Return a conversation as it is compared. Cost: linear in its turns; the facts of turns seen are kept.

    Args:
        messages: `role` and `content` each; the last is the user's. System messages are left out:
            conversations with different ones are never compared.

    Raises:
        ValueError: there is no message, or the last is not the user's.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("a conversation ends with the user's message that is to be answered")
    said: dict[str, list[Facts]] = {"user": [], "assistant": [], "system": []}
    reply: tuple[Facts, ...] = ()
    for message in messages[:-1]:
        sentences = tuple(facts_of(text) for text in _SENTENCE.findall(message["content"]) if text.strip())
        said.setdefault(message["role"], []).extend(sentences)
        if message["role"] == "assistant":
            reply = sentences
    return Context(facts_of(messages[-1]["content"]), tuple(said["user"]), tuple(said["assistant"]), reply)


def stands_alone(facts: Facts) -> bool:
    """Return whether a message needs nothing that was said before: no "it", no "yes", no bare "the fee"."""
    if any(start == 0 for start, _, _ in lexicon().opens_dependent.find(facts.tokens)):
        return False
    words = [word for word in facts.plain if word in lexicon().pointing]
    return not words and len(set(facts.content)) >= STANDALONE_WORDS


def context_features(
    a: Context, b: Context, reply_cosine: float, users_cosine: float
) -> npt.NDArray[np.float64]:
    """Return the features of two histories, (len(CONTEXT_FEATURES),). Symmetric.

    Cost: 1 us a pair of sentences that differ.

    Args:
        a: one conversation.
        b: the other.
        reply_cosine: of `asked_back`, -1 to 1.
        users_cosine: of `said`.
    """
    changed = any(_changed(x, y) for x, y in _versions(a.users, b.users) + _versions(a.answers, b.answers))
    contained = _contained(a.users + a.answers, b.users + b.answers)
    typed = any(_both_sides(a, b, kind) for kind in _TYPED)
    same = contained >= SAME_CONVERSATION
    # In two versions of one conversation a detail that was changed may matter to any message.
    alone = a.standalone and b.standalone and not (same and changed)
    other_question = _other_question(a, b)
    clean = same and not changed and not typed
    told = not alone and not same
    words_a, words_b = _vocabulary(a), _vocabulary(b)
    vocabulary = residue_of(words_a, words_b).partners / max(min(len(words_a), len(words_b)), 1)
    return np.array(
        [
            float(alone),
            float(not alone and clean and not other_question and contained >= MOST),
            float(not alone and clean) * contained,
            float(not alone and same and not clean),
            float(not alone and same and other_question),
            float(told and not typed),
            told * vocabulary,
            told * users_cosine,
            told * reply_cosine,
        ]
    )


def compares_histories(a: Context, b: Context) -> bool:
    """Return whether `context_features` looks at the two cosines: histories in other words. Symmetric."""
    return not (a.standalone and b.standalone) and (
        _contained(a.users + a.answers, b.users + b.answers) < SAME_CONVERSATION
    )


def check_context(a: Context, b: Context) -> Veto | None:
    """Return why one conversation's answer must not be served for the other, or None.

    The last messages must pass the guards. If one of them leans on its history, both must have one.
    """
    found = check(a.last, b.last)
    if found is not None or (a.standalone and b.standalone):
        return found
    if bool(a.answers) != bool(b.answers):
        return Veto("context", "a history" if a.answers else "", "a history" if b.answers else "")
    return None


def _contained(left: Sequence[Facts], right: Sequence[Facts]) -> float:
    """Return the share of the shorter history's sentences that stand in the other, word by word."""
    texts_a, texts_b = ({f.plain for f in side if f.plain} for side in (left, right))
    return len(texts_a & texts_b) / max(min(len(texts_a), len(texts_b)), 1)


def _changed(one: Facts, other: Facts) -> bool:
    """Return whether two versions of a sentence say two things."""
    left_over = residue_of(one.content, other.content)
    return bool(left_over.a and left_over.b) or check(one, other) is not None


def _other_question(a: Context, b: Context) -> bool:
    """Return whether the assistant asked two questions: each in words that the other has not."""
    left, right = ({w for f in c.proposal for w in f.plain} for c in (a, b))
    return bool(left - right) and bool(right - left)


def _versions(left: Sequence[Facts], right: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """Return the sentences of which the other history has another version: many of the words, and not all."""
    mine, theirs = {f.plain for f in left}, {f.plain for f in right}
    others = [f for f in right if f.plain and f.plain not in mine]
    found = []
    for one in left:
        if one.plain and one.plain not in theirs and others:
            best = max(others, key=lambda f: _overlap(one.plain, f.plain))
            if _overlap(one.plain, best.plain) >= ALIGNED:
                found.append((one, best))
    return found


def _overlap(left: tuple[str, ...], right: tuple[str, ...]) -> float:
    a, b = set(left), set(right)
    return len(a & b) / max(1, len(a | b))


def _both_sides(a: Context, b: Context, kind: str) -> bool:
    """Return whether each history has a fact of this kind that the other has not."""
    left, right = (
        frozenset(fact for facts in (*c.users, *c.answers) for fact in getattr(facts, kind)) for c in (a, b)
    )
    return bool(left - right) and bool(right - left)


def _vocabulary(context: Context) -> tuple[str, ...]:
    return tuple(sorted({word for facts in (*context.users, *context.answers) for word in facts.content}))
