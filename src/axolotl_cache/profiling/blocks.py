"""The blocks of a prompt: by the log's own hashes, by tokens, or by the bytes of its text.

Without a tokenizer a token is taken for so many bytes of UTF-8: as many as the log's own counts say, or 4.
That is about right for English and, as a Chinese character has 3 bytes, not far off for Chinese.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from axolotl_cache.profiling.record import Record

DEFAULT_BYTES_PER_TOKEN: Final = 4.0
_CALIBRATION_REQUESTS: Final = 200

Tokenize = Callable[[Record], Sequence[int]]
"""Returns the token ids of a record's prompt, as the model would read it."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A prompt, cut into blocks."""

    ids: Sequence[int]
    """Whole blocks of the prompt and, if it is known, of the answer behind it; each names all before it."""
    asked: int
    """The first so many can be found: those of the prompt, less what holds its last token."""
    block_tokens: int
    tokens: int
    """Of the prompt; an estimate unless the log or a tokenizer says."""
    key: int
    """Equal for equal prompts."""


def digest(data: bytes) -> int:
    """Return 64 bits that are the same in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class Cutter:
    """Cuts prompts into blocks.

    Args:
        block_tokens: where the log does not fix it.
        tokenize: of the model at hand; without it, blocks are of bytes.
    """

    def __init__(self, *, block_tokens: int = 32, tokenize: Tokenize | None = None) -> None:
        self._block_tokens = block_tokens
        self._tokenize = tokenize
        self.bytes_per_token = DEFAULT_BYTES_PER_TOKEN

    def calibrate(self, records: Sequence[Record]) -> None:
        """Take the bytes of a token from the first requests that have both a text and a count of tokens."""
        known = [r for r in records if r.has_text and r.prompt_tokens]
        if known:
            tokens = sum(r.prompt_tokens or 0 for r in known)
            self.bytes_per_token = max(0.5, sum(len(r.text().encode()) for r in known) / tokens)

    @property
    def counts_tokens(self) -> bool:
        """Whether a tokenizer counts them."""
        return self._tokenize is not None

    @property
    def calibration_requests(self) -> int:
        """How many requests `calibrate` should be given."""
        return _CALIBRATION_REQUESTS

    def cut(self, record: Record) -> Blocks:
        """Return the blocks of a request's prompt. Cost: one digest a block."""
        salt = _salt(record)
        if len(record.block_ids) and not (record.has_text and self._tokenize):
            return _of_hashes(record, salt)
        if not record.has_text:
            return Blocks((), 0, self._block_tokens, record.prompt_tokens or 0, 0)
        if self._tokenize is not None:
            tokens = self._tokenize(record)
            return self._of_bytes(
                array("I", tokens).tobytes(), b"", 4 * self._block_tokens, salt, len(tokens)
            )
        text = record.text().encode("utf-8", "surrogatepass")
        answer = (record.answer or "").encode("utf-8", "surrogatepass")
        tokens_known = record.prompt_tokens or max(1, round(len(text) / self.bytes_per_token))
        block_bytes = max(1, round(self._block_tokens * self.bytes_per_token))
        return self._of_bytes(text, answer, block_bytes, salt, tokens_known)

    def _of_bytes(self, text: bytes, answer: bytes, block_bytes: int, salt: bytes, tokens: int) -> Blocks:
        both = text + answer
        whole = len(both) // block_bytes
        name, ids = salt, []
        for start in range(0, whole * block_bytes, block_bytes):
            name = blake2b(name + both[start : start + block_bytes], digest_size=8).digest()
            ids.append(int.from_bytes(name, "little"))
        asked = max(0, len(text) - 1) // block_bytes
        return Blocks(ids, min(asked, whole), self._block_tokens, tokens, digest(salt + text))


def _of_hashes(record: Record, salt: bytes) -> Blocks:
    ids = record.block_ids
    block_tokens = record.block_tokens or 1
    tokens = record.prompt_tokens or len(ids) * block_tokens
    key = digest(salt + array("Q", ids).tobytes() + tokens.to_bytes(4, "little"))
    if salt:  # other tenants, models and namespaces share nothing
        mask = digest(salt)
        ids = [each ^ mask for each in ids]
    whole = min(len(ids), tokens // block_tokens)
    return Blocks(ids[:whole], min(whole, max(0, tokens - 1) // block_tokens), block_tokens, tokens, key)


def _salt(record: Record) -> bytes:
    if not (record.namespace or record.tenant or record.model):
        return b""
    return repr((record.model, record.tenant, sorted(record.namespace.items()))).encode()
