"""Asks over HTTP, as any client would."""

import json
import urllib.error
import urllib.request
from types import SimpleNamespace


def ask(port, messages, *, headers=(), stream=False, timeout=60, **fields):
    """Ask over HTTP; gives status, headers and the body."""
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, "stream": stream} | fields
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", **dict(headers)},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        raw = answer.read()
    found = {name.lower(): value for name, value in answer.headers.items()}
    return SimpleNamespace(status=answer.status, headers=found, raw=raw)


def get(port, path):
    """Return a page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as page:
        return page.read()
