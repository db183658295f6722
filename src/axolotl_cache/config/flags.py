"""The cache flags that every front shares, and the settings that they stand for."""

from __future__ import annotations

from axolotl_cache.config.layers import Flag


def cache_flags(
    *,
    use_prefix_cache: bool = False,
    enable_cache_optimization: bool = False,
    cache_ttl: str | float | None = None,
) -> dict[str, Flag]:
    """Return the settings that the flags stand for, as `load_settings` takes them.

    Args:
        use_prefix_cache: `--use-prefix-cache`, the prefix cache on.
        enable_cache_optimization: `--enable-cache-optimization`, all tiers on and tuned by themselves.
        cache_ttl: `--cache-ttl`, how long an answer, and the keys and values of a prefix that is not
            pinned, may be served: seconds, or a time as 48h.
    """
    flags: dict[str, Flag] = {}
    if enable_cache_optimization:
        name = "--enable-cache-optimization"
        flags["model_config.enable_prefix_cache"] = Flag(name, True)
        flags["inference_settings.max_cache_entries"] = Flag(name, "auto")
    if use_prefix_cache:
        flags["model_config.enable_prefix_cache"] = Flag("--use-prefix-cache", True)
    if cache_ttl is not None:
        flags["inference_settings.entry_timeout"] = Flag("--cache-ttl", cache_ttl)
    return flags
