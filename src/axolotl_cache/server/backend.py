"""What the service asks of whatever computes answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from axolotl_cache.request import Answer, Request
from axolotl_cache.server.exchange import Exchange

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.near import NearStore


class Work(Protocol):
    """One request that was understood."""

    @property
    def places(self) -> int:
        """Choices that must be computed; 0 if all is there."""

    @property
    def model(self) -> str:
        """As the request names it."""

    @property
    def streams(self) -> bool:
        """Whether it asks for events."""

    @property
    def upstream(self) -> str:
        """Which upstream answers; empty for our own engine, or as long as it is not known."""

    @property
    def asked_for(self) -> Request:
        """The request; of several choices, the first."""

    @property
    def accounts(self) -> list[tuple[Request, Answer]]:
        """What came of it."""

    async def hand_out(self, exchange: Exchange) -> None:
        """Send it, if all is there."""

    async def compute(self, exchange: Exchange) -> None:
        """Compute it, and send it."""


class Backend(Protocol):
    """What answers requests."""

    def begin(self, route: str, body: bytes, headers: dict[str, str], tenant: str) -> Work:
        """Read a request, and look up what is stored."""

    def bound_tenants(self, bound_of: Callable[[str], int | None]) -> None:
        """Hold no more for a tenant than so many bytes; asked whenever something is stored."""

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""

    @property
    def shared(self) -> NearStore | None:
        """The servers that `cluster_cache` names; None without any."""

    async def models(self) -> list[dict[str, Any]]:
        """Return what requests may name as their model, as OpenAI lists it."""

    async def close(self) -> None:
        """Wait for what runs, and let go of everything."""
