"""One cache for language models, in an environment of its own: repeats of the same questions, timed.

    python benchmarks/peers/llm_cache_side.py SIDE FOLDER ENTRIES ROUNDS

Prints the microseconds of each store and each repeat as JSON. What is timed is the call that the library's
own documentation tells users to make, its key included; `bare` sides are its inner lookup alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Sides = tuple[Callable[[str, str], Any], Callable[[str], str]]
"""Stores an answer to a prompt; returns the answer to a prompt that was stored."""


def gptcache(folder: Path) -> Sides:
    """Exact matching in memory, its quickest: a map, keyed by the prompt (README, "Exact match")."""
    from gptcache import cache
    from gptcache.adapter.api import get, put
    from gptcache.manager import manager_factory
    from gptcache.processor.pre import get_prompt

    cache.init(
        pre_embedding_func=get_prompt,
        data_manager=manager_factory("map", data_dir=str(folder), max_size=100_000),
    )
    return put, lambda prompt: str(get(prompt))


def langchain(made: Any) -> Sides:
    """A chat model with a cache, as its page on caching has it: `model.invoke(prompt)`."""
    from langchain_core.globals import set_llm_cache
    from langchain_core.language_models.chat_models import SimpleChatModel

    answers = []

    class Model(SimpleChatModel):
        @property
        def _llm_type(self) -> str:
            return "model"

        def _call(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
            return str(answers.pop())  # an IndexError if a repeat was no hit

    set_llm_cache(made)
    model = Model()

    def store(prompt: str, answer: str) -> None:
        answers.append(answer)
        model.invoke(prompt)

    return store, lambda prompt: str(model.invoke(prompt).content)


def langchain_memory(folder: Path) -> Sides:
    """Its cache in memory."""
    from langchain_core.caches import InMemoryCache

    return langchain(InMemoryCache(maxsize=100_000))


def langchain_sqlite(folder: Path) -> Sides:
    """Its cache on disk."""
    from langchain_community.cache import SQLiteCache

    return langchain(SQLiteCache(database_path=str(folder / "langchain.db")))


def langchain_bare(folder: Path) -> Sides:
    """The lookup of its cache in memory alone, an access to a dict: no message is made of what comes back."""
    from langchain_core.caches import InMemoryCache
    from langchain_core.outputs import Generation

    cache = InMemoryCache(maxsize=100_000)

    def look(prompt: str) -> str:
        found = cache.lookup(prompt, "model")
        return "" if found is None else found[0].text

    return lambda prompt, answer: cache.update(prompt, "model", [Generation(text=answer)]), look


def litellm(folder: Path, kind: str = "local") -> Sides:
    """Its `Cache`, asked as `completion` asks it; without the rest of `completion`, which takes longer."""
    import litellm
    from litellm.caching.caching import Cache

    cache = (
        Cache(type="local", ttl=1800) if kind == "local" else Cache(type="disk", disk_cache_dir=str(folder))
    )
    if kind == "local":  # its documented default holds 200 entries
        cache.cache.max_size_in_memory = 100_000
    litellm.cache = cache

    def request(prompt: str) -> dict[str, Any]:
        return {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0}

    def store(prompt: str, answer: str) -> None:
        cache.add_cache(litellm.mock_completion("m", [], mock_response=answer).json(), **request(prompt))

    def look(prompt: str) -> str:
        found = cache.get_cache(**request(prompt))
        found = json.loads(found) if isinstance(found, str) else found
        return str(found["choices"][0]["message"]["content"])

    return store, look


SIDES: dict[str, Callable[[Path], Sides]] = {
    "GPTCache, exact, in memory": gptcache,
    "LangChain InMemoryCache": langchain_memory,
    "LangChain SQLiteCache": langchain_sqlite,
    "LangChain InMemoryCache, bare lookup": langchain_bare,
    "LiteLLM local": litellm,
    "LiteLLM disk": lambda folder: litellm(folder, "disk"),
}


def main() -> None:
    """Store, then ask again, and check every answer."""
    side, folder, entries, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    prompts = [(f"{n}: a question that somebody asked, " * 30)[:500] for n in range(entries)]
    store, look = SIDES[side](folder)
    times: dict[str, list[float]] = {"set": [], "get": []}
    for n, prompt in enumerate(prompts):
        answer = f"{n}:" + "x" * 2000
        started = time.perf_counter_ns()
        store(prompt, answer)
        times["set"].append((time.perf_counter_ns() - started) / 1e3)
    for _ in range(rounds):
        for n, prompt in enumerate(prompts):
            started = time.perf_counter_ns()
            found = look(prompt)
            times["get"].append((time.perf_counter_ns() - started) / 1e3)
            if found != f"{n}:" + "x" * 2000:
                raise SystemExit(f"{side}: not every repeat was a hit; the figure would be of something else")
    print(json.dumps({what: _summary(us) for what, us in times.items()}))


def _summary(us: list[float]) -> dict[str, float]:
    us.sort()
    return {"p50_us": us[len(us) // 2], "p99_us": us[int(len(us) * 0.99)]}


if __name__ == "__main__":
    main()
