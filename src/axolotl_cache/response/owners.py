"""Whose an entry is, as tags that only code writes, so that it can be found again by owner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

KINDS: Final = ("tenant", "user", "session", "entity", "model", "version")
"""What an entry may belong to. `model` and `version` are what computed it."""


class OwnerTag(str):
    """A tag with a reserved prefix, as `owner_tags` makes them; a plain str like it is refused."""

    __slots__ = ()


def owner_tag(kind: str, name: str) -> OwnerTag:
    """Return the tag of one owner.

    Raises:
        TypeError: the name is not a str.
        ValueError: the name is empty, or there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"entries belong to one of {', '.join(KINDS)}, not {kind!r}")
    if not isinstance(name, str):
        raise TypeError(f"a {kind} is named by a str, not {name!r}")
    if not name:
        raise ValueError(f"the {kind} is an empty name: leave it out")
    return OwnerTag(f"{kind}:{name}")


def owner_tags(
    *,
    tenant: str = "",
    user: str = "",
    session: str = "",
    entities: Iterable[str] = (),
    models: Iterable[str] = (),
    version: str = "",
) -> tuple[OwnerTag, ...]:
    """Return the tags that say whose an entry is, for `tags=[*owner_tags(session="s-17"), "prices"]`.

    Args:
        tenant: whose entry it is.
        user: who asked.
        session: in which conversation.
        entities: what it is about, as `order 4711`.
        models: what computed it: digests or names.
        version: the version mark it was computed under.

    Raises:
        TypeError: a name is not a str, or several are given as one str.
        ValueError: one of several is empty.
    """
    for several, names in (("entities", entities), ("models", models)):
        if isinstance(names, str):
            raise TypeError(f"{several} is several: write {several}=[{names!r}]")
    single = {"tenant": tenant, "user": user, "session": session, "version": version}
    return (
        *(owner_tag(kind, name) for kind, name in single.items() if name != ""),
        *(owner_tag("entity", name) for name in entities),
        *(owner_tag("model", name) for name in models),
    )


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags as stores keep them.

    Raises:
        TypeError: one str instead of several, or something that is none.
        ValueError: a user's tag has a reserved prefix.
    """
    if isinstance(tags, str):
        raise TypeError(f"tags is several: write tags=[{tags!r}]")
    checked = []
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is a str, not {tag!r}")
        if not isinstance(tag, OwnerTag):
            refuse_reserved(tag)
        tag.encode()  # a lone surrogate can't be stored, and is better refused here
        checked.append(str(tag))
    return tuple(dict.fromkeys(checked))


def refuse_reserved(tag: str) -> None:
    """Raise ValueError if a user's tag has a reserved prefix."""
    kind, colon, name = tag.partition(":")
    if colon and kind in KINDS:
        raise ValueError(
            f"the tag {tag!r} begins with {kind + colon!r}, which says whose an entry is: to store one, use "
            f"owner_tags (of axolotl_cache.response); to remove some, invalidate({kind}={name!r}); or name "
            "the tag differently"
        )


def erased_owner(**names: str | None) -> OwnerTag:
    """Return the tag of the one owner that is given.

    Raises:
        TypeError: none of them, or several.
        ValueError: the name is empty.
    """
    given = [owner_tag(kind, name) for kind, name in names.items() if name is not None]
    if len(given) != 1:
        raise TypeError("erase whose? Give one of " + ", ".join(f"{kind}=" for kind in names))
    return given[0]
