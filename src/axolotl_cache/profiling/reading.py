"""From files to records: opened, recognised by content, read line by line, with what is damaged counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.profiling.formats import litellm, openai, ours, prompts, tables, traces, vllm
from axolotl_cache.profiling.record import Record

_EXAMPLES: Final = 5
_GZIP: Final = b"\x1f\x8b"
_LONGEST_LINE_BYTES: Final = 256 * 2**20
"""A longer one is no line of a log, and would have to be held in memory whole."""
_LONGEST_CELL: Final = 10**6
"""A quote that nobody closed must not swallow the rest of the file."""


class LogError(AxolotlCacheError):
    """A log can't be read at all, or nothing in it is a request."""


@dataclass(slots=True)
class Reading:
    """What was read, and what could not be."""

    lines: int = 0
    records: int = 0
    damaged: int = 0
    examples: list[str] = field(default_factory=list)
    """The first damaged lines: where, and why."""
    formats: dict[str, int] = field(default_factory=dict)
    """Records by the kind of log that they came from."""
    bytes_read: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    """What was in force, where a log says; the last one that does."""

    def reject(self, where: str, why: str) -> None:
        """Count a damaged line."""
        self.damaged += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{where}: {why}")


Progress = Callable[[int], None]
"""Is told how many more bytes of the files were read."""


def read_logs(
    paths: Sequence[Path], reading: Reading, *, progress: Progress = lambda more: None
) -> Iterator[Record]:
    """Yield the requests of all files, in the order given; `-` is standard input. Counts in `reading`.

    Memory: one line. Damaged lines are counted and left out.

    Args:
        paths: files, gzipped or not.
        reading: is changed as reading goes on.
        progress: for a bar.

    Raises:
        LogError: a file can't be opened, or has no request in it.
    """
    for path in paths:
        before = reading.records
        try:
            for record in _read(path, reading, progress):
                reading.records += 1
                yield record
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            # A gzip file whose end is missing still has all that came before.
            if reading.records == before:
                raise LogError(f"{path} can't be read: {error}") from error
            reading.reject(str(path), f"the file ends early: {error}")
        if reading.records == before:
            examples = "".join(f"\n  {each}" for each in reading.examples)
            raise LogError(f"{path}: no request in it that can be read. {KNOWN}{examples}")


KNOWN: Final = (
    "Known are our request log, OpenAI-style JSONL and batch files, LiteLLM and vLLM logs, Mooncake traces, "
    "Azure CSV, LMCache agent traces, and files of prompts (JSONL, JSON, CSV)."
)


def _read(path: Path, reading: Reading, progress: Progress) -> Iterator[Record]:
    with _opened(path) as (raw, stream):
        reader = _Lines(str(path), reading)
        last = 0
        for line in _lines(stream):
            if reading.lines & 255 == 0:
                at = _position(raw)
                progress(at - last)
                reading.bytes_read += at - last
                last = at
            reading.lines += 1
            record = reader.quick(line)
            if record is None:
                yield from reader.feed(line)
            else:
                yield record
        yield from reader.finish()
        end = _position(raw)
        progress(end - last)
        reading.bytes_read += end - last


class _Opened:
    """A file, and the stream of its unpacked bytes."""

    def __init__(self, raw: IO[bytes], stream: IO[bytes], *, closes: bool) -> None:
        self.raw, self.stream, self._closes = raw, stream, closes

    def __enter__(self) -> tuple[IO[bytes], IO[bytes]]:
        return self.raw, self.stream

    def __exit__(self, *_: object) -> None:
        if self._closes:
            self.stream.close()
            self.raw.close()


def _opened(path: Path) -> _Opened:
    standard_input = str(path) == "-"
    raw: Any = sys.stdin.buffer if standard_input else path.open("rb")
    if raw.peek(2)[:2] == _GZIP:
        # A buffer between: iterating over a GzipFile itself is several times slower.
        unpacked: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**18)
        return _Opened(raw, unpacked, closes=not standard_input)
    return _Opened(raw, raw, closes=not standard_input)


def _position(raw: IO[bytes]) -> int:
    try:
        return raw.tell()
    except OSError:  # a pipe
        return 0


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(_LONGEST_LINE_BYTES):
        yield line


Reader = Callable[[Mapping[str, Any]], Record | None]

_JSON_KINDS: Final[tuple[tuple[str, Callable[[Mapping[str, Any]], bool], Reader], ...]] = (
    ("Mooncake trace", traces.reads_mooncake, traces.read_mooncake),
    ("axolotl-cache request log", ours.reads, ours.read),
    ("LiteLLM log", litellm.reads, litellm.read),
    ("LMCache agent trace", traces.reads_lmcache, traces.read_lmcache),
    ("OpenAI-style requests", openai.reads, openai.read),
)


