"""llama-cpp-python as a program: JSON lines in, JSON lines out, in an environment of its own.

    .venv-peers/bin/python -P benchmarks/peers/llama_cpp.py

Started with -P, so that `import llama_cpp` finds the package and not this file. Each line in is one of

    {"do": "load", "model": PATH, "threads": N, "batch_tokens": N, "context_tokens": N, "ram_cache_bytes": N}
    {"do": "forget"}
    {"do": "serve", "requests": [{"tokens": [...], "new_tokens": N, "at_seconds": S}, ...]}
    {"do": "convert", "model": PATH, "to": PATH, "ftype": "BF16"}

and is answered by one line, `{"served": [...]}` or `{"ok": true}`. What llama.cpp says goes to standard
error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import llama_cpp


class Server:
    """One model, serving one request at a time, as llama-cpp-python does."""

    def __init__(self) -> None:
        self._llama: Any = None
        self._ram_cache_bytes = 0
        self._cache: Any = None

    def load(
        self, *, model: str, threads: int, batch_tokens: int, context_tokens: int, ram_cache_bytes: int
    ) -> dict[str, Any]:
        """Load a GGUF file."""
        self._llama = None
        self._llama = llama_cpp.Llama(
            model,
            n_ctx=context_tokens,
            n_batch=batch_tokens,
            n_ubatch=batch_tokens,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self._ram_cache_bytes = ram_cache_bytes
        return self.forget()

    def forget(self) -> dict[str, Any]:
        """Start cold: nothing to match in the context, nothing in the RAM cache."""
        self._llama.reset()
        self._cache = llama_cpp.LlamaRAMCache(self._ram_cache_bytes) if self._ram_cache_bytes else None
        return {"ok": True}

    def serve(self, *, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Serve the requests in the order of their arrival."""
        started = time.perf_counter()
        return {"served": [self._one(started, **request) for request in requests]}

    def convert(self, *, model: str, to: str, ftype: str) -> dict[str, Any]:
        """Write a GGUF file with the same weights in another type."""
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{ftype}")
        settings.allow_requantize = True
        status = llama_cpp.llama_model_quantize(model.encode(), to.encode(), settings)
        if status:
            raise RuntimeError(f"llama_model_quantize: {status}")
        return {"ok": True}

    def _one(
        self, started: float, *, tokens: list[int], new_tokens: int, at_seconds: float
    ) -> dict[str, Any]:
        time.sleep(max(started + at_seconds - time.perf_counter(), 0))
        self._take_from_cache(tokens)
        matched = llama_cpp.Llama.longest_token_prefix(self._llama._input_ids.tolist(), tokens)
        answer: list[int] = []
        first = 0.0
        # `generate` matches the prompt with what is in the context by itself, and knows no end token.
        for token in self._llama.generate(tokens, temp=0.0):
            answer.append(token)
            if len(answer) == 1:
                first = time.perf_counter() - started
            if len(answer) == new_tokens:
                break
        if self._cache is not None:
            self._cache[tokens + answer] = self._llama.save_state()
        return {
            "tokens": answer,
            "first_token_seconds": first,
            "end_seconds": time.perf_counter() - started,
            "computed_tokens": len(tokens) - min(matched, len(tokens) - 1),
        }

    def _take_from_cache(self, tokens: list[int]) -> None:
        """Load the RAM cache's state where it has more of the prompt, as `create_completion` does."""
        if self._cache is None or tokens not in self._cache:
            return
        state = self._cache[tokens]
        cached = llama_cpp.Llama.longest_token_prefix(state.input_ids.tolist(), tokens)
        if cached > llama_cpp.Llama.longest_token_prefix(self._llama._input_ids.tolist(), tokens):
            self._llama.load_state(state)


def main() -> None:
    """Answer each line of standard input until it ends."""
    # Answers have a descriptor of their own: llama.cpp may write to standard output.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(server, order.pop("do"))(**order)), file=out, flush=True)


if __name__ == "__main__":
    main()
