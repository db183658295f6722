"""The tokenizer, with the changes that an Axolotl YAML makes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_cache.engine.digest import combine, digest_file
from axolotl_cache.errors import ModelLoadError

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")
LLAMA_PAD_TOKEN = "</s>"  # noqa: S105 - a token of a vocabulary


def load_tokenizer(axolotl: Mapping[str, Any], folder: Path) -> tuple[Any, list[str]]:
    """Return the tokenizer in `folder` with the YAML's special and added tokens, and warnings.

    Raises:
        ModelLoadError: it can't be read, or the YAML asks for what is not done here.
    """
    _refuse_unsupported(axolotl)
    tokenizer = _from_folder(axolotl, folder)
    _give_pad_token(tokenizer)
    warnings = _add_tokens(tokenizer, axolotl)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, warnings


def digest_tokenizer(tokenizer: Any) -> str:
    """Return the digest of the tokenizer in force: what it makes of every text, and of every token.

    How it pads and cuts is left out: both change from call to call.
    """
    parts: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "all_special": sorted(map(str, tokenizer.all_special_tokens)),
        "settings": {
            name: getattr(tokenizer, name, None)
            for name in ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "legacy")
        },
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        parts["backend"] = {
            key: value for key, value in state.items() if key not in ("truncation", "padding")
        }
    else:
        parts["vocabulary"] = sorted(tokenizer.get_vocab().items())
        vocabulary = getattr(tokenizer, "vocab_file", None)
        if vocabulary and Path(vocabulary).is_file():
            parts["file"] = digest_file(Path(vocabulary)).digest
    return combine("tokenizer", parts)


def _refuse_unsupported(axolotl: Mapping[str, Any]) -> None:
    saved = axolotl.get("output_dir") or "the output_dir of the training"
    if axolotl.get("added_tokens_overrides"):
        raise ModelLoadError(
            "added_tokens_overrides is not done here: it rewrites the tokenizer's files. Training saved the "
            f"tokenizer that it made; name it instead: `tokenizer_config: {saved}`."
        )
    if axolotl.get("tokenizer_use_mistral_common"):
        raise ModelLoadError(
            "tokenizer_use_mistral_common is not supported here. Take it out if the model folder also holds "
            "a tokenizer.json, or name a tokenizer that transformers reads in tokenizer_config."
        )


def _from_folder(axolotl: Mapping[str, Any], folder: Path) -> Any:
    import transformers  # heavy

    wanted = axolotl.get("tokenizer_type") or "AutoTokenizer"
    kind = getattr(transformers, str(wanted), None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise ModelLoadError(
            f"tokenizer_type: transformers {transformers.__version__} has no {wanted}. AutoTokenizer fits "
            "most models."
        )
    use_fast = axolotl.get("tokenizer_use_fast")
    arguments: dict[str, Any] = {
        "use_fast": True if use_fast is None else bool(use_fast),
        "trust_remote_code": bool(axolotl.get("trust_remote_code")),
    }
    if axolotl.get("tokenizer_legacy") is not None:
        arguments["legacy"] = axolotl["tokenizer_legacy"]
    try:
        return kind.from_pretrained(folder, **arguments)
    except Exception as error:
        raise ModelLoadError(
            f"The tokenizer in {folder} can't be loaded: {error}\nIf it lies elsewhere, name it in "
            "tokenizer_config."
        ) from error


def _give_pad_token(tokenizer: Any) -> None:
    # As Axolotl does, because a token that it adds here makes the embeddings one row longer.
    name = type(tokenizer).__name__
    if name in LLAMA_CLASSES and not tokenizer.pad_token:
        tokenizer.pad_token = LLAMA_PAD_TOKEN
    if name == "GPTNeoXTokenizerFast":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def _add_tokens(tokenizer: Any, axolotl: Mapping[str, Any]) -> list[str]:
    from transformers import AddedToken  # heavy

    def added(text: Any) -> Any:
        return AddedToken(str(text), rstrip=False, lstrip=False, normalized=False)

    special = dict(axolotl.get("special_tokens") or {})
    more = special.pop("additional_special_tokens", None)
    unread = sorted(name for name in special if name not in SPECIAL_TOKENS)
    for name in SPECIAL_TOKENS:
        if special.get(name) is not None:
            tokenizer.add_special_tokens({name: added(special[name])})
    fast_llama = type(tokenizer).__name__ in ("LlamaTokenizerFast", "CodeLlamaTokenizerFast")
    if fast_llama and {"bos_token", "eos_token"} <= special.keys():
        # Else the old ones would go on being put around each text.
        tokenizer.update_post_processor()
    if axolotl.get("tokens"):
        tokenizer.add_tokens([added(token) for token in axolotl["tokens"]])
    if more is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    return [
        f"special_tokens.{name} is not read; Axolotl reads {', '.join(SPECIAL_TOKENS)}." for name in unread
    ]
