"""Loads the model that an Axolotl YAML describes, and names it by the bytes that were loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers

from axolotl_cache.engine import sources
from axolotl_cache.engine.choices import Hardware
from axolotl_cache.engine.digest import ATTEMPTS, DigestMemo, FileStamp, differing, stamps_of
from axolotl_cache.engine.identity import (
    describe_compute,
    describe_quantisation,
    digest_adapter,
    digest_model,
    digest_weights,
)
from axolotl_cache.engine.places import Recipe, Report, find_places
from axolotl_cache.engine.speed import prepare, why_not_packed
from axolotl_cache.engine.templates import ChatTemplate, own_template, resolve_template
from axolotl_cache.engine.tokenizer import digest_tokenizer, load_tokenizer
from axolotl_cache.engine.weights import load_config, load_weights
from axolotl_cache.errors import ModelLoadError
from axolotl_cache.namespace import Namespace

NOTHING: Mapping[str, Any] = MappingProxyType({})

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, and everything that names it."""

    model: Any
    """A Hugging Face causal LM in evaluation mode, on its device; a PeftModel if there is an adapter."""
    tokenizer: Any
    chat_template: str | None
    """Jinja; None if prompts are completed as they stand."""
    namespace: Namespace
    device: torch.device
    """Where the first layer lies, and inputs go."""
    dtype: torch.dtype
    context_length_tokens: int
    default_sampling: dict[str, Any]
    """What the model's own generation settings say, under their names there; often empty."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user: where this machine or this library differs from what the YAML says."""
    stamps: Mapping[Path, FileStamp | None] = field(default_factory=dict, repr=False)
    """Every file that was read, as it was then; None for one that could have been there and was not."""
    load_again: Callable[[], LoadedModel] | None = field(default=None, repr=False)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids that end an answer: the tokenizer's end token and the model's own stop tokens."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        return frozenset(_listed(own) + _listed(self.tokenizer.eos_token_id))

    def changed_files(self) -> tuple[Path, ...]:
        """Return the files that were written, replaced, made or removed since they were loaded.

        The model in memory is not touched by that: it goes on answering, under its namespace, until
        `reload`. Cost: a few microseconds a file.
        """
        return differing(self.stamps)

    def reload(self) -> LoadedModel:
        """Load once more from the same place, and return the result with a fresh namespace.

        Raises:
            ModelLoadError: as the first time.
        """
        if self.load_again is None:
            raise ModelLoadError("This model was not made by load_model or wrap_model: load it anew.")
        return self.load_again()


def _say_nothing(line: str) -> None:
    pass


def load_model(
    axolotl: Mapping[str, Any],
    *,
    config_path: Path,
    model_overrides: Mapping[str, Any] = NOTHING,
    environment_tag: str = "production",
    cache_version: str = "",
    report: Report = _say_nothing,
    memo: DigestMemo | None = None,
    hardware: Hardware | None = None,
    packed: bool = True,
) -> LoadedModel:
    """Load the model that an Axolotl YAML names, as Axolotl reads it (docs/models.md has the list).

    Adapters stay unmerged, as in Axolotl's inference. The weights are in memory of this process when it
    returns: a file changed later does not change the model.

    Args:
        axolotl: the YAML without this library's blocks.
        config_path: the YAML; relative paths count from the working directory, then from its folder.
        model_overrides: attributes to set on the Hugging Face configuration.
        environment_tag: part of the namespace.
        cache_version: part of the namespace.
        report: gets one line at each step.
        memo: remembers digests of files; by default in the user's cache folder.
        hardware: what the machine can do; by default it is asked.
        packed: on a CPU, put weights into the order in which its kernels read them (engine/speed.py).

    Raises:
        ModelLoadError: something is missing, contradictory or damaged; the message says what to do.
    """
    recipe = Recipe(
        axolotl=axolotl,
        config_path=Path(config_path),
        model_overrides=model_overrides,
        environment_tag=environment_tag,
        cache_version=cache_version,
        report=report,
        memo=memo if memo is not None else DigestMemo(),
        hardware=hardware if hardware is not None else Hardware.detect(),
        packed=packed,
    )
    again = partial(
        load_model,
        axolotl,
        config_path=config_path,
        model_overrides=model_overrides,
        environment_tag=environment_tag,
        cache_version=cache_version,
        report=report,
        memo=memo,
        hardware=hardware,
        packed=packed,
    )
    for _ in range(ATTEMPTS):
        loaded = _load_once(recipe, again)
        changed = loaded.changed_files()
        if not changed:
            return loaded
        report(f"{changed[0]} was written to while it was loaded: loading again")
    raise ModelLoadError(
        f"{changed[0]} was written to while it was loaded, {ATTEMPTS} times. Is the model being trained or "
        "copied into this folder? Load it when that is done."
    )


