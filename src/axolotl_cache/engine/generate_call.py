"""One call of transformers' `generate`: prepared by transformers itself, and read for our engine.

transformers prepares every call (settings from three places, processors, stopping criteria, masks) and then
hands it to a decoding loop, for which `custom_generate` may name another. Ours takes what was prepared and
computes nothing: so every rule of `generate` holds, in every release, without being written down here again.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import EosTokenCriteria, GenerationMixin, MaxLengthCriteria
from transformers.generation import GenerateDecoderOnlyOutput

from axolotl_cache.engine.sampling import Choice

_SIGNATURE: Final = inspect.signature(GenerationMixin.generate)

_OTHER_DECODING: Final = (
    # What asks for more than tokens chosen one after another behind a prompt of tokens.
    "adapter_names",
    "assistant_model",
    "assistant_tokenizer",
    "cache_params",
    "custom_generate",
    "inputs_embeds",
    "negative_prompt_ids",
    "past_key_values",
    "tokenizer",
)

_PREPARED: Final = frozenset(
    {"attention_mask", "position_ids", "past_key_values", "cache_position", "logits_to_keep", "use_cache"}
)
"""What transformers hands to a decoding loop for a plain prompt of tokens."""

_EXTRA_OUTPUTS: Final = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
_MODES: Final = ("greedy_search", "sample")


class PreparedChooser:
    """Chooses tokens as `generate` does: its processors for this call, and torch's own random numbers.

    Args:
        processors: the call's, in their order.
        samples: False takes the likeliest token.
        prompt: token ids, (1, T).

    Attributes:
        tokens: those chosen so far, an end token included.
    """

    def __init__(self, processors: Callable[..., torch.Tensor], samples: bool, prompt: torch.Tensor) -> None:
        self.tokens: list[int] = []
        self._processors = processors
        self._samples = samples
        self._ids = prompt

    @torch.no_grad()
    def choose(self, logits: torch.Tensor) -> Choice:
        """Return the next token, given its (vocabulary,) logits; changes the random numbers if it samples."""
        scores = logits.unsqueeze(0).to(copy=True, dtype=torch.float32, device=self._ids.device)
        scores = self._processors(self._ids, scores)
        if self._samples:
            token = torch.multinomial(scores.softmax(-1), num_samples=1)
        else:
            token = scores.argmax(-1, keepdim=True)
        self._ids = torch.cat([self._ids, token], dim=1)
        self.tokens.append(int(token))
        return Choice(self.tokens[-1])


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """A call that our engine can answer."""

    prompt: torch.Tensor
    """Token ids, (1, T)."""
    new_tokens: int
    """How many may be generated."""
    end_tokens: frozenset[int]
    chooser: PreparedChooser
    streamer: Any
    is_repeatable: bool
    """Whether asking again must give the same answer, and everything that decides it is in `settings`."""
    settings: str
    """What decides the answer beside the prompt and the model, as JSON."""
    returns_dict: bool

    def tell(self, tokens: torch.Tensor) -> None:
        """Hand tokens to the streamer, if there is one, as `generate` does: on the CPU."""
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())

    def result(self, answer: list[int]) -> Any:
        """Return new tokens in the form that the caller wants."""
        new = torch.tensor([answer], dtype=self.prompt.dtype, device=self.prompt.device)
        sequences = torch.cat([self.prompt, new], dim=1)
        return GenerateDecoderOnlyOutput(sequences=sequences) if self.returns_dict else sequences


class _NotOursError(Exception):
    """Leaves transformers' preparation with the reason why the call is not for our engine."""


