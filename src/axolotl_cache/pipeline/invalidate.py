"""Everything that came of an entity's record, dropped in every tier that a pipeline has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axolotl_cache.errors import StoreError
from axolotl_cache.session import entity_of, names_of

if TYPE_CHECKING:
    from axolotl_cache.pipeline.pipeline import Pipeline


def invalidate_entity(pipeline: Pipeline, name: str) -> int:
    """Do as `Pipeline.invalidate_entity`."""
    entity = entity_of(name)
    failed: StoreError | None = None
    # The record first: else a request in between would store an answer that used it.
    if pipeline.session is not None and entity is not None:
        try:
            pipeline.session.drop(entity, pipeline.engine)
        except StoreError as error:
            failed = error
    removed = 0
    if pipeline.response is not None:
        removed = sum(pipeline.response.invalidate(entity=each) for each in names_of(name))
    if failed is not None:
        raise failed
    return removed
