"""What Ray says of a deployment that did not come up, in the words of what failed."""

from __future__ import annotations

import re
from typing import Final

_OURS: Final = re.compile(r"^axolotl_cache\.errors\.\w+: ", re.MULTILINE)
_ANY: Final = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", re.MULTILINE)


def reason_in(message: str) -> str:
    """Return the last error of a message that has tracebacks in it: our own in full, of others one line.

    Args:
        message: of a deployment, as Ray has it. Without an error in it, it is returned as it is.
    """
    ours = list(_OURS.finditer(message))
    if ours:
        return message[ours[-1].end() :].strip()
    lines = _ANY.findall(message)
    return str(lines[-1]).strip() if lines else message.strip()
