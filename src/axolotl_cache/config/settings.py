"""Every key of the cache blocks: its type, its default, what it accepts. One class a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from axolotl_cache.config.prompts import prompt_text
from axolotl_cache.config.source import Source
from axolotl_cache.config.units import parse_duration, parse_size
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS


def _accepts(text: str) -> WrapValidator:
    """Answer every wrong value of a key with the same sentence: what is accepted there."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValueError:
            raise PydanticCustomError("not_accepted", "{accepted}", {"accepted": text}) from None

    return WrapValidator(check)


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be above 0")
    return value


def _holds_a_block(value: int, info: ValidationInfo) -> int:
    if value < BLOCK_SIZE_TOKENS and info.data.get("enable_prefix_cache", True):
        raise ValueError("shorter than a block")
    return value


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _empty_to_none(value: Any) -> Any:
    return None if value == {} else value


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(str(error)) from error
    return value


def _never_is_zero(value: Any) -> Any:
    return 0.0 if value == "never" else parse_duration(value)


_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?"
_CONNECTION = re.compile(
    rf"(?:rediss?|valkeys?)(?:\+sentinel|\+cluster)?://(?:\S*@)?{_HOST}(?:,{_HOST})*(?:/[^\s?]*)?(?:\?\S*)?"
    r"|unix://\S+"
)


def _connection(value: str) -> str:
    if not _CONNECTION.fullmatch(value):
        raise ValueError("not a connection string")
    return value


Switch = Annotated[bool, _accepts("true or false")]
Text = Annotated[str, _accepts("a text; put it in quotes")]
Share = Annotated[float, Field(ge=0, le=1), _accepts("a number from 0 to 1")]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_above_zero),
    _accepts("a size above 0, as 2GB, 512MiB or a whole number of bytes"),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    AfterValidator(_above_zero),
    _accepts("a time above 0 and of at most 100 years, as 7200 (seconds), 90s, 1h30m or 48h"),
]


def _choice(*names: str) -> WrapValidator:
    return _accepts("one of " + ", ".join(names))


class Block(BaseModel):
    """What all blocks share: no unknown keys, no silent conversions, no changes later."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(Block):
    """The cache keys of `model_config`: the prefix cache."""

    enable_prefix_cache: Switch = True
    prefix_length: Annotated[
        int,
        Field(ge=1, le=10_000_000),
        AfterValidator(_holds_a_block),
        _accepts(
            f"a whole number of tokens and at least one block ({BLOCK_SIZE_TOKENS}), which is the least that "
            "can be pinned; `enable_prefix_cache: false` turns the prefix cache off"
        ),
    ] = 128
    system_prompts: Annotated[
        tuple[Annotated[str, AfterValidator(prompt_text)], ...], BeforeValidator(_list_to_tuple)
    ] = ()
    """The texts; file names have been read."""
    cache_backend: Annotated[Literal["memory", "disk", "redis"], _choice('"memory"', '"disk"', '"redis"')] = (
        "memory"
    )
    max_cache_size: Size = 2 * 10**9
    """Bytes."""


class TtlRule(Block):
    """One rule: what it looks at (all that is given must match), and what follows."""

    tag: Text | None = None
    route: Text | None = None
    pattern: Annotated[str, AfterValidator(_regular_expression), _accepts("a regular expression")] | None = (
        None
    )
    kind: (
        Annotated[Literal["static", "dynamic", "realtime"], _choice('"static"', '"dynamic"', '"realtime"')]
        | None
    ) = None
    ttl: Duration | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> TtlRule:
        if self.tag is None and self.route is None and self.pattern is None:
            raise PydanticCustomError(
                "incomplete", "a whole rule: it needs at least one of tag, route and pattern"
            )
        if (self.kind is None) == (self.ttl is None):
            raise PydanticCustomError("incomplete", "a whole rule: it needs either kind or ttl, and not both")
        return self


KindTtl = Annotated[
    float, BeforeValidator(_never_is_zero), _accepts("a time as 48h, or never (such answers are not stored)")
]


class TtlRules(Block):
    """How long an answer may be served, by kind of content; seconds, 0 is never stored."""

    static: KindTtl = 48 * 3600.0
    dynamic: KindTtl = 3 * 3600.0
    realtime: KindTtl = 0.0
    rules: Annotated[tuple[TtlRule, ...], BeforeValidator(_list_to_tuple)] = ()


class InferenceSettings(Block):
    """The block `inference_settings`: the response caches."""

    cache_policy: Annotated[Literal["lru", "lfu", "adaptive"], _choice('"lru"', '"lfu"', '"adaptive"')] = (
        "lru"
    )
    max_cache_entries: Annotated[
        Annotated[int, Field(ge=1, le=10**9)] | Literal["auto"],
        _accepts('a whole number from 1 to 1000000000, or "auto"'),
    ] = 2000
    entry_timeout: Duration = 1800.0
    """Seconds."""
    environment_tag: Text = "production"
    cache_version: Text = ""
    enable_persistence: Switch = True
    persistence_path: Text = ""
    """Empty: the user's cache folder."""
    strict: Switch = False
    """Compute answers as if alone, where a token's company could change its bits."""
    semantic_matching: Switch = False
    max_error_rate: Annotated[
        float, Field(gt=0, lt=1), _accepts("a number above 0 and below 1 (0.01 is one wrong hit in 100)")
    ] = 0.01
    ttl_rules: Annotated[TtlRules | None, BeforeValidator(_empty_to_none)] = None


