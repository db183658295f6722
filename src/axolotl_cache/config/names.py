"""Names that are almost right: what is said about a key that does not exist."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from difflib import SequenceMatcher
from typing import Any, Final

from axolotl_cache.config.secrets import shown
from axolotl_cache.config.settings import BLOCKS, HOME_OF

CLOSE: Final = 0.8
"""How alike two names are (difflib's ratio) when one is taken for a slip of the other."""

RELATED: Final = 0.6
"""Below this the nearest name is hardly what was meant, and all names are listed as well."""


def nearest(name: str, candidates: Iterable[str]) -> tuple[str, float]:
    """Return the candidate most like `name`, and how alike they are (0 to 1)."""
    folded = name.lower().replace("-", "_")
    alike = (
        (SequenceMatcher(None, folded, candidate).ratio(), candidate) for candidate in sorted(candidates)
    )
    ratio, candidate = max(alike, key=lambda pair: pair[0])
    return candidate, ratio


def unknown_key(
    key: Hashable, value: Any, valid: Collection[str], also_valid: Collection[str] = (), hint: str = ""
) -> str:
    """Return what to say of a key that does not exist where it stands.

    Args:
        key: as it was written.
        value: what was written there.
        valid: the keys that exist there.
        also_valid: more of them, too many to list.
        hint: what else may have been meant.
    """
    name = str(key)
    value_text = shown(value, name)
    if name in BLOCKS:
        return f"is a block of its own, and belongs at the top of the file (value {value_text})"
    if name in HOME_OF and name not in valid:
        home = f"under `{HOME_OF[name]}`" if HOME_OF[name] else "at the top of the file"
        return f"belongs {home}, not here (value {value_text})"
    candidate, ratio = nearest(name, {*valid, *also_valid})
    message = f"unknown key (value {value_text}); the nearest valid key is `{candidate}`"
    if ratio < RELATED:
        message += f"; valid here: {', '.join(valid)}"
    return f"{message}; {hint}" if hint else message
