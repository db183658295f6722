"""What the tier on Redis reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkReport:
    """How things stand with the servers, for a person and for `/readyz`."""

    is_up: bool
    kind: str
    """`single`, `sentinel` or `cluster`; empty before they were ever reached."""
    server: str
    """As `valkey 9.1.2`."""
    primaries: tuple[str, ...]
    copies_wanted: int
    copies: int
    """Copies that a write has now, the primary included; of the primary with the fewest."""
    trouble: str
    """What is wrong, and what follows from it; empty if nothing is."""
    opened: int
    """How often the circuit breaker has opened since the start."""
    closed: int


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """Counts since the start, and how things stand with the servers."""

    link: LinkReport
    hits: int
    """Lookups that were not answered on this machine and were answered by the servers."""
    misses: int
    failed_lookups: int
    """Lookups that were given up, for want of time or of a server; each was answered without."""
    written: int
    acknowledged: int
    """Writes that `replication_count` servers have."""
    unacknowledged: int
    """Writes that fewer have: a failover may lose them."""
    dropped: int
    """Entries that were not written, because too many were waiting."""
    refused: int
    """Entries that the servers refused, being full for one."""
    fenced: int
    """Entries that came too late: another machine had computed them meanwhile."""
    pending_bytes: int
    """Bytes of entries that wait to be written."""
    removals_to_pass_on: int
    """Removals that other machines have not heard of, because the servers could not be reached."""
    is_coherent: bool
    """Whether the servers tell what is changed; else copies are compared every few seconds."""
