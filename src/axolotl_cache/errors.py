"""Every error this library raises, as one tree.

    AxolotlCacheError
     +-- ConfigError          the YAML, a flag or an environment variable is wrong (all mistakes at once)
     +-- RequestError         this one request can't be served as asked; others are not touched
     |    +-- RequestCancelled    it was cancelled before its end, by another than its reader
     |    +-- StreamDiverged      its answer failed half way, and computed again it began otherwise
     |    +-- ReaderTooSlow       others who read the same answer are too far ahead
     |    +-- NotCached           nothing stored could answer it, and it wanted nothing computed
     +-- ModelLoadError       the model that the YAML names can't be loaded here
     +-- NamespaceMismatch    cached state belongs to another model, template, tenant or version
     +-- CapacityError        what must be held does not fit in the bound that was set
     +-- StoreError           the store below a cache failed
          +-- StoreFormatError   a file of another format or version; it is left untouched
          +-- ErasureError       not everything of somebody could be erased; it says what is left

Each message says what to do next. An error is never cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AxolotlCacheError(Exception):
    """Base of everything this library raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it stands, what stands there, what to write instead."""

    where: str
    """The source, as `file.yaml:12`, `--cache-ttl` or an environment variable's name."""
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}"


class ConfigError(AxolotlCacheError):
    """The configuration is wrong; `problems` lists every mistake found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 mistake" if count == 1 else f"{count} mistakes"
        super().__init__("\n".join([f"{head} in the configuration:", *(f"  {p}" for p in self.problems)]))


class RequestError(AxolotlCacheError):
    """This request can't be served as asked."""


class RequestCancelled(RequestError):
    """This request was cancelled, by the engine's closing for one. Send it again."""


class StreamDiverged(RequestError):
    """This answer failed half way, and computed again it began otherwise. Send the request again."""


class ReaderTooSlow(RequestError):
    """This answer was shared, and others are too far ahead of this reader. Send the request again."""


class NotCached(RequestError):
    """No stored answer could be served, and the request asked for nothing else (only-if-cached).

    In HTTP, status 504 (RFC 9111, section 5.2.1.7).
    """


class ModelLoadError(AxolotlCacheError):
    """The model that the configuration names can't be loaded on this machine."""


class NamespaceMismatch(AxolotlCacheError):
    """Cached state belongs to another model, template, tenant or version."""


class CapacityError(AxolotlCacheError):
    """What must be held (pinned prefixes, one request's working memory) exceeds the bound that was set."""


class StoreError(AxolotlCacheError):
    """The store below a cache failed; the caller may go on without it."""


class StoreFormatError(StoreError):
    """The file is of another format or version. It was left untouched."""


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What an erasure removed, and what it knows to be there still. Reports of several tiers add up."""

    entries: int = 0
    """Entries removed: answers, of all namespaces, and blocks of keys and values, counted in each tier."""
    files: int = 0
    """Files deleted."""
    bytes: int = 0
    """Bytes of the entries, as `max_bytes` counts them, and of deleted files that belonged to no entry."""
    left: tuple[str, ...] = ()
    """What may still hold something, one sentence each."""

    def __add__(self, other: ErasureReport) -> ErasureReport:
        return ErasureReport(
            self.entries + other.entries,
            self.files + other.files,
            self.bytes + other.bytes,
            tuple(dict.fromkeys((*self.left, *other.left))),
        )


class ErasureError(StoreError):
    """Not everything could be erased: `report.left` says what is still there. What could go is gone."""

    def __init__(self, report: ErasureReport) -> None:
        self.report = report
        gone = f"{report.entries} entries and {report.files} files are gone"
        super().__init__(
            "\n".join(
                [
                    f"not everything is erased ({gone}). See to what is left, and erase once more:",
                    *(f"  {each}" for each in report.left),
                ]
            )
        )
