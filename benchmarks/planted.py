"""Does the doctor name what was planted? Logs with one cause of misses each, and healthy ones.

`figures(folder)` writes the logs, runs the doctor over each, and counts.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

START_SECONDS = 1_767_225_600.0
RULES = (
    "You are the help desk of a shop that sells bicycles and what belongs to them.",
    "Answer in two sentences, in the language of the customer.",
    "Never promise a delivery date that the tools did not give you.",
    "A return is free within thirty days, and costs nine euros later.",
    "Ask for the order number before you look anything up.",
    "Do not give advice on medical or legal questions.",
    "A frame has a guarantee of ten years, all other parts have two.",
    "Gift cards can't be returned, and can't be paid out.",
    "If you do not know, say so, and hand over to a colleague.",
    "The workshop takes bicycles on weekdays only, by appointment.",
    "Prices include tax; shipping is free from fifty euros on.",
    "Helmets that had a fall must be replaced, not repaired.",
)
TOPICS = (
    "a tyre",
    "a helmet",
    "the left pedal",
    "a chain",
    "a child seat",
    "the battery",
    "a lamp",
    "a lock",
)
ASKS = (
    "How do I return {}?",
    "What does {} cost?",
    "When will {} be delivered?",
    "Is {} under guarantee?",
    "Can your workshop repair {}?",
    "Do you have {} in another colour?",
    "Which size of {} do I need for a bicycle of 28 inches?",
    "I ordered {} on May 20th and it has not come. What now?",
)
NAMES = ("Ada", "Bo", "Chidi", "Dora", "Emre", "Fatima", "Goran", "Hana", "Ines", "Jun", "Kofi", "Lena")
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": f"Use it to {what}.", "parameters": {}}}
    for name, what in (
        ("find_order", "look an order up by its number"),
        ("stock", "see how many of an article there are"),
        ("book_workshop", "make an appointment at the workshop"),
        ("refund", "pay back what a customer paid"),
        ("colleague", "hand the conversation over to a person"),
    )
)


@dataclass
class Asked:
    """One request, before it is written in some log's shape."""

    at: float
    user: str
    system: str
    question: str
    tools: list[dict[str, Any]]
    sampling: dict[str, Any]
    template: str = "chatml"
    namespace: str = "5d0c7a1e"
    ttl_seconds: float = 1800.0
    served: str = ""


def traffic(rng: random.Random, count: int, *, questions: int = 40, gap: float = 3.0) -> list[Asked]:
    """Return healthy traffic: one system prompt, tools in one order, questions of which some are popular."""
    pool = [ask.format(topic) for ask in ASKS for topic in TOPICS]
    rng.shuffle(pool)
    pool = pool[:questions]
    at, found = START_SECONDS, []
    for _ in range(count):
        at += rng.expovariate(1 / gap)
        question = pool[min(int(rng.paretovariate(0.7)) - 1, len(pool) - 1)]
        if rng.random() < 0.25:  # asked once and never again
            question += f" My order number is {rng.randrange(10**5, 10**6)}."
        sampling = {"temperature": 0.0, "max_tokens": 256}
        found.append(Asked(at, rng.choice(NAMES), "\n".join(RULES), question, list(TOOLS), sampling))
    return found


Plant = Callable[[list[Asked], random.Random], None]


def clock(log: list[Asked], rng: random.Random) -> None:
    """The time to the second in the first line."""
    for asked in log:
        now = datetime.fromtimestamp(asked.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        asked.system = f"The current time is {now}.\n{asked.system}"


def tool_order(log: list[Asked], rng: random.Random) -> None:
    """Tools come from a set."""
    for asked in log:
        rng.shuffle(asked.tools)


def template(log: list[Asked], rng: random.Random) -> None:
    """Two servers, two chat templates."""
    for number, asked in enumerate(log):
        asked.template = ("chatml", "llama")[number // 7 % 2]


def blanks(log: list[Asked], rng: random.Random) -> None:
    """A form that keeps what people type behind their question."""
    for asked in log:
        asked.question += rng.choice(("", " ", "\n", "  ", " \n", "\t"))


def request_id(log: list[Asked], rng: random.Random) -> None:
    """An id for tracing, in the prompt."""
    for asked in log:
        asked.system = f"Request {uuid.UUID(int=rng.getrandbits(128), version=4)}\n{asked.system}"


def user_first(log: list[Asked], rng: random.Random) -> None:
    """Who asks, before the rules."""
    for number, asked in enumerate(log):
        asked.user = f"{asked.user} {chr(65 + number % 26)}. {NAMES[number * 7 % len(NAMES)]}son"
        asked.system = f"You are talking to {asked.user}.\n{asked.system}"


def max_tokens(log: list[Asked], rng: random.Random) -> None:
    """A limit that is worked out anew each time."""
    for asked in log:
        asked.sampling["max_tokens"] = rng.randrange(200, 300)


def unseeded(log: list[Asked], rng: random.Random) -> None:
    """The client's default temperature."""
    for asked in log:
        asked.sampling["temperature"] = 0.7


def short_ttl(log: list[Asked], rng: random.Random) -> None:
    """Answers are kept for 20 seconds."""
    for asked in log:
        asked.ttl_seconds = 20.0


def small(log: list[Asked], rng: random.Random) -> None:
    """Nothing in the requests: the cache holds 3 answers (see `serve`)."""


def namespace(log: list[Asked], rng: random.Random) -> None:
    """A build number in cache_version, and a deploy every few minutes."""
    for asked in log:
        asked.namespace = f"{int(asked.at - START_SECONDS) // 120:08x}"


def serve(log: Sequence[Asked], *, entries: int = 2000) -> None:
    """Say what served each request, as a response cache with LRU and a TTL would have."""
    held: dict[str, float] = {}
    for asked in log:
        key = json.dumps([asked.system, asked.question, asked.tools, asked.sampling, asked.namespace])
        repeatable = asked.sampling["temperature"] == 0
        stored_at = held.pop(key, None)
        if stored_at is not None and asked.at - stored_at < asked.ttl_seconds:
            asked.served = "hit-exact"
            held[key] = stored_at
            continue
        asked.served = "hit-prefix"
        if repeatable:
            held[key] = asked.at
            while len(held) > entries:
                del held[next(iter(held))]


def answer(asked: Asked) -> str:
    """Return the one answer that this model gives to a question."""
    return f"Thank you for asking: {asked.question.strip()[:60]} A colleague will tell you more."


def openai_line(asked: Asked) -> dict[str, Any]:
    """A request and its response, as clients log them."""
    messages = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.question}]
    return {
        "timestamp": asked.at,
        "request": {
            "model": "desk",
            "messages": messages,
            "tools": asked.tools,
            "user": asked.user,
            **asked.sampling,
        },
        "response": {"choices": [{"message": {"role": "assistant", "content": answer(asked)}}]},
        "latency": 2.0,
    }


