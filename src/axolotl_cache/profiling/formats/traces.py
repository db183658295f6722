"""Public traces: Mooncake's block hashes, LMCache's sessions, tau-bench trajectories, lists of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from axolotl_cache.profiling.formats import values
from axolotl_cache.profiling.record import Record

MOONCAKE_BLOCK_TOKENS: Final = 512
"""Source: Qin et al., Mooncake (FAST 2025), section on the published traces."""
_QUESTION_NAMES: Final = ("text", "question", "query", "prompt", "utterance", "instruction")


def reads_mooncake(line: Mapping[str, Any]) -> bool:
    """Tell whether this is a line of a Mooncake trace."""
    return "hash_ids" in line


def read_mooncake(line: Mapping[str, Any]) -> Record:
    """Return the request of a line, whose last block may be partly filled.

    Raises:
        ValueError: the hashes are no list of whole numbers.
    """
    ids = line["hash_ids"]
    # The first and the last stand for all: looking at each of millions of numbers would double the time.
    if type(ids) is not list or (ids and not (type(ids[0]) is int and type(ids[-1]) is int)):
        raise ValueError("`hash_ids` is no list of whole numbers")
    at = line.get("timestamp")
    return Record(
        # Milliseconds since the trace began: too small to be told by their size.
        arrived_seconds=at / 1000 if isinstance(at, int | float) else None,
        block_ids=ids,
        block_tokens=MOONCAKE_BLOCK_TOKENS,
        prompt_tokens=values.count(line.get("input_length")),
        completion_tokens=values.count(line.get("output_length")),
    )


def reads_lmcache(line: Mapping[str, Any]) -> bool:
    """Tell whether this is a line of an LMCache agent trace."""
    return isinstance(line.get("input"), str) and "session_id" in line


def read_lmcache(line: Mapping[str, Any]) -> Record:
    """Return the request of a line: text in, text out, microseconds."""
    return Record(
        arrived_seconds=values.seconds(line.get("timestamp")),
        prompt=line["input"],
        answer=line.get("output") if isinstance(line.get("output"), str) else None,
        session=values.word(line.get("session_id")),
    )


def reads_trajectory(line: Mapping[str, Any]) -> bool:
    """Tell whether this is a whole conversation, as tau-bench and fine-tuning files have them."""
    return isinstance(line.get("traj"), list) or isinstance(line.get("conversations"), list)


def read_trajectory(line: Mapping[str, Any], number: int) -> Iterator[Record]:
    """Yield one request for each answer in the conversation: what stood before it.

    Raises:
        ValueError: no list of messages.
    """
    found = values.messages(line.get("traj") or _shared_chat(line["conversations"]))
    name = "-".join(values.word(line.get(key)) for key in ("task_id", "trial") if key in line) or str(number)
    for index, (role, text) in enumerate(found):
        if role == "assistant" and index:
            yield Record(messages=found[:index], answer=text, session=name)


def _shared_chat(turns: list[Any]) -> list[Any]:
    """Return a ShareGPT conversation with the roles of OpenAI's."""
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {"role": roles.get(str(turn["from"]), turn["from"]), "content": turn.get("value")}
        if isinstance(turn, Mapping) and "from" in turn
        else turn
        for turn in turns
    ]


def question_of(line: Mapping[str, Any]) -> str | None:
    """Return the text of a line that is a bare question; None if it has none."""
    return next((line[name] for name in _QUESTION_NAMES if isinstance(line.get(name), str)), None)


def read_document(document: Any) -> Iterator[Record]:
    """Yield the texts of one JSON document: lists of texts, or of pairs of text and label, at any depth."""
    if isinstance(document, str):
        yield Record(messages=(("user", document),))
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from read_document(value)
    elif isinstance(document, list):
        pair = len(document) == 2 and all(isinstance(each, str) for each in document)
        for value in document[:1] if pair else document:
            yield from read_document(value)
