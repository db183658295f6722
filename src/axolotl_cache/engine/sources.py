"""Where the files are that an Axolotl YAML names: local folders, GGUF files, the Hugging Face cache."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from axolotl_cache.errors import ModelLoadError

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

HUB_ID = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")


def find_path(name: str, config_path: Path) -> Path | None:
    """Return where a path written in the YAML is, or None if nothing is there.

    Relative paths count from the working directory, as in Axolotl, and then from the YAML's folder.
    """
    written = Path(name).expanduser()
    places = [written] if written.is_absolute() else [written, config_path.parent / written]
    return next((place.absolute() for place in places if place.exists()), None)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that transformers loads the weights from: safetensors before .bin, one before shards.

    Empty if the folder holds no complete set.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file():
            return (single,)
        if index.is_file():
            shards = tuple(folder / shard for shard in _shards(index))
            return (index, *shards) if all(shard.is_file() for shard in shards) else ()
    return ()


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"{index} is damaged ({error}). Fetch or save the model again.") from error


def gguf_files(folder: Path) -> tuple[Path, ...]:
    """Return the GGUF files in a folder that holds no other weights."""
    return () if weight_files(folder) else tuple(sorted(folder.glob("*.gguf")))


def find_folder(
    name: str,
    key: str,
    *,
    config_path: Path,
    revision: str | None,
    patterns: Iterable[str],
    is_complete: Callable[[Path], bool],
    report: Callable[[str], None],
) -> Path:
    """Return the local folder, or file, that `name` means.

    A hub id is fetched if it is not in the local Hugging Face cache; what is there is not asked for again.

    Args:
        name: what the YAML has: a path, or a hub id.
        key: the YAML's key, for messages.
        config_path: the YAML.
        revision: branch, tag or commit on the hub.
        patterns: which of the hub's files are needed.
        is_complete: whether a folder in the local cache will do.
        report: is told before anything is fetched.

    Raises:
        ModelLoadError: there is nothing under this name.
    """
    local = find_path(name, config_path)
    if local is not None:
        return local
    if not HUB_ID.match(name) or name.endswith(".gguf"):
        raise ModelLoadError(
            f"{key}: there is no {name}, neither from the working directory ({Path.cwd()}) nor beside the "
            f"YAML ({config_path.absolute().parent})."
        )
    arguments = {"repo_id": name, "revision": revision}
    cached = _cached(arguments)
    if cached is not None and is_complete(cached):
        return cached
    report(f"fetching {name} from the Hugging Face hub")
    try:
        return _fetched(arguments, list(patterns), is_complete)
    except Exception as error:
        raise ModelLoadError(
            f"{key}: there is no folder {name} here, it is not in the local Hugging Face cache, and it can't "
            f"be fetched from the hub: {error}"
        ) from error


def cached_folder(name: str) -> Path | None:
    """Return where a hub id lies in the local Hugging Face cache, complete or not; None if nowhere."""
    return _cached({"repo_id": name})


def _cached(arguments: dict[str, Any]) -> Path | None:
    from huggingface_hub import snapshot_download  # slow, and local folders need none of it
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(**arguments, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _fetched(arguments: dict[str, Any], patterns: list[str], is_complete: Callable[[Path], bool]) -> Path:
    from huggingface_hub import snapshot_download  # as above

    folder = Path(snapshot_download(**arguments, allow_patterns=patterns))
    if not is_complete(folder):
        # Weights of the older kind, which are left alone where there are others.
        folder = Path(snapshot_download(**arguments, allow_patterns=[*patterns, "*.bin"]))
    return folder
