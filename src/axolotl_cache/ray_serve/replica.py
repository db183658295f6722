"""One engine, and our own HTTP application over it, as a replica of a deployment."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from array import array
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final

from axolotl_cache.dashboard import Dashboard
from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.model_settings import load_for_model
from axolotl_cache.ray_serve.board import board
from axolotl_cache.ray_serve.calls import Call
from axolotl_cache.ray_serve.holdings import Holdings, Share
from axolotl_cache.ray_serve.spec import Spec
from axolotl_cache.ray_serve.transfer import messages
from axolotl_cache.request import Request
from axolotl_cache.server import opening
from axolotl_cache.server.app import App
from axolotl_cache.server.asked import CHAT, COMPLETIONS, read
from axolotl_cache.server.exchange import Message
from axolotl_cache.server.refusal import Refusal
from axolotl_cache.server.service import Service
from axolotl_cache.server.watching import operator_routes
from ray import serve

LOGGER: Final = logging.getLogger("axolotl_cache.ray")
_SWITCH_SECONDS: Final = 0.0005
REPLICA_HEADER: Final = b"x-replica"
"""Of every answer: which replica it comes from."""


class EngineReplica:
    """An engine with its caches. Made by Ray, once for each replica.

    Args:
        spec: what is served.
    """

    def __init__(self, spec: Spec) -> None:
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        self._spec = spec
        self._stack = ExitStack()
        settings = load_for_model(spec.yaml_file, spec.flags)
        doors = opening.doors_of(spec.keys_file)
        self._backend = opening.open_engine(
            settings,
            self._stack,
            spec.rules,
            spec.limits,
            _report,
            lambda done, total: None,
            spec.adapters,
        )
        self._pipeline = self._backend.pipeline
        watching = spec.watching
        if watching.log is not None:  # one file a replica: lines of two would be mixed
            log = watching.log
            watching = replace(watching, log=log.with_name(f"{log.stem}-{self._name}{log.suffix}"))
        observer = watching.open(self._stack, spec.rules.model, self._pipeline, _report)
        self._service = Service(self._backend, spec.limits, doors, observer)
        self._others: list[dict[str, Any]] = []
        dashboard = Dashboard(observer, self._pipeline, others=lambda: self._others)
        self._dashboard = dashboard
        self._app = App(self._service, operator_routes(self._service, self._pipeline, dashboard))
        self._holdings = Holdings()
        self._board = board(context.app_name)
        self._round = 0
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()

    async def serve(self, call: Call) -> AsyncGenerator[Message, None]:
        """Yield the answer to a request, as ASGI messages."""
        status = 0
        async with aclosing(messages(self._app, call.scope, call.body)) as answer:
            async for message in answer:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [*message["headers"], (REPLICA_HEADER, self._name.encode())]
                yield message
        if status == 200 and call.scope["path"] in (CHAT, COMPLETIONS):
            self._holdings.note(call.ticket, partial(self._cut, call))

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return what routers are told. Called by Ray, every few seconds."""
        self._round += 1
        held = await asyncio.to_thread(self._holdings.told)
        await self._tell_board()
        admission = self._service.admission
        return {"round": self._round, "held": held, "load": admission.running + admission.waiting}

    def check_health(self) -> None:
        """Raise if the replica should be replaced. Called by Ray."""
        if not self._backend.is_ready:
            raise AxolotlCacheError("the engine has failed")

    def __del__(self) -> None:
        """Close everything, writing what is not on disk yet. Called by Ray when the replica has drained."""
        stack = getattr(self, "_stack", None)
        if stack is not None:
            stack.close()

    async def _tell_board(self) -> None:
        try:
            row = (await asyncio.to_thread(self._dashboard.own_nodes))[0]
            row["name"] = f"{row['name']} {self._name}"
            self._others = [row, *await self._board.tell.remote(self._name, row)]
        except Exception as error:  # figures must not stop requests
            LOGGER.info("the board of nodes can't be reached: %s", error)

    def _cut(self, call: Call) -> Share:
        """Cut a prompt into tokens; return what asks the tree for its share of them."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.scope["headers"]}
        try:
            request: Request = read(
                call.scope["path"], call.body, headers, call.tenant, self._spec.rules
            ).requests[0]
            tokens = array("I", self._pipeline.tokens(request))
            namespace = self._pipeline.namespace_of(request).digest
        except (
            AxolotlCacheError,
            Refusal,
        ):  # it was served, and can't be read any more: then nothing is claimed
            return lambda: 0.0
        engine = self._pipeline.engine
        findable = max(0, len(tokens) - 1) // engine.block_size * engine.block_size

        def share() -> float:
            return engine.known_tokens(tokens, namespace=namespace) / findable if findable else 1.0

        return share


def _report(line: str) -> None:
    """Log a line: what is a warning goes where users of Ray look for warnings."""
    LOGGER.log(logging.WARNING if line.startswith("warning") else logging.INFO, "%s", line)
