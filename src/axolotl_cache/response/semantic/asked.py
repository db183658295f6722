"""A conversation as it is asked, held and stored: its words, its partition, its vectors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from axolotl_cache.response.semantic.context import Context, context_of
from axolotl_cache.response.semantic.embedders import Embedder, Vectors
from axolotl_cache.response.semantic.features import embedded

FORMAT: Final = 1
"""Of what `to_value` writes; others are not read, and their entries are not found by another wording."""
MOST_CHARACTERS: Final = 20_000
"""Longer conversations are neither looked up nor stored: they are compared sentence by sentence."""


class Asked:
    """One conversation that ends with the user's message.

    What is costly is done when it is first wanted, and once: facts, the vector of the last message, and those
    of its history. Not safe for several threads until then.

    Args:
        partition: name of what it may be compared within.
        messages: `role` and `content` each, without system messages.
        embedder: makes its vectors.
        vectors: if they are known: (1, d), or (3, d) with a history.
    """

    def __init__(
        self,
        partition: str,
        messages: Sequence[Mapping[str, str]],
        embedder: Embedder,
        vectors: Vectors | None = None,
    ) -> None:
        self.partition = partition
        self.messages = tuple({"role": m["role"], "content": m["content"]} for m in messages)
        self._embedder = embedder
        self._known = vectors

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1]["content"]

    @cached_property
    def context(self) -> Context:
        """Facts of all that was said. Cost: about 0.5 ms a sentence that was not seen lately."""
        return context_of(self.messages)

    @cached_property
    def vector(self) -> Vectors:
        """Of the last message, (d,). Cost: one embedding."""
        if self._known is not None:
            return np.asarray(self._known[0])
        return np.asarray(halved(self._embedder.embed([embedded(self.context.last)]))[0])

    @cached_property
    def history(self) -> Vectors:
        """Of the assistant's last message and of what the user said before, (2, d). Cost: two embeddings."""
        if self._known is not None and len(self._known) == 3:
            return self._known[1:]
        if not self.has_history:
            return np.zeros((2, self._embedder.dimensions), dtype=np.float32)
        context = self.context
        return halved(
            self._embedder.embed([context.asked_back()[-500:] or " ", context.said()[-500:] or " "])
        )

    @property
    def has_history(self) -> bool:
        """Whether anything was said before the last message."""
        return len(self.messages) > 1

    def to_value(self) -> dict[str, Any]:
        """Return what is stored beside the answer: JSON, vectors as half-precision numbers in base64."""
        vectors = np.vstack([self.vector, *(self.history if self.has_history else ())])
        return {
            "format": FORMAT,
            "partition": self.partition,
            "embedder": self._embedder.name,
            "messages": [[m["role"], m["content"]] for m in self.messages],
            "vectors": base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii"),
        }

    @classmethod
    def from_value(cls, value: object, partition: str, embedder: Embedder) -> Asked | None:
        """Read what `to_value` wrote; None if it is of another format, partition or embedder."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            return None
        if value["partition"] != partition or value["embedder"] != embedder.name:
            return None
        flat = np.frombuffer(base64.b64decode(value["vectors"]), dtype="<f2").astype(np.float32)
        messages = [{"role": role, "content": content} for role, content in value["messages"]]
        return cls(partition, messages, embedder, flat.reshape(-1, embedder.dimensions))


def halved(vectors: Vectors) -> Vectors:
    """Return vectors as they come back from disk, so that a restart changes no probability."""
    return vectors.astype(np.float16).astype(np.float32)
