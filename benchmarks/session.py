"""What do sessions and the records of entities save, and do they change an answer?

Two workloads, each held three ways over the very same prompts: without any cache; with the whole system
prompt pinned and nothing else reused; with sessions and records. The three take turns in going first.

- orders: people ask a shop about orders, two to four about each, in English and Chinese. The model's own
  answers are what was said, so that what it generated is reused, too.
- airline: tau-bench's conversations (see airline.py for what is left out), as recorded, several people asking
  about the same reservations. A conversation ends where its prompt would no longer fit the model's context.

The response cache is off: every turn is computed. Beside them, more sessions than there is room for.

    python benchmarks/session.py [--quick] [--dtype bfloat16|float32]
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from statistics import median
from typing import Any

import airline
import shop
from common import arguments, emit, load, make_engine, say
from session_load import bytes_over_bound
from talks import Talk

GIGABYTE = 10**9
NEW_TOKENS = 16
WAYS = ("none", "prefix only", "all on")


class Table:
    """An entity provider over a dict; the people of a workload may see what they ask for."""

    ttl_seconds = 3600

    def __init__(self, records: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.kinds = tuple(sorted({kind for kind, _ in records}))
        self._records = records

    def may_see(self, entity: Any, who: Any) -> bool:
        """Everybody may."""
        return True

    def fetch(self, entity: Any, tenant: str) -> Any:
        """Return the record, if there is one."""
        return self._records.get((entity.kind, entity.value))


class Ways:
    """The three ways of one workload, over one model."""

    def __init__(self, loaded: Any, records: dict[tuple[str, str], dict[str, Any]], max_bytes: int) -> None:
        from axolotl_cache.engine.prompt import PromptRenderer
        from axolotl_cache.pipeline import Pipeline

        self.renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
        self._records = records
        self.base = Pipeline(make_engine(loaded, max_cache_bytes=max_bytes), self.renderer, loaded.namespace)
        self.on = Pipeline(
            make_engine(loaded, max_cache_bytes=max_bytes),
            self.renderer,
            loaded.namespace,
            session=self._step(),
        )
        self._prompts = self._step()
        self.limit_tokens = loaded.context_length_tokens

    def _step(self) -> Any:
        from axolotl_cache.clock import wall_clock
        from axolotl_cache.pipeline.session import SessionStep
        from axolotl_cache.session import Records, Sessions

        sessions = Sessions(4200.0, wall_clock)
        return SessionStep(self.renderer, sessions, Records(Table(self._records), wall_clock))

    def pin(self, system: str) -> int:
        """Pin a system prompt as a whole, for both ways that reuse anything; return its tokens."""
        for pipeline in (self.base, self.on):
            (pinned,) = pipeline.precompute([system], 10**6)
        return pinned

    def turn(self, request: Any, number: int) -> dict[str, Any] | None:
        """Answer a turn in all three ways; None if its prompt does not fit the model's context."""
        joined = self._prompts.join(request, self.base.engine).request
        plain = replace(joined, session="", entities=(), principal="")
        text = self.renderer.text(plain)
        if len(self.renderer.tokens(text, is_plain=False)) + NEW_TOKENS > self.limit_tokens:
            return None
        answers: dict[str, Any] = {}
        for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
            if way == "all on":
                answers[way] = self.on.answer(request)
                continue
            self.base.prefix_enabled = way == "prefix only"
            answers[way] = self.base.answer(plain)
            self.base.engine._cache.tree.clear(pinned=False)
        return answers


def turns(talks: Sequence[Talk]) -> Iterator[tuple[Talk, int]]:
    """Yield who says what next: all take turns, as people who talk to a desk at the same time do."""
    for row in zip_longest(*([(talk, n) for n in range(len(talk.says))] for talk in talks)):
        yield from (each for each in row if each is not None)


def hold(ways: Ways, name: str, talks: Sequence[Talk]) -> list[dict[str, Any]]:
    """Hold conversations in all three ways, and return a row for each turn."""
    from axolotl_cache.request import Message, Request, Sampling

    said: dict[str, list[Message]] = {talk.name: [] for talk in talks}
    over: set[str] = set()
    rows: list[dict[str, Any]] = []
    for number, (talk, turn) in enumerate(turns(talks)):
        if talk.name in over:
            continue
        messages = [*said[talk.name], Message("user", talk.says[turn])]
        request = Request(
            messages=(Message("system", talk.system), *messages),
            sampling=Sampling(max_new_tokens=NEW_TOKENS),
            session=talk.name,
            principal=talk.name,
        )
        answers = ways.turn(request, number)
        if answers is None:
            over.add(talk.name)
            continue
        heard = talk.hears[turn : turn + 1] if talk.hears else (answers["all on"].text,)
        said[talk.name] = [*messages, *(Message("assistant", text) for text in heard)]
        rows.append(_row(name, talk, turn, answers))
    if over:
        say(f"{name}: {len(over)} conversations ended early, at the model's {ways.limit_tokens:,} tokens")
    return rows


