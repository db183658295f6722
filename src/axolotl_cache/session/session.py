"""One session, and what it is called."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.prefix import Lease
from axolotl_cache.session.conversation import Conversation

_SESSION_BYTES: Final = 2_000
"""What a session takes beside its conversation: its names, its lease, its place in the table."""


@dataclass(frozen=True, slots=True)
class SessionName:
    """Which session: the same id from another principal, or of another tenant, is another one."""

    tenant: str
    principal: str
    id: str

    @property
    def key(self) -> str:
        """Of its record in a store: 32 hexadecimal digits."""
        told = json.dumps([self.tenant, self.principal, self.id]).encode()
        return blake2b(told, digest_size=16, person=b"axc-session").hexdigest()

    @property
    def tags(self) -> tuple[str, ...]:
        """What its record can be removed by."""
        named = {"tenant": self.tenant, "user": self.principal, "session": self.id}
        return tuple(f"{kind}:{name}" for kind, name in named.items() if name)

    @property
    def fence(self) -> str:
        """Who may find the keys and values of the conversation: the principal; with none, the session."""
        kind, name = ("user", self.principal) if self.principal else ("session", self.id)
        return f"{kind}:{name}"


@dataclass(eq=False, slots=True)
class Session:
    """One session."""

    name: SessionName
    begun_at: float
    """When this process first had it, or had it again, in seconds since the epoch."""
    used_at: float
    turns: int = 0
    conversation: Conversation = field(default_factory=Conversation)
    lease: Lease = field(default_factory=Lease)
    lock: Any = field(default_factory=threading.Lock, repr=False)
    """Guards the conversation: turns of one session may come at once."""
    counted_bytes: int = 0
    """What it was last seen to take, by the sessions that it is one of."""

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory, its keys and values not counted."""
        return _SESSION_BYTES + self.conversation.held_bytes
