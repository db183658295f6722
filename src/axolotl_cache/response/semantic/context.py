"""Conversations: whether the last message stands alone, and whether what was said before is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

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
HOLDS = 0.75
"""Share of the shorter one's words from which a sentence is a longer version of another."""
SAME_CONVERSATION = 0.4
"""Share of the shorter history's sentences in the other, from which both are versions of one conversation."""
OTHER_PROPOSAL = 0.5
"""Share of the words of what was proposed from which, standing in each other's place, it is another thing."""
CONTEXT_FEATURES = (
    "standalone",
    "same_and_clean",
    "same_and_contained",
    "same_and_changed",
    "same_and_replaced",
    "same_and_agrees_to_other",
    "reworded_typed_shared",
    "reworded_typed_differs",
    "reworded_without_typed",
    "reworded_vocabulary",
    "reworded_and_agrees_to_other",
    "reworded_users_cosine",
    "reworded_reply_cosine",
)
"""Their names, in order. A pair of histories is of one of three sorts, and each feature speaks of one only:
the last message stands alone; versions of the same conversation; told in other words."""
_SENTENCE = re.compile(r"[^.!?。！？\n;；]+(?:[.!?。！？;；]+(?=\d)[^.!?。！？\n;；]*)*[.!?。！？;；]*")
_TYPED = ("numbers", "amounts", "dates", "ids", "entities")
_IDLE = re.compile(
    r"(?:thanks?|thank you|cheers|sorry|apologies|lovely|great|perfect|brilliant|wonderful|amazing|excellent"
    r"|nice|cool|no (?:problem|worries|rush)|not (?:at all|to worry)|don't worry|of course|good luck|enjoy"
    r"|congrat\w*|happy to|ha(?:ha)*|lol|oh|ah|hi|hello|hey|hiya|(?:good )?(?:morning|afternoon|evening)"
    r"|you're welcome|glad|hope\w*|take your time|understood|got it|that's (?:great|fine|lovely|good|amazing)"
    r"|that's a shame|how can i help|what can i (?:do|help)|fair|phew|anything else)\b"
    r"|谢谢|多谢|感谢|抱歉|不好意思|对不起|没关系|没问题|不客气|好的|你好|您好|太好了|当然|哈哈|祝您?|希望",
    re.IGNORECASE,
)
"""How sentences begin that say nothing of the matter, in English and Chinese."""
_AGREES = frozenset(
    re.findall(
        r"\S+",
        """
        yes yeah yep yup ok okay sure ahead go do it that please fine great good confirm right correct agree
        proceed absolutely definitely perfect 是 是的 好 好的 可以 行 对 嗯 确认 没问题 同意 继续
        """,
    )
)
_BY_PLACE = frozenset(
    {"first", "second", "third", "fourth", "last", "former", "latter"}
    | {"第一", "第二", "第三", "第四", "最后", "前者", "后者"}
)
"""Words that point at one of several by its place."""


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
    both = _aligned(a, b)
    same = both.contained >= SAME_CONVERSATION
    changed = any(_changed(x, y) for x, y in both.versions) or (
        _points_by_place(a, b) and any(x.plain != y.plain for x, y in both.versions)
    )
    # In two versions of one conversation a detail that was changed may matter to any message.
    alone = a.standalone and b.standalone and not (same and (changed or both.replaced))
    same, told = same and not alone, not same and not alone
    agrees = _agrees(a) and _agrees(b)
    reply = _reply_differs(a, b) if agrees else 0.0
    facts_a, facts_b = _typed(a), _typed(b)
    shared, differing = len(facts_a & facts_b), min(len(facts_a - facts_b), len(facts_b - facts_a))
    words_a, words_b = _vocabulary(a), _vocabulary(b)
    vocabulary = residue_of(words_a, words_b).partners / max(min(len(words_a), len(words_b)), 1)
    return np.array(
        [
            float(alone),
            float(same and not changed and not both.replaced),
            same * min(both.contained, 1.0),
            float(same and changed),
            same * both.replaced,
            float(same and agrees and (changed or both.replaced > 0 or reply > 0)),
            told * shared / max(min(len(facts_a), len(facts_b)), 1),
            told * differing / max(len(facts_a | facts_b), 1),
            float(told and not (facts_a and facts_b)),
            told * vocabulary,
            told * reply,
            told * users_cosine,
            told * reply_cosine,
        ]
    )


def compares_histories(a: Context, b: Context) -> bool:
    """Return whether `context_features` looks at the two cosines: histories in other words. Symmetric."""
    return not (a.standalone and b.standalone) and _aligned(a, b).contained < SAME_CONVERSATION


def check_context(a: Context, b: Context) -> Veto | None:
    """Return why one conversation's answer must not be served for the other, or None.

    The last messages must pass the guards. If one of them leans on its history, both must have one. If they
    only agree, they must not agree to two things.
    """
    found = check(a.last, b.last)
    if found is not None or (a.standalone and b.standalone):
        return found
    if bool(a.answers) != bool(b.answers):
        return Veto("context", "a history" if a.answers else "", "a history" if b.answers else "")
    if _agrees(a) and _agrees(b) and _reply_differs(a, b) >= OTHER_PROPOSAL:
        return Veto("context", f"agrees to: {a.asked_back()[-80:]}", f"agrees to: {b.asked_back()[-80:]}")
    return None