def _row(name: str, talk: Talk, turn: int, answers: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"workload": name, "talk": talk.name, "turn": turn + 1}
    row["prompt_tokens"] = answers["none"].usage.prompt_tokens
    for way, answer in answers.items():
        key = way.replace(" ", "_")
        row[f"{key}_computed_tokens"] = answer.usage.computed_tokens
        row[f"{key}_ttft_ms"] = round(answer.ttft_seconds * 1e3, 1)
        row[f"{key}_total_ms"] = round(answer.total_seconds * 1e3, 1)
    account = answers["all on"].session
    row["records"] = [use.name for use in account.entities if use.record == "joined"]
    row["record_tokens"] = sum(use.tokens for use in account.entities)
    row["record_cached_tokens"] = sum(use.cached_tokens for use in account.entities)
    row["identical"] = len({answer.text for answer in answers.values()}) == 1
    return row


def summary(name: str, rows: Sequence[dict[str, Any]], pinned: int) -> dict[str, Any]:
    """Return what a workload came to, and say it."""
    mine = [row for row in rows if row["workload"] == name]
    computed = {
        w: sum(row[f"{w}_computed_tokens"] for row in mine) for w in ("none", "prefix_only", "all_on")
    }
    ttft = {w: median(row[f"{w}_ttft_ms"] for row in mine) for w in computed}
    total = {w: median(row[f"{w}_total_ms"] for row in mine) for w in computed}
    result = {
        "part": name,
        "conversations": len({row["talk"] for row in mine}),
        "turns": len(mine),
        "pinned_tokens": pinned,
        **{f"{w}_computed_tokens": tokens for w, tokens in computed.items()},
        **{f"{w}_median_ttft_ms": value for w, value in ttft.items()},
        **{f"{w}_median_total_ms": value for w, value in total.items()},
        "reduction_vs_prefix_only": 1 - computed["all_on"] / computed["prefix_only"],
        "reduction_vs_none": 1 - computed["all_on"] / computed["none"],
        "ttft_reduction_vs_prefix_only": 1 - ttft["all_on"] / ttft["prefix_only"],
        "ttft_reduction_vs_none": 1 - ttft["all_on"] / ttft["none"],
        "identical": sum(row["identical"] for row in mine),
    }
    say(
        f"{name}: {result['turns']} turns of {result['conversations']} conversations; computed prompt tokens "
        f"{computed['none']:,} without cache, {computed['prefix_only']:,} with the system prompt pinned, "
        f"{computed['all_on']:,} with sessions ({result['reduction_vs_prefix_only']:.1%} and "
        f"{result['reduction_vs_none']:.1%} less); median TTFT {ttft['none']:.0f}, "
        f"{ttft['prefix_only']:.0f}, {ttft['all_on']:.0f} ms; whole turn {total['none']:.0f}, "
        f"{total['prefix_only']:.0f}, {total['all_on']:.0f} ms; {result['identical']} answers identical"
    )
    return result


def main() -> None:
    """Run and report."""
    options = arguments(__doc__)
    started = time.time()
    recorded = airline.read()
    loaded = load(options.dtype)
    records = shop.orders(2 if options.quick else 8)
    work = [("orders", shop.talks(records, 2 if options.quick else 4), records)]
    if recorded is not None:
        talks, found = recorded
        if options.quick:
            talks = [replace(talk, says=talk.says[:4]) for talk in talks[:3]]
        work.append(("airline", talks[:5], found))
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for name, talks, known in work:
        ways = Ways(loaded, known, GIGABYTE)
        pinned = ways.pin(talks[0].system)
        rows += hold(ways, name, talks)
        parts.append(summary(name, rows, pinned))
    load_part = bytes_over_bound(
        sessions=1_000 if options.quick else 10_000, room_for=50 if options.quick else 500
    )
    figures = {
        # Of the two workloads the one that does worse; both stand in the rows.
        "prefill_reduction_vs_prefix_only": min(part["reduction_vs_prefix_only"] for part in parts),
        "prefill_reduction_vs_none": min(part["reduction_vs_none"] for part in parts),
        "identical_fraction": sum(row["identical"] for row in rows) / len(rows),
        "ttft_reduction": min(part["ttft_reduction_vs_prefix_only"] for part in parts),
        **_entity_figures(),
        "sessions_bytes_over_bound": load_part["bytes_over_bound"],
    }
    emit(
        "session",
        figures=figures,
        rows=[*parts, load_part, *rows],
        seed=0,
        started=started,
        packages=("torch", "transformers"),
        quick=options.quick,
        dtype=options.dtype,
        new_tokens=NEW_TOKENS,
    )


def _entity_figures() -> dict[str, float]:
    """Return what benchmarks/entities.py measures, without a model."""
    import entities

    found = entities.figures()
    names = ("entity_precision", "entity_recall", "followup_accuracy", "followup_unsure_fraction")
    return {name: found[name] for name in names}


if __name__ == "__main__":
    main()