def own_line(asked: Asked) -> dict[str, Any]:
    """Our own request log, with text."""
    messages = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.question}]
    sampling = {"max_new_tokens": asked.sampling["max_tokens"], "temperature": asked.sampling["temperature"]}
    return {
        "v": 1,
        "time": asked.at,
        "principal": asked.user,
        "model": "desk",
        "namespace": asked.namespace,
        "status": "ok",
        "served": asked.served,
        "sampling": sampling,
        "ttl_seconds": asked.ttl_seconds,
        "not_stored": None if asked.sampling["temperature"] == 0 else "sampled without a seed",
        "messages": messages,
        "tools": asked.tools,
        "ttft_seconds": 0.2,
        "total_seconds": 2.0,
    }


def rendered_line(asked: Asked) -> dict[str, Any]:
    """A prompt as a server renders it."""
    if asked.template == "chatml":
        parts = [("system", asked.system), ("user", asked.question)]
        text = (
            "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in parts)
            + "<|im_start|>assistant\n"
        )
    else:
        text = f"<s>[INST] <<SYS>>\n{asked.system}\n<</SYS>>\n\n{asked.question} [/INST]"
    return {"timestamp": asked.at, "model": "desk", "prompt": text, **asked.sampling}


Line = Callable[[Asked], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A log: what is planted, how it is written, and the cause that must be named."""

    name: str
    cause: str
    plant: Plant | None = None
    line: Line = openai_line
    entries: int = 2000


TEN = (
    Case("a clock in the system prompt", "clock-in-prompt", clock),
    Case("shuffled tool order", "tool-order", tool_order),
    Case("changed template", "template-changed", template, rendered_line),
    Case("trailing blanks", "blanks", blanks),
    Case("a random request id", "id-in-prompt", request_id),
    Case("user name before the stable part", "user-before-stable-part", user_first),
    Case("differing max_tokens", "max-tokens-differ", max_tokens),
    Case("sampling without seed", "sampling-without-seed", unseeded),
    Case("TTL too short", "ttl-too-short", short_ttl, own_line),
    Case("capacity too small", "capacity-too-small", small, own_line, entries=3),
)
MORE = (
    Case("namespace changed", "namespace-changed", namespace, own_line),
    Case("a clock, in our own log", "clock-in-prompt", clock, own_line),
    Case("a clock, in rendered prompts", "clock-in-prompt", clock, rendered_line),
    Case("user name first, in our own log", "user-before-stable-part", user_first, own_line),
)
HEALTHY = (
    Case("healthy, OpenAI-style", ""),
    Case("healthy, our own log", "", line=own_line),
    Case("healthy, rendered prompts", "", line=rendered_line),
)


def write(case: Case, path: Path, *, requests: int, seed: int) -> None:
    """Write the log of a case."""
    rng = random.Random(seed)  # noqa: S311 made-up logs, no secrets
    log = traffic(rng, requests)
    if case.plant:
        case.plant(log, rng)
    serve(log, entries=case.entries)
    path.write_text("".join(json.dumps(case.line(asked)) + "\n" for asked in log), encoding="utf-8")


def examined(path: Path) -> list[str]:
    """Return the causes that the doctor names, the largest gain first."""
    from axolotl_cache.profiling.doctor.examine import examine
    from axolotl_cache.profiling.reading import Reading, read_logs

    return [finding.cause.value for finding in examine(read_logs([path], Reading())).findings]


def rows(folder: Path, *, requests: int = 800, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what the doctor says about each case."""
    for number, case in enumerate((*TEN, *MORE, *HEALTHY)):
        path = folder / f"planted-{number}.jsonl"
        write(case, path, requests=requests, seed=seed + number)
        causes = examined(path)
        yield {"log": case.name, "planted": case.cause, "named": causes, "found": case.cause in causes}


def figures(folder: Path, *, requests: int = 800, seed: int = 0) -> dict[str, Any]:
    """Return `planted_causes_found` (of ten), `false_alarms` (on healthy logs), and the rows behind them."""
    found = list(rows(folder, requests=requests, seed=seed))
    return {
        "planted_causes_found": sum(row["found"] for row in found[: len(TEN)]),
        "false_alarms": sum(len(row["named"]) for row in found if not row["planted"]),
        "rows": found,
    }