@dataclass(frozen=True, slots=True)
class _Alignment:
    """Two histories side by side, sentence by sentence."""

    contained: float
    """Share of the shorter one's sentences that the other has, too, in this or another version."""
    versions: tuple[tuple[Facts, Facts], ...]
    """Sentences that stand in each other's place, and have many words in common."""
    replaced: float
    """Share of the shorter one's sentences in whose place the other says something else altogether."""


def _aligned(a: Context, b: Context) -> _Alignment:
    """Lay two histories side by side: what only one has is left out, what changed places is compared."""
    if [f.text for f in a.users + a.answers] > [f.text for f in b.users + b.answers]:
        a, b = b, a  # so that the order in which they are given does not matter
    equal, versions, replaced = 0, [], 0
    for mine, theirs in ((a.users, b.users), (a.answers, b.answers)):
        left, right = ([f for f in side if f.plain] for side in (mine, theirs))
        texts_a, texts_b = {f.plain for f in left}, {f.plain for f in right}
        equal += len(texts_a & texts_b)
        matcher = SequenceMatcher(None, [f.plain for f in left], [f.plain for f in right], autojunk=False)
        for what, i, i_end, j, j_end in matcher.get_opcodes():
            if what != "replace":
                continue
            rest_a = {f: set(f.plain) for f in left[i:i_end] if f.plain not in texts_b}
            rest_b = {f: set(f.plain) for f in right[j:j_end] if f.plain not in texts_a}
            for one, words in list(rest_a.items()):
                best = max(rest_b, key=lambda f: _overlap(words, rest_b[f]), default=None)
                if best is not None and _is_version(words, rest_b[best]):
                    versions.append((one, best))
                    del rest_a[one], rest_b[best]
            replaced += min(sum(not _is_idle(f) for f in rest) for rest in (rest_a, rest_b))
    shorter = min(len({f.plain for f in (*c.users, *c.answers) if f.plain}) for c in (a, b))
    return _Alignment((equal + len(versions)) / max(shorter, 1), tuple(versions), replaced / max(shorter, 1))


def _is_version(a: set[str], b: set[str]) -> bool:
    """Return whether two sentences are versions of one: most words equal, or the one within the other."""
    within = len(a & b) / max(min(len(a), len(b)), 1)
    return _overlap(a, b) >= ALIGNED or (min(len(a), len(b)) >= 4 and within >= HOLDS)


def _is_idle(facts: Facts) -> bool:
    """Return whether a sentence is courtesy, and says nothing that an answer could depend on."""
    return not any(getattr(facts, kind) for kind in _TYPED) and (
        not facts.content or _IDLE.match(facts.text) is not None
    )


def _changed(one: Facts, other: Facts) -> bool:
    """Return whether two versions of a sentence say two things; that one says more is no change."""
    left_over = residue_of(one.content, other.content)
    if left_over.a and left_over.b:
        return True
    typed = ((getattr(one, kind), getattr(other, kind)) for kind in _TYPED)
    return any(x - y and y - x for x, y in typed) or check(one, other, without=_ONE_SIDED) is not None


_ONE_SIDED = frozenset({"numbers", "amounts", "dates", "ids", "question kind"})
"""Guards that forbid what only one of two questions says: in a history that is a detail more."""


def _agrees(context: Context) -> bool:
    """Return whether the last message only agrees to what the assistant proposed: "yes, do that"."""
    is_question = context.last.kind or context.last.text.rstrip().endswith(("?", "？"))
    return bool(context.reply) and not is_question and set(context.last.content) <= _AGREES


def _points_by_place(a: Context, b: Context) -> bool:
    return bool(_BY_PLACE & set(a.last.tokens)) or bool(_BY_PLACE & set(b.last.tokens))


def _reply_differs(a: Context, b: Context) -> float:
    """Return how much of the assistant's last message stands in each other's place, 0 to 1."""
    left, right = (tuple(dict.fromkeys(w for f in c.reply for w in f.content)) for c in (a, b))
    left_over = residue_of(left, right)
    return min(len(left_over.a), len(left_over.b)) / max(min(len(left), len(right)), 1)


def _overlap(a: set[str], b: set[str]) -> float:
    shared = len(a & b)
    return shared / max(1, len(a) + len(b) - shared)


def _typed(context: Context) -> frozenset[tuple[str, str]]:
    """Return the numbers, amounts, dates, identifiers and names of a history."""
    return frozenset(
        (kind, fact)
        for facts in (*context.users, *context.answers)
        for kind in _TYPED
        for fact in getattr(facts, kind)
    )


def _vocabulary(context: Context) -> tuple[str, ...]:
    return tuple(sorted({word for facts in (*context.users, *context.answers) for word in facts.content}))
