"""A model and its caches, as commands open them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from axolotl_cache.cli.terminal import say, steps_bar
from axolotl_cache.config import Settings

if TYPE_CHECKING:
    from axolotl_cache.engine.loader import LoadedModel
    from axolotl_cache.pipeline import Pipeline


def open_model(
    settings: Settings,
    *,
    quiet: bool = False,
    caching: bool = True,
    stored_answers: bool = True,
    persistent: bool = True,
    adapters: Mapping[str, Path] | None = None,
) -> tuple[Pipeline, LoadedModel]:
    """Load the model that the settings describe, and open its caches; the caller closes the pipeline.

    Args:
        settings: what is in force.
        quiet: say nothing on standard error but warnings.
        caching: False computes every prompt in full, and stores nothing.
        stored_answers: False begins without the answers that are on disk, and leaves them alone.
        persistent: False keeps sessions in memory, whatever the settings say.
        adapters: folders of adapters beside the YAML's own, by name.
    """
    from axolotl_cache.assembly import hide_progress, load, open_pipeline, open_response_cache

    def report(line: str) -> None:
        if not quiet or line.startswith("warning"):
            say(line)

    if quiet:
        hide_progress()
    loaded = load(settings, report)
    with ExitStack() as undo:
        response = None
        if caching:
            response = open_response_cache(settings, persistent=stored_answers, report=report)
            undo.enter_context(closing(response))
        with steps_bar("computing system prompts", quiet=quiet) as progress:
            pipeline = open_pipeline(
                settings,
                loaded,
                report,
                response=response,
                use_prefix_cache=caching and settings.model.enable_prefix_cache,
                persistent=persistent,
                adapters=adapters,
                progress=progress,
            )
        undo.pop_all()
    return pipeline, loaded
