"""Configuration: an Axolotl YAML with cache blocks, flags and the environment, typed and validated."""

from axolotl_cache.config.encryption_key import read_encryption_key
from axolotl_cache.config.flags import cache_flags
from axolotl_cache.config.layers import Flag
from axolotl_cache.config.load import load_settings
from axolotl_cache.config.secrets import mask_connection, shown
from axolotl_cache.config.settings import (
    BLOCKS,
    ClusterSettings,
    InferenceSettings,
    ModelSettings,
    Prices,
    SessionSettings,
    Settings,
    TtlRule,
    TtlRules,
)
from axolotl_cache.config.source import Source
from axolotl_cache.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "BLOCKS",
    "ClusterSettings",
    "Flag",
    "InferenceSettings",
    "ModelSettings",
    "Prices",
    "SessionSettings",
    "Settings",
    "Source",
    "TtlRule",
    "TtlRules",
    "cache_flags",
    "format_duration",
    "format_size",
    "load_settings",
    "mask_connection",
    "parse_duration",
    "parse_size",
    "read_encryption_key",
    "shown",
]