def read_call(
    model: Any, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> GenerateCall | str:
    """Return what a call asks for, or in one sentence why it must go to `generate` itself.

    Computes nothing and drives no streamer; what `generate` refuses, this refuses alike.

    Args:
        model: whose `generate` is called.
        generate: its own `generate`.
        args: positional arguments.
        kwargs: named ones.
    """
    try:
        bound = _SIGNATURE.bind(model, *args, **kwargs).arguments
    except TypeError as error:
        return f"the arguments are not those of generate ({error})"
    arguments = {name: value for name, value in bound.items() if name not in ("self", "kwargs")}
    arguments |= bound.get("kwargs", {})
    reason = _why_not_this_model(model) or _why_not_these(arguments)
    if reason:
        return reason
    own = any(
        arguments.get(name) is not None
        for name in ("logits_processor", "prefix_allowed_tokens_fn", "stopping_criteria")
    )

    def take(
        _model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **rest: Any,
    ) -> GenerateCall:
        why = _why_not_prepared(input_ids, stopping_criteria, generation_config, rest)
        if why:
            raise _NotOursError(why)
        return GenerateCall(
            prompt=input_ids,
            new_tokens=_length(stopping_criteria) - input_ids.shape[1],
            end_tokens=_ends(stopping_criteria),
            chooser=PreparedChooser(logits_processor, generation_config.do_sample, input_ids),
            streamer=arguments.get("streamer"),
            # What a caller's own function does to an answer, no key can say.
            is_repeatable=not generation_config.do_sample and not own,
            settings=_canonical(generation_config),
            returns_dict=bool(generation_config.return_dict_in_generate),
        )

    try:
        call: GenerateCall = generate(**(arguments | {"streamer": None, "custom_generate": take}))
    except _NotOursError as error:
        return str(error)
    return call


def _why_not_this_model(model: Any) -> str:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = (getattr(model, "peft_config", None) or {}).values()
    reasons = (
        (model.training, "the model is in training mode"),
        (getattr(base.config, "is_encoder_decoder", False), "the model has an encoder"),
        (
            type(base).generate is not GenerationMixin.generate,
            f"{type(base).__name__} has a generate of its own",
        ),
        (
            torch.is_autocast_enabled(model.device.type),
            "autocast is on, so that the caller's code decides what the model computes",
        ),
        (
            any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters),
            "the adapter puts tokens of its own before the prompt",
        ),
        (
            any(getattr(adapter, "alora_invocation_tokens", None) for adapter in adapters),
            "the adapter begins at a token in the prompt (aLoRA)",
        ),
    )
    return _first(reasons)


def _first(reasons: Iterable[tuple[Any, str]]) -> str:
    """Return the first reason that holds, or nothing."""
    return next((reason for holds, reason in reasons if holds), "")


def _why_not_these(arguments: Mapping[str, Any]) -> str:
    name = next((name for name in _OTHER_DECODING if arguments.get(name) is not None), None)
    if name == "past_key_values":
        return "the caller keeps keys and values of its own"
    return f"{name} is given" if name else ""


def _why_not_prepared(
    input_ids: torch.Tensor, stopping_criteria: Any, config: Any, rest: Mapping[str, Any]
) -> str:
    mode = config.get_generation_mode(None).value
    wanted = [name for name in _EXTRA_OUTPUTS if getattr(config, name, None)]
    wanted += ["guidance_scale"] if config.guidance_scale not in (None, 1) else []
    wanted += [name for name in rest if name not in _PREPARED and rest[name] is not None]
    others = [c for c in stopping_criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]
    single = input_ids.dim() == 2 and input_ids.shape[0] == 1 and config.num_return_sequences in (None, 1)
    reasons = (
        (mode not in _MODES, f"the call asks for {mode.replace('_', ' ')}"),
        (not single, "several sequences are asked for at once, and one is served at a time"),
        (not rest.get("use_cache", True), "use_cache is off"),
        (wanted, f"{', '.join(wanted)} is given"),
        (config.cache_implementation, f"cache_implementation is {config.cache_implementation}"),
        (others, f"{', '.join(type(c).__name__ for c in others)} ends answers, beside length and end tokens"),
    )
    return _first(reasons) or _why_not_whole(input_ids, rest)


def _why_not_whole(input_ids: torch.Tensor, rest: Mapping[str, Any]) -> str:
    """Return why the model would see something else than the prompt from its first token on."""
    mask, positions = rest.get("attention_mask"), rest.get("position_ids")
    if mask is not None and not (mask.shape == input_ids.shape and bool((mask == 1).all())):
        return "the attention mask hides something (padding, most likely)"
    if positions is not None:
        usual = torch.arange(input_ids.shape[1], device=positions.device)
        if positions.shape != input_ids.shape or not torch.equal(positions[0], usual.to(positions.dtype)):
            return "the positions are not those of a prompt by itself"
    return ""


def _length(stopping_criteria: Any) -> int:
    return int(min(c.max_length for c in stopping_criteria if isinstance(c, MaxLengthCriteria)))


def _ends(stopping_criteria: Any) -> frozenset[int]:
    ends = (c.eos_token_id for c in stopping_criteria if isinstance(c, EosTokenCriteria))
    return frozenset(token for ids in ends for token in ids.flatten().tolist())


def _canonical(config: Any) -> str:
    """Return the settings in force as JSON; what JSON has not is written as text."""
    settings = {k: v for k, v in config.to_dict().items() if k != "transformers_version" and k[0] != "_"}
    return json.dumps(settings, sort_keys=True, default=str)
