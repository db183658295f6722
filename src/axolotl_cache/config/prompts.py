"""System prompts, written in the YAML itself or in files that it names."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

_LOOKS_LIKE_A_PATH = re.compile(r"(?:~|\.{1,2})/\S+|\S+\.[A-Za-z][A-Za-z0-9]{0,7}", re.ASCII)


def prompt_text(entry: str, info: ValidationInfo) -> str:
    """Return the text of one entry of `system_prompts`.

    An entry that names a file, seen from the YAML's folder or else from the working directory, is read;
    the last line end, which editors add, is not part of the prompt. Any other entry is the prompt itself.

    Args:
        entry: as it stands in the YAML.
        info: its context is the YAML's folder.

    Raises:
        PydanticCustomError: the entry is empty, or looks like a path and no such file can be read.
    """
    for folder in (info.context or Path(), Path()):
        path = _file(folder, entry)
        if path:
            return _read(path)
    if _LOOKS_LIKE_A_PATH.fullmatch(entry):
        raise _refused("a text or an existing file: it looks like a file name, and there is no such file")
    if not entry.strip():
        raise _refused("a text or a file name: it is empty")
    return entry


def _file(folder: Path, entry: str) -> Path | None:
    try:
        path = folder / Path(entry).expanduser()
        return path if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a text too long for a name, or with a null byte, or "~ Hi"
        return None


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except OSError as error:
        raise _refused(f"a file that can be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise _refused(f"a file of UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise _refused("a prompt: the file is empty")
    return text


def _refused(accepted: str) -> PydanticCustomError:
    # A message template of its own: texts may hold braces.
    return PydanticCustomError("not_accepted", "{accepted}", {"accepted": accepted})
