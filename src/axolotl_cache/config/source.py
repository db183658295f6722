"""Where a value came from, and a YAML file that remembers the line of every key."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

Location = tuple[Hashable, ...]
"""The keys from the top of the file down to a value, list positions included."""

SourceKind = Literal["default", "file", "environment", "flag"]
_ORDER: Final[Mapping[SourceKind, int]] = {"default": 0, "file": 1, "environment": 2, "flag": 3}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from."""

    kind: SourceKind
    detail: str = ""
    """`inference.yaml:12`, the flag as typed, or the environment variable's name; empty for a default."""
    line: int = 0

    def __str__(self) -> str:
        return self.detail or self.kind

    @property
    def order(self) -> tuple[int, int]:
        """Sorts mistakes: the file's by line, then the environment's, then the flags'."""
        return _ORDER[self.kind], self.line


DEFAULT: Final = Source("default")


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake, with its source still in parts so that mistakes can be sorted."""

    source: Source
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file as `yaml.safe_load` reads it, with the line of each key and what is wrong with the text."""

    name: str
    values: dict[Any, Any] = field(default_factory=dict)
    lines: Mapping[Location, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def source(self, location: Location) -> Source:
        """Return the place of `location`, or of the nearest thing around it whose line is known."""
        while location and location not in self.lines:
            location = location[:-1]
        return _at(self.name, self.lines.get(location, 1))


class _Loader(yaml.SafeLoader):
    """Reads what Axolotl's `yaml.safe_load` reads, and keeps the nodes' places."""

    def key(self, node: yaml.Node) -> Hashable:
        """Return a mapping's key as it appears in the loaded dictionary."""
        value = self.construct_object(node, deep=True)
        return value if isinstance(value, Hashable) else str(value)


class _UnreadableError(Exception):
    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def read_document(path: Path) -> Document:
    """Read a YAML file. Mistakes in its text come back as `findings`; nothing is raised for them."""
    name = path.name
    try:
        return _document(name, _text(path))
    except _UnreadableError as error:
        return Document(name, findings=(Finding(_at(name, error.line), "(the file)", str(error)),))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _UnreadableError(f"can't be read: {error.strerror or error} ({path})") from None
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _document(name: str, text: str) -> Document:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(name)
        # Before construction, which rewrites mappings that merge others in with `<<`.
        findings = tuple(_duplicates(loader, node, name))
        values = loader.construct_document(node)
        lines = dict(_lines(loader, node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise _UnreadableError(f"is not valid YAML: {reason}", mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _UnreadableError(f"is not valid YAML: {error.reason}", line) from None
    except (ValueError, RecursionError) as error:  # an impossible date; nesting without end
        raise _UnreadableError(f"is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise _UnreadableError("must hold keys and values, as `base_model: ...`, at the top", _line(node))
    return Document(name, values, lines, findings)


def _at(name: str, line: int) -> Source:
    return Source("file", f"{name}:{line}" if line else name, line)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _children(loader: _Loader, node: yaml.Node) -> Iterator[tuple[Hashable, yaml.Node, yaml.Node]]:
    """Yield (key or position, the node that shows its place, the value's node)."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:merge":
                yield loader.key(key_node), key_node, value_node
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield position, item, item


def _lines(loader: _Loader, node: yaml.Node, above: Location = ()) -> Iterator[tuple[Location, int]]:
    # Our blocks are at most five deep; a bound keeps anchors that contain themselves from looping.
    for key, place, value in _children(loader, node):
        location = (*above, key)
        yield location, _line(place)
        if len(location) < 5:
            yield from _lines(loader, value, location)


def _duplicates(loader: _Loader, root: yaml.Node, name: str) -> Iterator[Finding]:
    """Yield each key that stands twice in one mapping: PyYAML would silently keep the last."""
    seen: set[int] = set()

    def walk(node: yaml.Node, above: str) -> Iterator[Finding]:
        if id(node) in seen:
            return
        seen.add(id(node))
        first: dict[Hashable, int] = {}
        for key, place, value in _children(loader, node):
            path = f"{above}[{key}]" if isinstance(node, yaml.SequenceNode) else f"{above}.{key}".lstrip(".")
            if key in first:
                message = f"stands twice, first in line {first[key]}; keep one of the two"
                yield Finding(_at(name, _line(place)), path, message)
            first.setdefault(key, _line(place))
            yield from walk(value, path)

    yield from walk(root, "")
