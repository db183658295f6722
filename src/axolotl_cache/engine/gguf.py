"""GGUF files: converted once into an ordinary Hugging Face folder, which loads fifty times faster."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from axolotl_cache.engine.digest import DigestMemo, digest_file
from axolotl_cache.errors import ModelLoadError
from axolotl_cache.paths import cache_home

CONVERSION_VERSION = 1
"""Raised when a converted copy is made differently, so that no old one is taken for a new one."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def convert_gguf(gguf: Path, target: Path) -> Path:
    """Convert a GGUF file, tokenizer and chat template included, into the folder `target`.

    Weights are unpacked to float32 and give the same logits, bit for bit, as the GGUF file itself. The
    folder appears complete or not at all, also when several processes convert at once; one that is
    complete already is left as it is. Cost: about 20 seconds and 4 bytes of disk a weight.

    Returns:
        `target`.

    Raises:
        ModelLoadError: the file is no GGUF that transformers reads, or the disk is full.
    """
    _check_readable(gguf)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target):
            if not _is_complete(target):
                _convert(gguf, target)
    except OSError as error:
        raise ModelLoadError(f"{gguf} can't be converted into {target}: {error}") from error
    return target


def converted_copy(
    gguf: Path, *, memo: DigestMemo | None = None, report: Callable[[str], None] | None = None
) -> Path:
    """Return the converted copy of a GGUF file in the user's cache folder, made if it is not there.

    The copy is named by the digest of the file: another file under the same path gets another copy.

    Raises:
        ModelLoadError: as `convert_gguf`.
    """
    _check_readable(gguf)
    digest = digest_file(gguf, memo=memo if memo is not None else DigestMemo()).digest
    target = cache_home() / "converted" / f"{gguf.stem}-{digest[:16]}-v{CONVERSION_VERSION}"
    if report is not None and not _is_complete(target):
        report(f"converting {gguf.name} into {target} (once)")
    return convert_gguf(gguf, target)


def _check_readable(gguf: Path) -> None:
    if not gguf.is_file():
        raise ModelLoadError(f"There is no GGUF file {gguf}.")
    if find_spec("gguf") is None:
        raise ModelLoadError(
            f"Reading {gguf.name} needs the package `gguf`. Install it: pip install 'axolotl-cache[engine]'"
        )


def _is_complete(folder: Path) -> bool:
    # The weights are moved in last.
    return any((folder / name).is_file() for name in WEIGHTS)


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Let one process at a time work on `target`; the others wait, and find its work done."""
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert(gguf: Path, target: Path) -> None:
    partial = target.parent / f".{target.name}.partial"
    # Under the lock, whatever lies there is what a killed process left.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _save(gguf, partial)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(gguf: Path, folder: Path) -> None:
    import torch  # heavy, and not needed to find a copy that exists
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
        # The weights are plain float32 now: a copy that still called itself quantised would not load.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ModelLoadError(f"transformers can't read {gguf}: {error}") from error
    except Exception as error:
        raise ModelLoadError(f"transformers can't read {gguf}: {error}") from error


def _publish(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    # A folder that lost its weights: filled up, the weights last, because they mark it as complete.
    for path in sorted(partial.iterdir(), key=lambda path: path.name in WEIGHTS):
        os.replace(path, target / path.name)
