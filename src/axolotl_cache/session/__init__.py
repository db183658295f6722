"""Conversations and what they are about: sessions, the records of entities, and who may see them."""

from axolotl_cache.session.conversation import Conversation
from axolotl_cache.session.http_records import HttpRecords
from axolotl_cache.session.load import load_provider
from axolotl_cache.session.names import entity_fence, entity_of, names_of
from axolotl_cache.session.provider import EntityProvider, EntityRecord, ProviderError, Who
from axolotl_cache.session.records import Records, Seen, Sight
from axolotl_cache.session.session import Session, SessionName
from axolotl_cache.session.sessions import Sessions
from axolotl_cache.session.sql_records import SqlQuery, SqlRecords

__all__ = [
    "Conversation",
    "EntityProvider",
    "EntityRecord",
    "HttpRecords",
    "ProviderError",
    "Records",
    "Seen",
    "Session",
    "SessionName",
    "Sessions",
    "Sight",
    "SqlQuery",
    "SqlRecords",
    "Who",
    "entity_fence",
    "entity_of",
    "load_provider",
    "names_of",
]
