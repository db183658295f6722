"""Records from a database, through any driver of Python's DB-API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from axolotl_cache.entities import Entity
from axolotl_cache.session.provider import EntityRecord, ProviderError, Who

_PARAMETERS: Final = frozenset({"kind", "value", "tenant", "principal"})


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """One query, and what stands for its placeholders, in order.

    Values are bound by the driver; nothing is ever written into the text.

    Raises:
        ValueError: a parameter that is none of kind, value, tenant and principal.
    """

    sql: str
    """In the driver's own style: `?` for sqlite3, `%s` for psycopg and MySQL."""
    parameters: tuple[str, ...] = ("value",)

    def __post_init__(self) -> None:
        if isinstance(self.parameters, str) or not set(self.parameters) <= _PARAMETERS:
            raise ValueError(
                f"parameters {self.parameters!r}: give a tuple of {', '.join(sorted(_PARAMETERS))}"
            )


class SqlRecords:
    """An `EntityProvider` over a database.

    Args:
        connect: opens a connection; called for each query, which closes it.
        access: for each kind, what finds a row where the principal may see the entity, and none where not.
            It should bind `principal` (and `tenant`, where there are several): else all may see it.
        record: for each kind, what finds the entity's row; the columns' names become the record's.
        ttl_seconds: how long a record is kept.

    Raises:
        ValueError: a kind has only one of the two queries.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        access: Mapping[str, SqlQuery],
        record: Mapping[str, SqlQuery],
        ttl_seconds: float = 300.0,
    ) -> None:
        if set(access) != set(record):
            raise ValueError(
                f"each kind needs both queries; only one has {', '.join(sorted(set(access) ^ set(record)))}"
            )
        self._connect = connect
        self._access = dict(access)
        self._record = dict(record)
        self.ttl_seconds = ttl_seconds

    @property
    def kinds(self) -> Collection[str]:
        """The kinds that there are queries for."""
        return self._record.keys()

    def may_see(self, entity: Entity, who: Who) -> bool:
        """Return whether the kind's `access` query finds a row."""
        rows, _ = self._rows(self._access[entity.kind], entity, who)
        return bool(rows)

    def fetch(self, entity: Entity, tenant: str) -> EntityRecord | None:
        """Return the row that the kind's `record` query finds.

        Raises:
            ProviderError: it finds several, or binds the principal.
        """
        query = self._record[entity.kind]
        if "principal" in query.parameters:
            raise ProviderError("a record is shared by all who may see it: its query can't bind principal")
        rows, names = self._rows(query, entity, Who(tenant, ""))
        if len(rows) > 1:
            raise ProviderError(f"the query for {entity.kind} finds several rows; let it find one")
        return EntityRecord(dict(zip(names, rows[0], strict=True))) if rows else None

    def _rows(self, query: SqlQuery, entity: Entity, who: Who) -> tuple[list[Any], list[str]]:
        known = {"kind": entity.kind, "value": entity.value, "tenant": who.tenant, "principal": who.principal}
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query.sql, tuple(known[name] for name in query.parameters))
            return cursor.fetchmany(2), [column[0] for column in cursor.description]
