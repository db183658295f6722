"""Where the prefix cache stopped agreeing with a prompt, for people."""

from __future__ import annotations

from typing import Final

from axolotl_cache.engine.generation import Generation
from axolotl_cache.engine.prompt import PromptRenderer
from axolotl_cache.request import Miss

PREFIX_OFF: Final = "the prefix cache is off"


def prefix_miss(renderer: PromptRenderer, generation: Generation) -> Miss:
    """Return the first token that nothing cached agrees with, and what is there, or where the cached ends."""
    at = generation.difference
    if at is None:
        ends = generation.cached_tokens
        known = (
            "what is cached of this prompt ends here" if ends else "nothing cached starts like this prompt"
        )
        return Miss(known, first_difference_tokens=ends)
    return Miss(
        "the prompt differs from everything cached from here on",
        first_difference_tokens=at.position_tokens,
        expected_text=renderer.show(at.cached),
        found_text=renderer.show(at.found),
    )
