"""The request log: a JSON object a line, written by a thread of its own. The format: docs/request-log.md."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.errors import AxolotlCacheError, StoreError
from axolotl_cache.namespace import Namespace
from axolotl_cache.observe.block_hashes import Chain, chain_of_text, chain_of_tokens, read_or_make_secret
from axolotl_cache.observe.record import Record
from axolotl_cache.request import Answer, Request, Sampling

VERSION: Final = 1
_MOST_WAITING: Final = 4096
_LINES_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Cutter:
    """How prompts are cut, where the model's tokenizer is at hand."""

    tokens: Callable[[Request], list[int]]
    namespace: Callable[[Request], Namespace]
    block_size: int
    """Tokens in a block."""


class RequestLog:
    """Writes a line for each request, in the background, to a file of mode 0600 that is only appended to.

    Args:
        path: the file; its folder must be there.
        with_text: write prompts themselves, beside their hashes.
        cutter: cuts prompts into tokens, as `Cutter(pipeline.tokens, pipeline.namespace_of,
            pipeline.engine.block_size)`; None hashes their text.
        settings: what is in force, for the line that each opening of the log writes.
        secret: keys the hashes; None is this machine's own.
        clock: seconds since the epoch, for that line.
        report: gets one line when the file can't be written, and when it can again.

    Raises:
        StoreError: the file, or the secret, can't be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        with_text: bool = False,
        cutter: Cutter | None = None,
        settings: Mapping[str, Any] | None = None,
        secret: bytes | None = None,
        clock: Clock = wall_clock,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._path = path
        self._with_text = with_text
        self._cutter = cutter
        self._settings = dict(settings or {})
        self._secret = secret if secret is not None else read_or_make_secret()
        self._clock = clock
        self._report = report
        self._waiting: queue.Queue[tuple[Record, Request | None, Answer | None] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._known_namespaces: set[str] = set()
        self._is_failing = False
        self.dropped = 0
        """Lines that were left out: the disk was too slow, or refused them."""
        self._file = self._opened()
        self._closed = False
        self._is_begun = False
        self._thread = threading.Thread(target=self._work, name="request log", daemon=True)
        self._thread.start()

    def write(self, record: Record, request: Request | None, answer: Answer | None) -> None:
        """Have a line written; left out, and counted, where too many wait. Cost: 1 us."""
        try:
            self._waiting.put_nowait((record, request, answer))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and close the file. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
        os.close(self._file)

    def _work(self) -> None:
        is_open = True
        while is_open:
            entries = [self._waiting.get()]
            while len(entries) < _LINES_AT_ONCE and not self._waiting.empty():
                entries.append(self._waiting.get_nowait())
            is_open = entries[-1] is not None
            lines = [self._line(*entry) for entry in entries if entry is not None]
            if lines:
                self._append(lines)

    def _append(self, lines: list[str]) -> None:
        try:
            self._follow_moves()
            first = [] if self._is_begun else [self._first_line()]
            # A disk that filled up may have taken half a line: what follows begins on a line of its own.
            torn = ["\n"] if self._is_failing else []
            content = memoryview("".join([*torn, *first, *lines]).encode())
            while content:
                content = content[os.write(self._file, content) :]
        except (OSError, StoreError) as error:
            self.dropped += len(lines)
            if not self._is_failing:
                self._report(f"warning: the request log can't be written: {error}")
            self._is_failing = True
            return
        self._is_begun = True
        if self._is_failing:
            self._report("the request log is written again")
        self._is_failing = False

    def _follow_moves(self) -> None:
        """Make the file anew where another program has moved it away."""
        own = os.fstat(self._file)
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            new = self._opened()
            os.close(self._file)
            self._file = new
            self._known_namespaces.clear()
            self._is_begun = False

    def _opened(self) -> int:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(file, 0o600)
        except OSError as error:
            raise StoreError(f"the request log can't be written: {error}; name another file") from error
        return file

    def _first_line(self) -> str:
        size = self._cutter.block_size if self._cutter else 0
        first = {"v": VERSION, "event": "start", "time": self._clock()}
        return _json(first | {"settings": self._settings | {"block_size": size}})

    def _line(self, record: Record, request: Request | None, answer: Answer | None) -> str:
        found = _numbers(record)
        if request is not None:
            found |= _asked(request)
            found |= self._cut(request)
            if self._with_text:
                found |= _text(request)
        ttl = answer.ttl if answer is not None else None
        found |= {"ttl_seconds": ttl.ttl_seconds if ttl else None, "ttl_kind": ttl.kind if ttl else ""}
        return _json(found)

    def _cut(self, request: Request) -> dict[str, Any]:
        """Return the namespace and the hashes of a prompt; what can't be cut has none."""
        cutter = self._cutter
        try:
            if cutter is None:
                text = json.dumps(_text(request), ensure_ascii=False, sort_keys=True)
                return _hashes(chain_of_text(text, secret=self._secret), 0) | {"namespace": ""}
            namespace = cutter.namespace(request)
            chain = chain_of_tokens(cutter.tokens(request), block_size=cutter.block_size, secret=self._secret)
        except AxolotlCacheError:
            return {}
        found = _hashes(chain, cutter.block_size) | {"namespace": namespace.digest}
        if namespace.digest not in self._known_namespaces:
            self._known_namespaces.add(namespace.digest)
            found["namespace_parts"] = asdict(namespace)
        return found


def _hashes(chain: Chain, block_size: int) -> dict[str, Any]:
    return {"block_size": block_size, "blocks": chain.blocks, "tail": chain.tail}


def _numbers(record: Record) -> dict[str, Any]:
    prefix = record.prefix_miss
    return {
        "v": VERSION,
        "time": record.at,
        "id": record.id,
        "choice": record.choice,
        "tenant": record.tenant,
        "principal": "",
        "session": record.session,
        "route": record.route,
        "model": record.model,
        "adapter": "",
        "namespace": "",
        "status": record.status,
        "served": record.served or None,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "age_seconds": record.age_seconds,
        "queue_seconds": record.queue_seconds,
        "ttft_seconds": record.ttft_seconds,
        "total_seconds": record.total_seconds,
        "saved_seconds": record.saved_seconds,
        "saved_tokens": record.saved_tokens,
        "finish_reason": record.finish_reason,
        "stream": record.is_stream,
        "key": record.key,
        "not_stored": record.not_stored,
        "response_miss": record.response_miss.reason if record.response_miss else None,
        "prefix_miss": None
        if prefix is None
        else {"reason": prefix.reason, "first_difference_tokens": prefix.first_difference_tokens},
    }


def _asked(request: Request) -> dict[str, Any]:
    return {
        "principal": request.principal,
        "adapter": request.adapter,
        "sampling": _sampling(request.sampling),
        "repeatable": request.sampling.is_repeatable,
    }


def _sampling(sampling: Sampling) -> dict[str, Any]:
    return sampling.canonical() | {"stop": len(sampling.stop)}  # stop strings are text


def _text(request: Request) -> dict[str, Any]:
    tools = {"tools": [dict(tool) for tool in request.tools]} if request.tools else {}
    if request.prompt is not None:
        return tools | {"prompt": request.prompt}
    return tools | {"messages": [{"role": m.role, "content": m.content} for m in request.messages]}


def _json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, separators=(",", ":"), default=str) + "\n"
