"""From settings to a pipeline that answers: model loaded, caches opened, system prompts pinned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl_cache.config import Prices, Settings, format_size, read_encryption_key
from axolotl_cache.engine.adapters import Adapters
from axolotl_cache.engine.engine import Engine
from axolotl_cache.engine.live import LiveModel
from axolotl_cache.engine.loader import LoadedModel, hide_progress, load_model
from axolotl_cache.engine.lower import LowerTier, layout_digest, open_lower_store, stored_block_bytes
from axolotl_cache.engine.memory import PressureGovernor, available_memory_bytes, total_memory_bytes
from axolotl_cache.engine.pool import KVLayout
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.generate import CachedGenerate
from axolotl_cache.memory_plan import prefix_cache_bytes, records_bytes, response_cache_bytes, share_memory
from axolotl_cache.paths import cache_home, keys_and_values_home
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.pipeline.session import SessionStep
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.response.prices import NO_PRICES, PriceTable
from axolotl_cache.session.render import without_special
from axolotl_cache.shared_servers import shared_tier
from axolotl_cache.stored_answers import open_response_cache
from axolotl_cache.stored_sessions import open_records, open_sessions

if TYPE_CHECKING:
    from axolotl_cache.pipeline.semantic import SemanticMatching

__all__ = ["hide_progress", "load", "open_pipeline", "open_response_cache", "wrap_generate"]

Report = Callable[[str], None]


def load(settings: Settings, report: Report) -> LoadedModel:
    """Load the model that the settings describe."""
    loaded = load_model(
        settings.axolotl,
        config_path=settings.path,
        model_overrides=settings.model_overrides,
        environment_tag=settings.inference.environment_tag,
        cache_version=settings.inference.cache_version,
        report=report,
    )
    for warning in loaded.warnings:
        report(f"warning: {warning}")
    return loaded


def open_pipeline(
    settings: Settings,
    loaded: LoadedModel,
    report: Report,
    *,
    response: SmartInferenceCache | None,
    use_prefix_cache: bool,
    persistent: bool = True,
    adapters: Mapping[str, Path] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pipeline:
    """Return a pipeline over a loaded model, its system prompts pinned.

    Args:
        settings: what is in force.
        loaded: the model.
        report: gets one line for each thing worth knowing.
        response: the response cache, as from `open_response_cache`; None leaves it out.
        use_prefix_cache: False computes every prompt in full.
        persistent: False keeps sessions in memory, whatever the settings say.
        adapters: folders of adapters beside the YAML's own, by the name that requests ask for them.
        progress: called with (system prompts computed, in all).
    """
    named = Adapters(loaded.model, loaded.namespace, report=report) if adapters else None
    for name, folder in (adapters or {}).items():
        if named is not None:
            named.load(name, folder)
    engine = _open_engine(
        settings,
        report,
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=loaded.end_tokens,
        use_prefix_cache=use_prefix_cache,
        adapters=named,
    )
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    is_caching = use_prefix_cache or response is not None
    share = int(total_memory_bytes(loaded.device) * settings.max_memory_usage)
    session = _open_session_step(settings, renderer, persistent, share) if is_caching else None
    has_sessions = session is not None and session.sessions is not None
    share_memory(settings, engine, response, share, report, has_sessions=has_sessions)
    pipeline = Pipeline(
        engine,
        renderer,
        loaded.namespace,
        response,
        adapters=named,
        ttl_rules=settings.inference.ttl_rules,
        semantic=None if response is None else _semantic(settings, response, report),
        prices=_prices(settings.inference.prices),
        model_name=str(settings.axolotl.get("base_model", "")),
        session=session,
    )
    pipeline.prefix_enabled = use_prefix_cache and engine.can_reuse
    if use_prefix_cache and not engine.can_reuse:
        report(f"warning: this model runs without prefix cache: {engine.exactness.reason}")
    if pipeline.prefix_enabled:
        report(f"prefix reuse: {engine.exactness.mode} mode ({engine.exactness.reason})")
        pinned = pipeline.precompute(settings.model.system_prompts, settings.model.prefix_length, progress)
        shorter = sum(tokens == 0 for tokens in pinned)
        if sum(pinned):
            report(f"pinned {sum(pinned):,} tokens of {len(pinned) - shorter} system prompt(s)")
        if shorter:
            report(
                f"{shorter} system prompt(s) not pinned: the part to pin (at most prefix_length tokens) is "
                f"shorter than a block of {engine.block_size} tokens"
            )
    return pipeline


def _semantic(settings: Settings, response: SmartInferenceCache, report: Report) -> SemanticMatching | None:
    wanted = settings.inference.semantic_matching
    if wanted is False:
        return None
    # Loaded when it is asked for: numpy, word lists and an embedder.
    from axolotl_cache.pipeline.semantic import open_semantic

    matching = open_semantic(
        response,
        embedder=settings.inference.semantic_embedder,
        threshold=settings.session.similarity_threshold,
        max_error_rate=settings.inference.max_error_rate,
        check_share=settings.inference.semantic_check_share,
        mode="shadow" if wanted == "shadow" else "on",
    )
    proven = "" if matching.tier.operating.certified else " (calibrated, not certified: checks will tell)"
    report(
        f"semantic matching: {matching.tier.mode}, {matching.tier.embedder.name}, serves from a probability "
        f"of {matching.tier.threshold:g}{proven}"
    )
    return matching


def _open_session_step(
    settings: Settings, renderer: PromptRenderer, persistent: bool, share: int
) -> SessionStep | None:
    special = renderer.special_tokens
    half = records_bytes(share) // 2
    sessions = open_sessions(settings, persistent=persistent, max_bytes=half)
    records = open_records(
        settings, sessions, plain=lambda text: without_special(text, special), max_bytes=half
    )
    if sessions is None and records is None:
        return None
    return SessionStep(renderer, sessions, records, tracking=settings.session.entity_tracking)


def _prices(prices: Prices | None) -> PriceTable:
    if prices is None:
        return NO_PRICES
    return PriceTable.from_mapping(
        {name: price.model_dump() for name, price in prices.models.items()}, prices.currency
    )


def wrap_generate(
    model: Any,
    settings: Settings,
    report: Report,
    *,
    pinned: Callable[[], Sequence[Sequence[int]]],
) -> CachedGenerate:
    """Return what stands in for the `generate` of a model that another program has loaded.

    Args:
        model: a Hugging Face causal LM, or a PeftModel around one; it may still be moved or cast.
        settings: what is in force.
        report: gets one line for each thing worth knowing.
        pinned: returns the token ids to compute and pin; called when the engine is made.
    """
    use_prefix_cache = settings.model.enable_prefix_cache
    live = LiveModel(
        model,
        environment_tag=settings.inference.environment_tag,
        cache_version=settings.inference.cache_version,
    )

    def open_engine() -> Engine:
        return _open_engine(
            settings,
            report,
            model,
            device=model.device,
            context_length_tokens=live.context_length_tokens(),
            end_tokens=frozenset(),  # each call says its own
            use_prefix_cache=use_prefix_cache,
            as_generate=settings.inference.same_as_generate,
        )

    response = open_response_cache(settings, report=report)
    if settings.inference.semantic_matching is not False:
        report(
            "warning: semantic_matching has no effect here: this program hands over tokens, and no question; "
            "use `axolotl-cache inference`"
        )
    return CachedGenerate(
        live, open_engine, response=response, pinned=pinned if use_prefix_cache else tuple, report=report
    )


def _open_engine(
    settings: Settings,
    report: Report,
    model: Any,
    *,
    device: Any,
    context_length_tokens: int,
    end_tokens: frozenset[int],
    use_prefix_cache: bool,
    adapters: Adapters | None = None,
    as_generate: bool = False,
) -> Engine:
    total = total_memory_bytes(device)
    share = int(total * settings.max_memory_usage)
    # Together within the share: neither may leave the other less than half of it.
    max_cache_bytes = prefix_cache_bytes(settings, share) if use_prefix_cache else 0
    if use_prefix_cache and max_cache_bytes < settings.model.max_cache_size:
        report(
            f"max_memory_usage {settings.max_memory_usage:g} of this device is {format_size(share)}: half of "
            "that, for the other half is for running requests, bounds the KV held for reuse, and not "
            f"max_cache_size ({format_size(settings.model.max_cache_size)})"
        )
    return Engine(
        model,
        device=device,
        context_length_tokens=context_length_tokens,
        end_tokens=end_tokens,
        max_cache_bytes=max_cache_bytes,
        ttl_seconds=settings.inference.entry_timeout,
        cache_policy=settings.inference.cache_policy,
        max_running_bytes=share - max_cache_bytes - response_cache_bytes(share) - records_bytes(share),
        strict=settings.inference.strict,
        as_generate=as_generate,
        adapters=adapters,
        lower=partial(_open_lower, settings, report),
        governor=PressureGovernor(
            total, available=partial(available_memory_bytes, device), clock=time.monotonic
        ),
        memo=cache_home() / "exactness",
        report=report,
    )


def _open_lower(settings: Settings, report: Report, layout: KVLayout, block_size: int) -> Sequence[LowerTier]:
    if settings.model.cache_backend == "redis":
        return _open_shared_blocks(settings, report, layout, block_size)
    if settings.model.cache_backend != "disk":
        return ()
    if settings.inference.encryption_key_from:
        report(
            f"warning: encryption covers stored answers; the keys and values of prompts that cache_backend: "
            f'"disk" keeps in {cache_home() / "kv"} are not encrypted'
        )
    store = open_lower_store(
        keys_and_values_home(), layout=layout, block_size=block_size, max_bytes=settings.model.max_cache_size
    )
    ttl = _block_seconds(settings)
    return (LowerTier(store, layout=layout, block_size=block_size, ttl_seconds=ttl, report=report),)


def _block_seconds(settings: Settings) -> float:
    """Return how long a block is kept below memory after its last use."""
    if settings.session.enable_session_cache:  # what a session has in memory, it should have after a restart
        return max(settings.inference.entry_timeout, settings.session.session_timeout)
    return settings.inference.entry_timeout


def _open_shared_blocks(
    settings: Settings, report: Report, layout: KVLayout, block_size: int
) -> Sequence[LowerTier]:
    """Open the tier of blocks on the servers of `cluster_cache`; sealed if there is an encryption key."""
    shared = shared_tier(settings, report)
    if shared is None:
        return ()
    store = shared.blocks(
        f"kv-{layout_digest(layout, block_size)}",
        max(1, settings.model.max_cache_size // stored_block_bytes(layout, block_size)),
        encryption_key=read_encryption_key(settings),
    )
    ttl = _block_seconds(settings)
    tier = LowerTier(
        store, layout=layout, block_size=block_size, ttl_seconds=ttl, report=report, kind="redis"
    )
    return (tier,)
