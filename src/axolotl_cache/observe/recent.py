"""The last requests, for looking at one by one: bounded in number, and their texts in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from axolotl_cache.observe.record import Record
from axolotl_cache.request import Request

MOST_RECORDS: Final = 1000
MOST_TEXT_BYTES: Final = 16 * 2**20
_MESSAGE_BYTES: Final = 200
"""What a message takes beside its text, about."""


class Recent:
    """The last records by name, newest last, each with its request where texts may be kept.

    Args:
        keeps_text: whether requests are kept; without, records only.
        most_records: bound on the records.
        most_text_bytes: bound on the bytes of the requests kept, roughly; the oldest go first.
    """

    def __init__(
        self,
        *,
        keeps_text: bool,
        most_records: int = MOST_RECORDS,
        most_text_bytes: int = MOST_TEXT_BYTES,
    ) -> None:
        self.keeps_text = keeps_text
        self._most_records = most_records
        self._most_text_bytes = most_text_bytes
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._requests: OrderedDict[str, tuple[Request, int]] = OrderedDict()
        self._text_bytes = 0

    def add(self, record: Record, request: Request | None) -> None:
        """Keep one; the oldest goes. A name that comes again takes the older one's place. Cost: 0.5 us."""
        name = record.name
        self._records.pop(name, None)
        self._records[name] = record
        if self.keeps_text:
            self._drop_text(name)
            if request is not None:
                self._keep_text(name, request)
        if len(self._records) > self._most_records:
            oldest, _ = self._records.popitem(last=False)
            self._drop_text(oldest)

    def newest(self) -> list[Record]:
        """Return all records, newest first."""
        return list(reversed(self._records.values()))

    def get(self, record_id: str) -> tuple[Record, Request | None] | None:
        """Return a record, and its request if it was kept."""
        record = self._records.get(record_id)
        if record is None:
            return None
        kept = self._requests.get(record_id)
        return record, kept[0] if kept else None

    def _keep_text(self, record_id: str, request: Request) -> None:
        size = _MESSAGE_BYTES + len(request.prompt or "")
        size += sum(_MESSAGE_BYTES + len(message.content) for message in request.messages)
        if size > self._most_text_bytes:
            return
        self._requests[record_id] = request, size
        self._text_bytes += size
        while self._text_bytes > self._most_text_bytes:
            _, (_, gone) = self._requests.popitem(last=False)
            self._text_bytes -= gone

    def _drop_text(self, record_id: str) -> None:
        kept = self._requests.pop(record_id, None)
        if kept is not None:
            self._text_bytes -= kept[1]
