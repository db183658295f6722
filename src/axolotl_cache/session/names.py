"""Names of entities: as requests and commands give them, and as fences in prompts have them."""

from __future__ import annotations

from axolotl_cache.entities import Entity, extract


def entity_of(name: str) -> Entity | None:
    """Return the entity that a request or a command names: `order 67890`, or as people write it.

    None for a name without kind and value: answers can be found by it, and no record belongs to it.
    """
    found = extract(name)
    if len(found) == 1:
        return found[0]
    kind, _, value = name.partition(" ")
    return Entity(kind, value.strip()) if kind and value.strip() else None


def names_of(name: str) -> tuple[str, ...]:
    """Return what answers about an entity may be found by: the name as given, and its one form."""
    entity = entity_of(name)
    return tuple(dict.fromkeys([name, *([] if entity is None else [entity.canonical])]))


def entity_fence(canonical: str) -> str:
    """Return the name of the fence before an entity's record in a prompt."""
    return f"entity:{canonical}"