class _Lines:
    """Reads the lines of one file. What kind they are is decided for each, the last kind tried first."""

    def __init__(self, name: str, reading: Reading) -> None:
        self._name = name
        self._reading = reading
        self._columns: tuple[str, ...] = ()
        self._kind = _JSON_KINDS[0]
        self._first = reading.lines + 1
        self._cells = ""
        self._document: bytearray | None = None

    def quick(self, line: bytes) -> Record | None:
        """Return the request of a line that is of the same kind as the last one; None for any other.

        Millions of lines come this way, so that it saves what `feed` spends on deciding.
        """
        if line[:1] != b"{" or self._columns or self._document is not None:
            return None
        name, reads, read = self._kind
        try:
            value = json.loads(line)
            record = read(value) if reads(value) else None
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return None  # `feed` meets the same, and says so
        return None if record is None else self._counted(name, record)

    def feed(self, line: bytes) -> Iterator[Record]:
        """Yield the requests of a line: none, one, or those of a whole conversation."""
        number = self._reading.lines - self._first + 1
        start = line.lstrip()[:1]
        if not start:
            return
        if number == 1 and line.strip() in (b"[", b"{"):
            self._document = bytearray()
        if self._document is not None:
            self._document += line
            if len(self._document) > _LONGEST_LINE_BYTES:
                raise LogError(f"{self._name} is one JSON document; write one request a line (JSON Lines)")
            return
        yield from self._guarded(line, number, is_json=start in b'{["' and not self._columns)

    def finish(self) -> Iterator[Record]:
        """Yield the requests of a file that is one JSON document over many lines."""
        if self._document is not None:
            yield from self._guarded(bytes(self._document), 1, is_json=True)

    def _guarded(self, line: bytes, number: int, *, is_json: bool) -> Iterator[Record]:
        try:
            if is_json:
                yield from self._value(json.loads(line), number)
            else:
                yield from self._text(line.decode("utf-8-sig"), number)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            self._reading.reject(f"{self._name}:{number}", _why(error))

    def _value(self, value: Any, number: int) -> Iterator[Record]:
        if isinstance(value, dict):
            yield from self._object(value, number)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for each in value:
                yield from self._value(each, number)
        else:
            yield from self._each("texts", traces.read_document(value))

    def _object(self, value: Mapping[str, Any], number: int) -> Iterator[Record]:
        name, reads, read = self._kind
        if not reads(value):
            found = next((kind for kind in _JSON_KINDS if kind[1](value)), None)
            if found is None:
                yield from self._other(value, number)
                return
            self._kind = found
            name, _, read = found
        record = read(value)
        if record is not None:
            yield self._counted(name, record)
        elif read is ours.read:
            self._reading.settings.update(ours.settings_of(value))

    def _other(self, value: Mapping[str, Any], number: int) -> Iterator[Record]:
        if traces.reads_trajectory(value):
            yield from self._each("conversations", traces.read_trajectory(value, number))
            return
        question = traces.question_of(value)
        if question is None and prompts.reads(value):
            yield self._counted("prompts file", prompts.read(value))
        elif question is not None:
            yield self._counted("texts", Record(messages=(("user", question),)))
        elif value and all(isinstance(each, list) for each in value.values()):
            yield from self._each("texts", traces.read_document(value))
        else:
            raise ValueError(f"no request in an object with {', '.join(list(value)[:6]) or 'nothing in it'}")

    def _text(self, line: str, number: int) -> Iterator[Record]:
        if self._columns:
            # A cell in quotes may go on over several lines.
            self._cells += line
            if self._cells.count('"') % 2 == 0 or len(self._cells) > _LONGEST_CELL:
                row, self._cells = self._cells, ""
                yield self._counted("CSV", tables.read(self._columns, next(csv.reader([row]))))
        elif number == 1 and (columns := tables.columns_of(line)):
            self._columns = columns
        elif vllm.reads(line):
            record = vllm.read(line)
            if record is not None:
                yield self._counted("vLLM log", record)
        elif "vLLM log" not in self._reading.formats:
            raise ValueError(f"neither JSON nor a known log: {line.strip()[:60]!r}")

    def _each(self, name: str, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            yield self._counted(name, record)

    def _counted(self, name: str, record: Record) -> Record:
        self._reading.formats[name] = self._reading.formats.get(name, 0) + 1
        return record


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(error) or type(error).__name__
