"""What `contains` has reported stays at hand for the `get` that follows."""

from __future__ import annotations

from axolotl_cache.stores import Record


class Promises:
    """Records kept for a moment after they were reported, whatever becomes of the entry meanwhile.

    Two generations of a dict: the young one becomes the old one every `seconds`, and the old one goes. So
    giving a promise costs one dict write, and it holds for `seconds` at the least, twice that at the most.
    Used under its owner's lock.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._from = self._until = 0.0
        self._young: dict[str, Record] = {}
        self._old: dict[str, Record] = {}

    def give(self, key: str, record: Record, now: float) -> None:
        """Keep `record` for `key`."""
        if not self._from <= now < self._until:
            self._turn(now)
        self._young[key] = record

    def kept(self, key: str, now: float) -> Record | None:
        """Return the record promised for `key`, or None."""
        if not self._from <= now < self._until:
            self._turn(now)
        return self._young.get(key) or self._old.get(key)

    def replace(self, key: str, record: Record, now: float) -> None:
        """Let a promise for `key`, if there is one, hold for what was stored in its place."""
        if not self._from <= now < self._until:
            self._turn(now)  # here too, so that a cache that is only written to lets go of old promises
        if key in self._young:
            self._young[key] = record
        if key in self._old:
            self._old[key] = record

    def withdraw(
        self, *, key: str | None = None, tag: str | None = None, created_before: float | None = None
    ) -> None:
        """Take back the promises that meet every condition given; all with none."""
        for kept in (self._young, self._old):
            keys = list(kept) if key is None else [key]
            for each in keys:
                record = kept.get(each)
                if (
                    record is not None
                    and (tag is None or tag in record.tags)
                    and (created_before is None or record.created_at < created_before)
                ):
                    del kept[each]

    def _turn(self, now: float) -> None:
        # Also when the clock was set back: a promise must not last until it has caught up. A little back is
        # no sign of that: another thread may have read the clock before this one, and come here later.
        recent = self._until <= now < self._until + self._seconds
        self._old = self._young if recent else {}
        self._young = {}
        self._from, self._until = now - self._seconds, now + self._seconds
