"""Asks a running server one question as several tenants, whole and streamed; says where answers came from.

python examples/server/client.py http://127.0.0.1:8000 KEY_OF_ONE KEY_OF_ANOTHER
"""

from __future__ import annotations

import sys
import time

from openai import OpenAI

QUESTION = [
    {"role": "system", "content": "You are the help desk of Harbour Bank. Answer in one sentence."},
    {"role": "user", "content": "How do I block a lost card?"},
]


def ask(client: OpenAI, who: str) -> None:
    """Ask once; a temperature of 0 makes it an answer that may be kept."""
    began = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model=client.models.list().data[0].id, messages=QUESTION, temperature=0, max_tokens=40
    )
    usage = raw.parse().usage
    took = time.perf_counter() - began
    cached = usage.prompt_tokens_details.cached_tokens
    tokens = f"{cached} of {usage.prompt_tokens} tokens cached"
    print(f"{who}: {raw.headers['x-cache']:<10} {1000 * took:7.1f} ms, {tokens}")


def stream(client: OpenAI, who: str) -> None:
    """Ask for the same answer in pieces: a stored one is sent as a stream, too."""
    pieces = client.chat.completions.create(
        model=client.models.list().data[0].id, messages=QUESTION, temperature=0, max_tokens=40, stream=True
    )
    print(f"{who}, streamed: ", end="")
    for piece in pieces:
        print(piece.choices[0].delta.content or "", end="", flush=True)
    print()


def main() -> None:
    """Ask as every tenant whose key is given."""
    url, *keys = sys.argv[1:]
    for number, key in enumerate(keys or ["none"]):
        client = OpenAI(base_url=f"{url}/v1", api_key=key)
        who = f"tenant {number + 1}"
        ask(client, who)  # computed: tenants share nothing, not even the time that a prefix saves
        ask(client, who)  # from the cache
        stream(client, who)


if __name__ == "__main__":
    main()
