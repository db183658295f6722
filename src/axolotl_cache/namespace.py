"""The namespace: everything that can change what a model says, as one structured key for every tier."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

BLOCK_SIZE_TOKENS = 32
"""Keys and values are kept and reused in whole blocks of this many tokens (more in grid mode)."""

BLOCK_LAYOUT_VERSION = 3
"""Raised when prompts are computed another way, so that nothing of before is taken for the same bits."""


@dataclass(frozen=True)
class Namespace:
    """Who an entry belongs to. Two requests share entries only when all of these are equal."""

    weights: str
    """Digest of the base weights and of the model's configuration in force."""
    adapter: str
    """Digest of the adapter's weights and configuration; empty without one."""
    tokenizer: str
    chat_template: str
    dtype: str
    quantisation: str = ""
    compute: str = ""
    """What else decides the last bit of a result: device kind, torch version, attention kernel."""
    block_layout: str = f"v{BLOCK_LAYOUT_VERSION}"
    """How prompts are cut into blocks and calls; the engine adds its mode."""
    environment_tag: str = "production"
    cache_version: str = ""
    tenant: str = ""

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits, equal in every process and on every machine for equal fields."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"axc-namespace").hexdigest()

    def for_tenant(self, tenant: str) -> Namespace:
        """Return the same namespace for another tenant."""
        return self if tenant == self.tenant else replace(self, tenant=tenant)

    def for_layout(self, mode: str) -> Namespace:
        """Return the same namespace for prompts computed in this mode of the engine."""
        return replace(self, block_layout=f"v{BLOCK_LAYOUT_VERSION}-{mode}")

    def difference(self, other: Namespace) -> tuple[str, ...]:
        """Return the names of the fields in which the two differ."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))