def wrap_model(
    model: Any,
    tokenizer: Any,
    *,
    chat_template: str | None = None,
    environment_tag: str = "production",
    cache_version: str = "",
) -> LoadedModel:
    """Name a Hugging Face causal LM that is in memory already, by its tensors.

    Changes: sets the model to evaluation mode. Cost: every weight is read once, about 1 GB a second.
    `changed_files` knows of no file; after changing weights in place, call `reload`.

    Args:
        model: any causal LM of transformers, or a PeftModel around one.
        tokenizer: its tokenizer.
        chat_template: Jinja; by default the tokenizer's own.
        environment_tag: part of the namespace.
        cache_version: part of the namespace.

    Raises:
        ModelLoadError: weights are not in memory.
    """
    model.eval()
    text = chat_template or own_template(tokenizer)
    template = ChatTemplate(text, "given" if chat_template else "the tokenizer's own")
    again = partial(
        wrap_model,
        model,
        tokenizer,
        chat_template=chat_template,
        environment_tag=environment_tag,
        cache_version=cache_version,
    )
    context_length_tokens, warnings = context_length(model.config, tokenizer, None)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        chat_template=text,
        namespace=Namespace(
            weights=digest_model(model),
            adapter="",
            tokenizer=digest_tokenizer(tokenizer),
            chat_template=template.digest,
            dtype=_name(model.dtype),
            quantisation=describe_quantisation(model),
            compute=describe_compute(model),
            environment_tag=environment_tag,
            cache_version=cache_version,
        ),
        device=model.device,
        dtype=model.dtype,
        context_length_tokens=context_length_tokens,
        default_sampling=_default_sampling(model),
        warnings=tuple(warnings),
        load_again=again,
    )


def _load_once(recipe: Recipe, again: Callable[[], LoadedModel]) -> LoadedModel:
    places = find_places(recipe)
    stamps = stamps_of(places.watched(bool(recipe.get("trust_remote_code"))))
    config = load_config(recipe, places)
    tokenizer, warnings = load_tokenizer(recipe.axolotl, places.tokenizer)

    def find_template(name: str) -> Path | None:
        file = sources.find_path(name, recipe.config_path)
        if file is not None:
            stamps.update(stamps_of([file]))
        return file

    template = resolve_template(recipe.axolotl, tokenizer, find_file=find_template)
    if template.text is not None:
        tokenizer.chat_template = template.text
    model, dtype, more = load_weights(recipe, places, config, tokenizer)
    _adjust_stop_tokens(model, tokenizer)
    sequence_len = recipe.get("sequence_len")
    context_length_tokens, about_length = context_length(model.config, tokenizer, sequence_len)
    if sequence_len and sequence_len < context_length_tokens:
        recipe.report(
            f"prompts of up to {context_length_tokens} tokens are accepted; "
            f"trained with sequence_len {sequence_len}"
        )
    namespace = Namespace(
        weights=digest_weights(recipe, places, model),
        adapter=digest_adapter(recipe, places),
        tokenizer=digest_tokenizer(tokenizer),
        chat_template=template.digest,
        dtype=_name(dtype),
        quantisation=describe_quantisation(model),
        compute=describe_compute(model),
        environment_tag=recipe.environment_tag,
        cache_version=recipe.cache_version,
    )
    if recipe.packed and not why_not_packed(model):
        prepared = prepare(model, "packed")
        recipe.report(f"packed the weights of {prepared.packed} layers ({prepared.seconds:.1f} s)")
        if not prepared.same_bits:
            namespace = replace(namespace, compute=f"{namespace.compute}, packed")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        chat_template=template.text,
        namespace=namespace,
        device=model.device,
        dtype=dtype,
        context_length_tokens=context_length_tokens,
        default_sampling=_default_sampling(model),
        warnings=(*warnings, *template.warnings, *more, *about_length),
        stamps=stamps,
        load_again=again,
    )


