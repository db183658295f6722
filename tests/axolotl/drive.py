"""Runs Axolotl's own inference on a list of prompts, with a seed before each and shorter answers.

    python drive.py your_config.yaml [flags] [--gradio]; standard input: [longest answer, [prompt, ...]]

Writes driven.json: for each prompt what was shown, the tokens, the random numbers left after it, seconds; and
where `generate` is ours, what the model's own gives for the same prompt and seed, and which tier served.
"""

import functools
import io
import json
import sys
import time
from contextlib import redirect_stdout

import fire
import gradio
import torch
from axolotl.cli import inference
from transformers.generation.streamers import BaseStreamer

new_tokens, prompts = json.load(sys.stdin)
told = []
printed = io.StringIO()
waiting = iter(prompts)


class Watch(BaseStreamer):
    """Notes when the first token comes, and hands everything on."""

    def __init__(self, streamer=None):
        self.streamer, self.calls, self.first = streamer, 0, 0.0

    def put(self, value):
        self.calls += 1
        if self.calls == 2:  # the first call is the prompt
            self.first = time.perf_counter()
        if self.streamer is not None:
            self.streamer.put(value)

    def end(self):
        if self.streamer is not None:
            self.streamer.end()


def timed(generate, kwargs, streamer=None):
    watch, started = Watch(streamer), time.perf_counter()
    out = generate(**(kwargs | {"streamer": watch}))
    return {
        "tokens": out["sequences"].tolist(),
        "random": torch.get_rng_state().tolist(),
        "ttft_seconds": watch.first - started,
        "seconds": time.perf_counter() - started,
    }, out


def seed():
    torch.manual_seed(len(told))


def ask() -> str:
    printed.seek(0)
    printed.truncate()
    seed()
    return next(waiting, "")


def generation_config(**settings):
    return CONFIG(**(settings | {"max_new_tokens": new_tokens}))


def load(**arguments):
    model, tokenizer, rest = LOAD(**arguments)
    generate = model.generate

    @functools.wraps(type(model).generate)
    def listen(**kwargs):
        entry, out = timed(generate, kwargs, kwargs.pop("streamer"))
        entry["printed"] = printed.getvalue()
        own = getattr(generate, "generate", None)
        if own is not None:
            entry["served"] = {kind.value: count for kind, count in generate.totals.served.items()}
            entry["passed_on"] = dict(generate.totals.passed_on)
            seed()
            entry["alone"] = timed(own, kwargs)[0]
        told.append(entry)
        return out

    model.generate = listen
    return model, tokenizer, rest


class Interface:
    """Stands in for gradio's: asks each prompt once, and keeps the last of what would be shown."""

    def __init__(self, fn, **_):
        self.fn = fn

    def launch(self, **_):
        for number, text in enumerate(prompts):
            seed()
            *_, shown = self.fn(text)
            while len(told) <= number:  # the generating thread writes its entry at its end
                time.sleep(0.01)
            told[-1]["printed"] = shown


CONFIG, LOAD = inference.GenerationConfig, inference.load_model_and_tokenizer
inference.GenerationConfig = generation_config
inference.load_model_and_tokenizer = load
inference.get_multi_line_input = ask
gradio.Interface = Interface
with redirect_stdout(printed):
    fire.Fire(inference.do_cli)
with open("driven.json", "w", encoding="utf-8") as file:
    json.dump(told, file)
