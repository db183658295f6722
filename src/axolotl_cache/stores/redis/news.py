"""What other machines have changed and removed, and telling them the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from axolotl_cache.clock import Clock
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import Record, new_version
from axolotl_cache.stores.redis.address import Host
from axolotl_cache.stores.redis.notes import Note, Notes
from axolotl_cache.stores.redis.removals import Removal, Removals
from axolotl_cache.stores.redis.tracking import Tracking

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.near import NearStore
    from axolotl_cache.stores.redis.remote import Remote

_CLOCKS_APART_SECONDS: Final = 60.0
"""What machines' clocks may differ by: so much later than a removal, an entry may still be one of those."""
_SAVE_SECONDS: Final = 1.0


class News:
    """Listens for one near store, and speaks for it.

    Args:
        near: who wants to know.
        far: what is shared.
        removals: what is still to be said.
        clock: seconds since the epoch.
        folder: where the position in the announcements is kept; None: it is not.
        recheck_seconds: how often copies are doubted where the servers can't track.
    """

    def __init__(
        self,
        near: NearStore,
        far: Remote,
        removals: Removals,
        *,
        clock: Clock,
        folder: Path | None,
        recheck_seconds: float,
    ) -> None:
        self._near = near
        self._far = far
        self._redis = far.redis
        self._link = far.redis.link
        self._removals = removals
        self._clock = clock
        self._sender = f"{new_version():x}"
        self._primaries: tuple[Host, ...] = ()
        self._opened_at = clock()
        self._file = None if folder is None else folder / "redis-notes"
        position = self._saved()
        self._saved_position, self._saved_at = position, monotonic()
        self._was_away = position is not None
        self._notes = Notes(
            self._redis.commands,
            lambda: self._redis.space,
            on_note=self._heard,
            on_gap=near.forget_all,
            on_lost=removals.say_again,
            on_turn=self._turn,
            position=position,
        )
        self._tracking = Tracking(
            self._link,
            self._prefixes,
            on_changed=self._changed,
            on_doubt=near.doubt_all,
            without_seconds=recheck_seconds,
        )

    def start(self) -> None:
        """Begin to listen."""
        self._notes.start()
        self._tracking.start()

    def is_listening(self) -> bool:
        """Whether all changes are heard of as they come."""
        return self._notes.caught_up.is_set() and self._tracking.is_listening()

    def wait_until_listening(self, timeout_seconds: float) -> bool:
        """Wait until changes are heard of; return whether they are."""
        deadline = monotonic() + timeout_seconds
        return self._notes.caught_up.wait(timeout_seconds) and self._tracking.wait(deadline - monotonic())

    def may_serve(self, record: Record) -> bool:
        """Whether a record of this machine may be served.

        What an earlier process left on disk may not, until the announcements since then were read.
        """
        return not self._was_away or record.created_at >= self._opened_at or self._notes.caught_up.is_set()

    def carry_out(self, removal: Removal, *, later: bool = False) -> list[str]:
        """Remove on the servers, and tell everybody; return the keys.

        Args:
            removal: what.
            later: some time has passed, and what was stored since is to stay.

        Raises:
            StoreError: it could not be done now.
        """
        self._must_be_up()
        due = removal.later() if later else removal
        gone = self._far.remove(due.at, keys=due.keys, tag=due.tag, created_before=due.created_before)
        self._announce(due)
        self._removals.passed_on(removal)
        return gone

    def erase(self, removal: Removal) -> ErasureReport:
        """Erase on the servers, and tell everybody.

        Raises:
            StoreError: it could not be done now.
        """
        self._must_be_up()
        report = self._far.erase(removal.tag)
        self._announce(removal)
        self._removals.passed_on(removal)
        return report

    def close(self) -> None:
        """Listen no more."""
        self._notes.close()
        self._tracking.close()
        self._save()

    # Inside

    def _must_be_up(self) -> None:
        if not self._link.is_up():
            raise StoreError(self._link.report().trouble)

    def _announce(self, removal: Removal) -> None:
        hide = self._far.hide
        self._notes.announce(
            Note(
                self._sender,
                self._redis.space.scope_text,
                removal.at,
                None if removal.keys is None else tuple(map(hide, removal.keys)),
                None if removal.tag is None else hide(removal.tag),
                removal.created_before,
                removal.is_erasure,
            )
        )

    def _heard(self, note: Note) -> None:
        if note.sender == self._sender or not (note.is_erasure or note.scope == self._redis.space.scope_text):
            return
        show = self._far.show
        try:
            keys = None if note.keys is None else tuple(map(show, note.keys))
            tag = None if note.tag is None else show(note.tag)
        except ValueError:  # of those who have another key
            return
        latest = note.at + _CLOCKS_APART_SECONDS
        before = latest if note.created_before is None else min(latest, note.created_before)
        self._near.heard_of_removal(Removal(latest, keys, tag, before, note.is_erasure))

    def _changed(self, names: Sequence[bytes]) -> None:
        space = self._redis.space
        found = []
        for name in names:
            member = name.partition(b"}:e:")[2]
            key = space.key(member)
            if key is not None:
                found.append(key)
        self._near.heard_of_change(found)

    def _prefixes(self) -> list[bytes]:
        space = self._redis.space
        own = f"{space.scope_text}:".encode()
        return [space.place(partition) + own for partition in range(space.partitions)]

    def _turn(self) -> None:
        """Do what is to be done now and then: pass on removals, note how far the announcements were read."""
        layout = self._link.layout
        primaries = () if layout is None else layout.primaries
        if self._primaries and primaries != self._primaries:
            self._removals.say_again()  # a replica may have been promoted that had not heard of all
        self._primaries = primaries
        for removal in self._removals.to_pass_on() if self._link.is_up() else ():
            with suppress(StoreError):
                if removal.is_erasure:
                    self.erase(removal)
                else:
                    self.carry_out(removal, later=True)
        if self._notes.position != self._saved_position and monotonic() - self._saved_at > _SAVE_SECONDS:
            self._save()

    def _saved(self) -> str | None:
        if self._file is None:
            return None
        try:
            text = self._file.read_text("ascii").strip()
        except (OSError, ValueError):
            return None
        return text if text.replace("-", "", 1).isdigit() else None

    def _save(self) -> None:
        position = self._notes.position
        if self._file is None or position is None:
            return
        draft = self._file.with_name(f"{self._file.name}.new-{new_version():x}")
        with suppress(OSError):  # then some announcements are read twice, which does no harm
            with os.fdopen(
                os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w"
            ) as file:
                file.write(position)
            draft.replace(self._file)
            self._saved_position, self._saved_at = position, monotonic()