def _adjust_stop_tokens(model: Any, tokenizer: Any) -> None:
    """Let the YAML's bos and eos tokens count, as Axolotl does, beside the model's own stop tokens."""
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(model.config, name, None) and getattr(tokenizer, name) is not None:
            setattr(model.config, name, getattr(tokenizer, name))
    generation, eos = model.generation_config, tokenizer.eos_token_id
    if generation is None or eos is None:
        return
    stops = _listed(generation.eos_token_id)
    if eos not in stops:
        generation.eos_token_id = [eos, *stops] if stops else eos


def _listed(ids: int | list[int] | tuple[int, ...] | None) -> list[int]:
    """Return end tokens as a list, however transformers holds them."""
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def context_length(
    config: Any, tokenizer: Any = None, sequence_len: int | None = None
) -> tuple[int, list[str]]:
    """Return how many tokens a model accepts, and warnings.

    Changes: sets a longer `sequence_len` as the limit in `config`, as Axolotl does.

    Args:
        config: the model's Hugging Face configuration.
        tokenizer: asked where the configuration names no length.
        sequence_len: what the model was trained with.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
    limit = next((int(value) for name in names if (value := getattr(text, name, None))), None)
    if limit is None:
        own = getattr(tokenizer, "model_max_length", None)
        limit = int(own) if own and own < 2**31 else sequence_len or 2048
        return limit, [f"The model's configuration names no context length; {limit} tokens are taken."]
    trained = _length_before_rope_changes(text)
    if trained is not None and trained < max(limit, sequence_len or 0):
        return trained, [
            f"Beyond {trained} tokens this model turns all positions by another rule, and no prefix could be "
            f"reused exactly: prompts and answers of up to {trained} tokens are accepted."
        ]
    if sequence_len and sequence_len > limit and _turns_positions(text):
        text.max_position_embeddings = sequence_len
        return sequence_len, [
            f"sequence_len {sequence_len} is more than the model's {limit} positions; as in Axolotl, the "
            f"limit is raised to {sequence_len}."
        ]
    return limit, []


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in found.values() if isinstance(value, dict)]
    return nested or [found]


def _turns_positions(config: Any) -> bool:
    """Return whether positions are rotations, so that there may be more of them than the model has seen."""
    return hasattr(config, "rope_parameters") or hasattr(config, "rope_theta")


def _length_before_rope_changes(config: Any) -> int | None:
    """Return the length up to which a token's position means the same in every prompt; None for any.

    LongRoPE and dynamic scaling choose the frequencies of a whole call by its longest position: what is
    computed for the same tokens differs with the length of the prompt.
    """
    for rope in _rope_parameters(config):
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        if kind == "longrope" or "dynamic" in kind:
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return int(original or config.max_position_embeddings)
    return None


def hide_progress() -> None:
    """Switch off transformers' own progress bars."""
    transformers.utils.logging.disable_progress_bar()


def _default_sampling(model: Any) -> dict[str, Any]:
    if model.generation_config is None:
        return {}
    chosen = model.generation_config.to_diff_dict()
    return {name: chosen[name] for name in SAMPLING if chosen.get(name) is not None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
