"""A request's key, and the keys that it would have if one difference did not count."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from axolotl_cache.language.volatile import masked
from axolotl_cache.profiling.blocks import digest
from axolotl_cache.profiling.doctor.finding import Cause
from axolotl_cache.profiling.record import Record

_MARKS: Final = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<<?/?SYS>>?|<(?:start|end)_of_turn>|</?(?:bos|eos)>"
    r"|^\s*(?:#+\s*)?(?:system|user|assistant|model|human|instruction|response)\s*:?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""What chat templates put around messages: marks, and names of roles that stand on a line of their own."""
_LENGTHS: Final = ("max_tokens", "max_completion_tokens", "max_new_tokens")
_ROLE_BEHIND_MARK: Final = re.compile(
    r"(<\|(?:im_start|start_header_id|start)\|>)\s*(?:system|user|assistant|model|tool)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Keys:
    """The key of a request, and its other keys by the cause that they leave out."""

    full: int
    without: Mapping[Cause, int]


def keys_of(record: Record) -> Keys:
    """Return the keys of a request. Cost: a few passes over its text."""
    whose = (record.tenant, record.model, record.is_repeatable)
    namespace = tuple(sorted(record.namespace.items()))
    sampling = {k: v for k, v in record.sampling.items() if k not in (*_LENGTHS, "seed")}
    length = next((record.sampling[k] for k in _LENGTHS if k in record.sampling), None)
    seed = record.sampling.get("seed")
    words, rendering = _words(record)
    base: dict[str, Any] = {
        "whose": whose,
        "namespace": namespace,
        "sampling": sorted(sampling.items(), key=str),
        "length": length,
        "seed": seed,
        "words": words,
        "rendering": rendering,
        "tools": record.tools,
    }

    def key(**changed: Any) -> int:
        return digest(repr({**base, **changed}).encode("utf-8", "surrogatepass"))

    without = {Cause.MAX_TOKENS: key(length=None), Cause.NAMESPACE: key(namespace=())}
    if seed is not None:
        without[Cause.SEEDS] = key(seed=None)
    if record.has_text:
        blank = [" ".join(text.split()) for text in words]
        without[Cause.BLANKS] = key(words=blank, rendering=())
        without[Cause.CLOCK] = key(words=[masked(text, "time") for text in words], rendering=())
        without[Cause.REQUEST_ID] = key(words=[masked(text, "id") for text in words], rendering=())
        without[Cause.TEMPLATE] = key(words=_bare(record), rendering=(), namespace=())
    if len(record.tools) > 1:
        without[Cause.TOOL_ORDER] = key(tools=sorted(record.tools), rendering=())
    return Keys(key(), without)


def _words(record: Record) -> tuple[list[str], tuple[int, ...]]:
    """Return the texts of a prompt, and its blocks where the log has those, too."""
    blocks = (record.prompt_tokens or 0, *record.block_ids) if len(record.block_ids) else ()
    if record.prompt is not None:
        return [record.prompt], blocks
    return [part for role, text in record.messages for part in (role, text)], blocks


def _bare(record: Record) -> list[str]:
    """Return the words without what a chat template adds."""
    if record.prompt is None:
        return [text for _, text in record.messages]
    text = _ROLE_BEHIND_MARK.sub(r"\1", record.prompt)
    return _MARKS.sub(" ", text).split()
