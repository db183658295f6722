"""Values as they may be shown: short, in one line, and without passwords."""

from __future__ import annotations

import json
import re
from typing import Any, Final

LONGEST_SHOWN: Final = 80

_SECRET_KEY = re.compile(r"passw|secret|credential|api_?key|encryption_?key$|auth|token$", re.IGNORECASE)
_KEY_PLACE = re.compile(r"(env:[A-Z_][A-Z0-9_]{0,60}|file:.*)\Z", re.IGNORECASE)
_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*:/+)?\S*:\S*@")
_CONNECTION = re.compile(
    r"(?P<scheme>[a-z][a-z+]*://)(?P<user>[^?]*@)?(?P<host>[\w.,:\[\]-]*)(?P<path>/[^?@]*)?(?P<query>\?[^@]*)?"
)
_HOSTS = re.compile(r"((\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?,?)*")


def shown(value: Any, key: str = "") -> str:
    """Return a value as YAML would take it, in one line of at most 80 characters, passwords masked.

    Of a block only the keys are shown.

    Args:
        value: what was written.
        key: under which name; a name that speaks of a secret hides the value altogether.
    """
    if key == "connection_string" and isinstance(value, str):
        return mask_connection(value)
    if key == "encryption_key_from" and not (isinstance(value, str) and _KEY_PLACE.match(value)):
        return "(not shown: it may be the key)" if value != "" else '""'
    if _SECRET_KEY.search(key):
        return "(not shown)"
    if isinstance(value, dict):  # its keys only: any value of a block in the wrong place may be a secret
        value = list(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that JSON has not; a list that holds itself through an anchor
        text = repr(value)
    text = _USER_INFO.sub(r"\g<scheme>***@", text)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def mask_connection(text: str) -> str:
    """Return a connection string without user, password and options.

    What does not parse for certain is not shown at all: its password could stand anywhere.
    """
    match = _CONNECTION.fullmatch(text)
    if match is None or not _HOSTS.fullmatch(match["host"]):
        return "(not shown: it may hold a password)"
    user = "***@" if match["user"] else ""
    query = "?***" if match["query"] else ""
    return f"{match['scheme']}{user}{match['host']}{match['path'] or ''}{query}"
