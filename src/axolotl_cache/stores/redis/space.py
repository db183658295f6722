"""The names that a store's keys have on the servers, and how they are spread over a Cluster."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from axolotl_cache.stores.rows import to_bytes, to_text

CLUSTER_PARTITIONS: Final = 64
"""In a Cluster: enough to spread over any sensible number of primaries. The same for all who share."""


@dataclass(frozen=True, slots=True)
class Space:
    """The keys of one store: `{name:p}:...`, all of a partition p in one slot.

    Args:
        name: tells stores on the same servers apart.
        scope: entries of another scope are other entries.
        partitions: 1, or `CLUSTER_PARTITIONS` in a Cluster.
    """

    name: str
    scope: bytes
    partitions: int

    @property
    def scope_text(self) -> str:
        """The scope in hexadecimal digits."""
        return self.scope.hex()

    def member(self, key: str) -> bytes:
        """Return the name of an entry in the index."""
        return f"{self.scope.hex()}:".encode() + to_bytes(key)

    def key(self, member: bytes) -> str | None:
        """Return the key of an entry; None if it is of another scope."""
        scope, _, key = member.partition(b":")
        return to_text(key) if scope == self.scope.hex().encode() else None

    def partition(self, member: bytes) -> int:
        """Return where an entry belongs."""
        if self.partitions == 1:
            return 0
        return int.from_bytes(blake2b(member, digest_size=4).digest()) % self.partitions

    def tag(self, partition: int) -> bytes:
        """Return what all keys of a partition begin with."""
        return f"{{{self.name}:{partition}}}".encode()

    def place(self, partition: int) -> bytes:
        """Return what the names of a partition's entries begin with."""
        return self.tag(partition) + b":e:"

    def index(self, partition: int) -> list[bytes]:
        """Return the keys of a partition's index, as the scripts want them."""
        names = (b":meta", b":rows", b":ranks", b":dead", b":tags", b":gone")
        return [self.tag(partition) + name for name in names]

    def fence(self, member: bytes) -> bytes:
        """Return the key of the counter that fences an entry."""
        return self.tag(self.partition(member)) + b":f:" + member

    def lease(self, member: bytes) -> bytes:
        """Return the key of the lease on an entry."""
        return self.tag(self.partition(member)) + b":l:" + member

    def notes(self) -> bytes:
        """Return the key of the stream in which removals are announced."""
        return f"{{{self.name}:notes}}".encode()
