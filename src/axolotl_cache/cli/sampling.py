"""How tokens are chosen, as options of a command."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from axolotl_cache.request import Sampling


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose tokens; the command gets the given ones as a dict, `sampling`."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")

    @click.option(
        "--max-new-tokens",
        type=int,
        help="Longest answer, in tokens.  [default: 512, or what the context leaves]",
    )
    @click.option(
        "--temperature",
        type=float,
        help="0 is greedy.  [default: what the model's generation_config says; for bench, 0]",
    )
    @click.option("--top-p", type=float, help="Nucleus sampling; 1 is off.")
    @click.option("--top-k", type=int, help="Only the k likeliest tokens; 0 is off.")
    @click.option("--min-p", type=float, help="Only tokens at least this likely against the best; 0 is off.")
    @click.option("--repetition-penalty", type=float, help="Above 1 discourages repetition; 1 is off.")
    @click.option("--seed", type=int, help="Makes sampled answers repeatable, and so cacheable.")
    @click.option("--stop", multiple=True, help="End the answer before this text; may be given again.")
    @wraps(command)
    def with_sampling(*args: Any, **options: Any) -> Any:
        given = {n: options.pop(n) for n in names}
        return command(*args, sampling={n: v for n, v in given.items() if v not in (None, ())}, **options)

    return with_sampling


cache_truncated_option = click.option(
    "--cache-truncated",
    is_flag=True,
    help="Store answers, too, that --max-new-tokens cut off.",
)


def choose_sampling(from_model: dict[str, Any], given: dict[str, Any]) -> Sampling:
    """Return how tokens are chosen: what the user gave, else what the model's own configuration says.

    Args:
        from_model: the model's generation_config.
        given: the user's options; a temperature of 0 is greedy, whatever the model says.
    """
    known = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    own = {k: v for k, v in from_model.items() if k in known and v is not None}
    if not from_model.get("do_sample", False):
        own = {k: v for k, v in own.items() if k == "repetition_penalty"}
    else:
        # What transformers takes where the file is silent.
        own = {"temperature": 1.0, "top_k": 50} | own
    return Sampling(**(own | given))