class SessionSettings(Block):
    """The block `session_management`."""

    enable_session_cache: Switch = True
    session_timeout: Duration = 4200.0
    """Seconds."""
    entity_tracking: Switch = True
    similarity_threshold: Share = 0.75


class ClusterSettings(Block):
    """The block `cluster_cache`; off unless it is written."""

    storage_backend: Annotated[Literal["redis", "valkey"], _choice('"redis"', '"valkey"')] = "redis"
    # Never shown: it may hold a password.
    connection_string: Annotated[
        str,
        Field(repr=False),
        AfterValidator(_connection),
        _accepts(
            "redis://, rediss:// or valkey:// (with +sentinel or +cluster if need be) and a host, "
            "or unix:// and a path"
        ),
    ] = "redis://cache-cluster:6379/0"
    replication_count: Annotated[
        int, Field(ge=1), _accepts("a whole number of copies, 1 or more (the primary included)")
    ] = 3
    failover_strategy: Annotated[Literal["auto", "none"], _choice('"auto"', '"none"')] = "auto"


class CacheBlocks(Block):
    """All of the cache blocks, under the names that the YAML gives them."""

    # pydantic keeps `model_config` for itself, so that this one field goes by another name inside.
    model: ModelSettings = Field(default=ModelSettings(), alias="model_config")
    inference: InferenceSettings = Field(default=InferenceSettings(), alias="inference_settings")
    session: SessionSettings = Field(default=SessionSettings(), alias="session_management")
    cluster: ClusterSettings | None = Field(default=None, alias="cluster_cache")
    max_memory_usage: Annotated[float, Field(gt=0, le=1), _accepts("a number above 0 and at most 1")] = 0.25


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

NOT_YET: Final[Mapping[tuple[str, ...], tuple[Any, ...]]] = {
    # What is validated but not built yet, with the values that do work. A line goes when its feature comes.
    ("model_config", "cache_backend"): ("memory", "disk"),
    ("inference_settings", "semantic_matching"): (False,),
    ("inference_settings", "ttl_rules"): ({},),
    ("cluster_cache",): (),
}

NO_EFFECT_YET: Final = frozenset(
    {
        "inference_settings.max_error_rate",
        *(f"session_management.{key}" for key in SessionSettings.model_fields),
    }
)
"""Keys that are accepted, so that a full YAML loads, and that nothing reads in this release."""


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
