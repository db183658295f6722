"""tau-bench's airline conversations, with the records that their agents looked up. Nothing runs a model.

What is left out, and why: the agents' calls of tools and what these returned, as the records of reservations
and users join the prompt instead, and search results would fill a small model's context within few turns; the
list of tools, which the trace does not have. What people and agents said to each other is as recorded.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from typing import Any

from common import TRACES, say
from talks import Talk

NAME = "taubench_gpt4o_airline_dev.jsonl.gz"
SOURCE = (
    "https://github.com/sierra-research/tau-bench, historical_trajectories/gpt-4o-airline.json (MIT), the "
    "tasks below 25, one object {task_id, trial, traj} a line, gzipped"
)
_TOOLS = {"get_reservation_details": ("reservation", "reservation_id"), "get_user_details": ("user", "")}
_STOP = "###STOP###"


def read() -> tuple[list[Talk], dict[tuple[str, str], dict[str, Any]]] | None:
    """Return the conversations in which somebody names a reservation, and the records by (kind, value).

    Conversations of one task are held by several people, who ask about the same reservations. None where the
    trace is missing.
    """
    path = TRACES / NAME
    if not path.exists():
        say(f"SKIPPED: {path} is missing. Put it there, or set AXOLOTL_CACHE_TRACES. It is public: {SOURCE}.")
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        records |= {key: record for key, record in _records(row["traj"]).items() if key not in records}
    reservations = [value for kind, value in records if kind == "reservation"]
    tasks: dict[int, list[Talk]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["task_id"], row["trial"])):
        talk = _talk(row)
        if any(value in text for text in talk.says for value in reservations):
            tasks[row["task_id"]].append(talk)
    # The tasks that most people talk about first: sharing between them is what is asked.
    ordered = sorted(tasks.values(), key=lambda talks: -len(talks))
    return [talk for talks in ordered for talk in talks], records


def _records(messages: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the tools returned of reservations and users, as it was when first looked up."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    calls: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = json.loads(call["function"]["arguments"]).get("user_id", "")
        kind, field = _TOOLS.get(message.get("name") or "", ("", ""))
        if message["role"] != "tool" or not kind:
            continue
        try:
            record = json.loads(message["content"])
        except ValueError:  # an error that the tool told
            continue
        value = record.get(field) if field else calls.get(message.get("tool_call_id", ""))
        if value:
            found.setdefault((kind, value), record)
    return found


def _talk(row: dict[str, Any]) -> Talk:
    said: list[str] = []
    heard: list[str] = []
    for message in row["traj"][1:]:
        text = (message.get("content") or "").replace(_STOP, "").strip()
        if message["role"] == "user" and text:
            said.append(text)
        elif message["role"] == "assistant" and text:
            if len(heard) < len(said):
                heard.append(text)
            elif heard:  # two messages of the agent in a row
                heard[-1] += "\n" + text
    return Talk(f"task-{row['task_id']}-{row['trial']}", row["traj"][0]["content"], tuple(said), tuple(heard))
