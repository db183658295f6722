"""The plugin for Axolotl: `plugins: [axolotl_cache.AxolotlCachePlugin]` in a YAML."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from axolotl_cache.config import ModelSettings
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.integrations.axolotl_keys import FIELD, Wish, take_keys

if TYPE_CHECKING:
    from axolotl_cache.generate import CachedGenerate

OLDEST: Final = "0.19.0"
"""The oldest Axolotl that this plugin is tested with."""

HOOKS: Final = ("register", "get_input_args", "post_model_load")


def _require_axolotl() -> Any:
    """Return Axolotl's base class of plugins.

    Raises:
        ImportError: Axolotl is not installed.
        ConfigError: it is too old. No ImportError, because Axolotl goes on without a plugin that raises one.
    """
    try:
        found = version("axolotl")
    except PackageNotFoundError:
        raise ImportError(
            "axolotl_cache.AxolotlCachePlugin is a plugin for Axolotl, which is not installed here. "
            "Without it, use the command axolotl-cache."
        ) from None
    if _numbers(found) >= _numbers(OLDEST):
        from axolotl.integrations.base import BasePlugin

        if all(hasattr(BasePlugin, hook) for hook in HOOKS):
            return BasePlugin
    message = (
        f"needs Axolotl {OLDEST} or newer, for the hooks {', '.join(HOOKS)}; Axolotl {found} is here. "
        f"Install a newer one: pip install 'axolotl>={OLDEST}', or take the plugin out of `plugins`"
    )
    raise ConfigError([Problem("plugins", "axolotl_cache.AxolotlCachePlugin", message)])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


class AxolotlCachePlugin(_require_axolotl()):  # type: ignore[misc]
    """Serves `axolotl inference` through the caches; training is not touched.

    What Axolotl calls, in this order: `register` with the configuration as it is written, `get_input_args`
    for its schema, `post_model_load` with the model.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wish: Wish | None = None

    def register(self, cfg: MutableMapping[str, Any]) -> None:
        """Read and validate our keys, and take them out of the configuration.

        Raises:
            ConfigError: with every mistake in them.
        """
        if cfg.get(FIELD):
            say("nothing is cached: this configuration was loaded before; load its YAML instead")
            return
        self._wish = take_keys(cfg)
        for line in _remarks(cfg, self._wish):
            say(line)

    def get_input_args(self) -> str:
        """Return the name of the class with our field of Axolotl's schema."""
        return "axolotl_cache.integrations.axolotl_keys.AxolotlCacheArgs"

    def post_model_load(self, cfg: Mapping[str, Any], model: Any) -> None:
        """Put the caches under `model.generate`, in inference and where a cache key or a flag asks for it."""
        ours = cfg.get(FIELD)
        if self._wish is None or not ours or not ours["inference"] or not ours["asked"]:
            return
        from axolotl_cache.assembly import wrap_generate

        settings = self._wish.settings
        model.generate = wrap_generate(
            model, settings, say, pinned=partial(system_prompt_tokens, cfg, settings.model)
        )
        atexit.register(_finish, model.generate)


def system_prompt_tokens(cfg: Mapping[str, Any], settings: ModelSettings) -> list[list[int]]:
    """Return the tokens to pin: of the system prompts in the settings, or of the template's own message."""
    from axolotl.cli.utils import resolve_chat_template_str
    from axolotl.loaders import load_tokenizer

    from axolotl_cache.engine.prompt import PromptRenderer

    tokenizer = load_tokenizer(cfg)
    renderer = PromptRenderer(tokenizer, resolve_chat_template_str(cfg, tokenizer))
    if not renderer.takes_messages:
        return []
    wanted: list[str | None] = [*dict.fromkeys(settings.system_prompts)] or [None]
    return [renderer.shared_prefix(system)[: settings.prefix_length] for system in wanted]


def say(line: str) -> None:
    """Write a line to standard error: standard output is Axolotl's."""
    print(f"axolotl-cache: {line}", file=sys.stderr, flush=True)


def _remarks(cfg: Mapping[str, Any], wish: Wish) -> Iterator[str]:
    if not wish.is_inference:
        if cfg.get("strict") and wish.is_asked:
            yield (
                "`strict: true` keeps Axolotl from saying when a run is inference, so nothing will be cached "
                "there; take that line out to serve with the caches"
            )
        return
    from axolotl_cache.engine.missing import what_is_missing

    path = Path(str(cfg["axolotl_config_path"]))
    for sentence in what_is_missing(wish.settings.axolotl, config_path=path):
        yield f"warning: {sentence}"
    if not wish.is_asked:
        yield (
            "nothing is cached: the YAML has no cache block, and no cache flag is given "
            "(--use-prefix-cache, --cache-ttl, --enable-cache-optimization)"
        )
    if cfg.get("adapter") and not cfg.get("lora_model_dir"):
        yield (
            f"warning: adapter: {cfg['adapter']} without lora_model_dir: Axolotl attaches a fresh, untrained "
            "adapter and does not say so. To serve what you trained, set lora_model_dir to your output_dir"
        )


def _finish(generate: CachedGenerate) -> None:
    totals = generate.totals
    if totals.served or totals.passed_on:
        served = ", ".join(f"{count} {kind.value}" for kind, count in totals.served.items())
        cached = f"{totals.cached_tokens:,} of {totals.prompt_tokens:,} prompt tokens cached"
        say(f"{served or 'nothing served'}; {cached}")
    for reason, count in totals.passed_on.items():
        say(f"not cached: {count}, {reason}")
    generate.close()
