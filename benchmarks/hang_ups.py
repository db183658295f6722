"""Clients that leave in the midst of their streams: what is still held for them once they are gone."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

CLIENTS = 24
NEW_TOKENS = 400
RawRequest = Callable[..., bytes]


class Watched:
    """A server in this process, over a small model: what is held does not depend on what it says."""

    def __init__(self, stack: ExitStack, memo: Path) -> None:
        import torch
        from transformers import AutoTokenizer

        from axolotl_cache import SmartInferenceCache
        from axolotl_cache.clock import wall_clock
        from axolotl_cache.engine.engine import Engine
        from axolotl_cache.engine.prompt import PromptRenderer
        from axolotl_cache.namespace import Namespace
        from axolotl_cache.observe import Observer
        from axolotl_cache.pipeline import Pipeline
        from axolotl_cache.pipeline.session import SessionStep
        from axolotl_cache.server.app import App
        from axolotl_cache.server.asked import Rules
        from axolotl_cache.server.doors import Doors
        from axolotl_cache.server.engine_backend import EngineBackend
        from axolotl_cache.server.limits import Limits
        from axolotl_cache.server.service import Service
        from axolotl_cache.session import Sessions
        from common import MODEL
        from session_load import small_model

        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.engine = Engine(
            small_model(len(tokenizer)),
            device=torch.device("cpu"),
            context_length_tokens=4096,
            end_tokens=frozenset(),
            max_cache_bytes=2 * 10**6,
            memo=memo,
        )
        renderer = PromptRenderer(tokenizer, tokenizer.chat_template)
        self.sessions = Sessions(1800.0, wall_clock)
        limits = Limits(most_running=8)
        pipeline = Pipeline(
            self.engine,
            renderer,
            Namespace("small", "", "smollm2", "smollm2", "float32"),
            SmartInferenceCache(),
            session=SessionStep(renderer, self.sessions),
        )
        stack.enter_context(closing(pipeline))
        stack.enter_context(self.engine.in_background())
        backend = EngineBackend(pipeline, Rules("model"), most_running=limits.most_running)
        self.service = Service(backend, limits, Doors(None), Observer(model="model"))
        self.url = stack.enter_context(_served(App(self.service)))

    @property
    def is_idle(self) -> bool:
        """Whether nobody is served any more."""
        running = self.engine.running_requests + self.engine.waiting_requests
        return not running + self.service.admission.running + self.service.admission.waiting

    @property
    def running_blocks(self) -> int:
        """Blocks of keys and values that are not the prefix cache's: running requests hold them."""
        held = self.engine.held_bytes - self.engine.prefix_stats.held_bytes
        return held // (self.engine.kv_bytes_per_token * self.engine.block_size)

    @property
    def sessions_in_use(self) -> int:
        """Sessions that a request is said to go on with."""
        return sum(session.lease.users > 0 for session in self.sessions)


@contextmanager
def _served(app: Any) -> Iterator[str]:
    from axolotl_cache.server.run import address_of, listen, make_server

    listening = listen("127.0.0.1", 0)
    server = make_server(app, grace_seconds=5, stopping=lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield address_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def leaks(folder: Path, streams: int, seed: int, raw_request: RawRequest) -> dict[str, Any]:
    """Leave many streams in their midst; return what was held at the most, and what is held at the end.

    Args:
        folder: for what the engine notes.
        streams: how many; each of a session of its own, every third of them read to its end.
        seed: decides how much of each is read.
        raw_request: makes a request's bytes of URL, body and headers.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    with ExitStack() as stack:
        watched = Watched(stack, folder / "memo")
        most = {"blocks": 0, "sessions": 0}

        async def one(number: int, gate: asyncio.Semaphore) -> None:
            host, port = watched.url.removeprefix("http://").split(":")
            messages = [{"role": "user", "content": f"Story {number}, please. " * 20}]
            stays = number % 3 == 0
            body = {"model": "model", "messages": messages, "temperature": 0, "stream": True}
            body["max_tokens"] = 16 if stays else NEW_TOKENS
            async with gate:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(
                    raw_request(watched.url, body, {"X-Session-Id": f"s{number}", "X-Principal": "p"})
                )
                left = 10**9 if stays else rng.choice([0, 1, 600, 3000])
                seen = b""
                while left > 0 and b"[DONE]" not in seen[-64:]:
                    seen += (data := await reader.read(min(left, 65536)))
                    left -= len(data) or left
                    most["blocks"] = max(most["blocks"], watched.running_blocks)
                    most["sessions"] = max(most["sessions"], watched.sessions_in_use)
                writer.close()

        async def run() -> None:
            gate = asyncio.Semaphore(CLIENTS)
            await asyncio.gather(*(one(number, gate) for number in range(streams)))

        asyncio.run(run())
        end = time.monotonic() + 60
        # Twice in a row: what was sent and left at once may not have come yet.
        while not (watched.is_idle and not time.sleep(0.5) and watched.is_idle) and time.monotonic() < end:
            time.sleep(0.1)
        return {
            "part": "leaks",
            "streams": streams,
            "known_sessions": len(watched.sessions),
            "most_running_blocks": most["blocks"],
            "most_sessions_in_use": most["sessions"],
            "leaked_blocks": watched.running_blocks,
            "leaked_sessions": watched.sessions_in_use,
        }
