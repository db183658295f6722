"""What a provider of entities' records has to do: say who may see one, and fetch it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from axolotl_cache.entities import Entity
from axolotl_cache.errors import AxolotlCacheError


class ProviderError(AxolotlCacheError):
    """The source of records failed. Nothing is remembered of it: the next request asks again."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks."""

    tenant: str
    """Empty where there is only one."""
    principal: str
    """Empty if the request names nobody."""


@dataclass(frozen=True, slots=True)
class EntityRecord:
    """What is known of an entity."""

    content: Mapping[str, Any] | str
    """Names and values, in the order in which they are to stand in the prompt; or a text."""
    ttl_seconds: float | None = None
    """How long it may be used; 0 for this request only, None for the provider's `ttl_seconds`."""


class EntityProvider(Protocol):
    """Where the records of entities come from. Called from many threads at once.

    An attribute `ttl_seconds` says for how long records are kept that do not say so themselves; without it,
    300 seconds.
    """

    @property
    def kinds(self) -> Collection[str]:
        """The kinds of entities that there are records of, as `("order", "reservation")`."""

    def may_see(self, entity: Entity, who: Who) -> bool:
        """Return whether they may see the record of this entity. Only `True` is a yes.

        Called for every request, also where the record is known already: it should be fast. Say no, rather
        than yes, to what does not exist, so that nobody learns what does.
        """

    def fetch(self, entity: Entity, tenant: str) -> EntityRecord | Mapping[str, Any] | str | None:
        """Return the record, the same for all of a tenant who may see it; None if there is none."""
