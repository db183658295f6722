"""The prompts of a log, cut into tokens as a model at hand would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl_cache.cli.terminal import say
from axolotl_cache.config import Settings
from axolotl_cache.errors import ConfigError, ModelLoadError, Problem, RequestError
from axolotl_cache.profiling.record import Record
from axolotl_cache.request import Message, Request

if TYPE_CHECKING:
    from axolotl_cache.engine.prompt import PromptRenderer


class ModelTokens:
    """Cuts the prompts of a log into the tokens of one model.

    Args:
        renderer: its template and tokenizer.
    """

    def __init__(self, renderer: PromptRenderer) -> None:
        self._renderer = renderer

    def __call__(self, record: Record) -> list[int]:
        """Return the token ids of a record's prompt."""
        renderer = self._renderer
        messages = tuple(Message(role, text) for role, text in record.messages)
        tools = tuple(tool for tool in map(json.loads, record.tools) if isinstance(tool, Mapping))
        request = Request(messages=messages, prompt=None if messages else record.prompt, tools=tools)
        try:
            return renderer.tokens(renderer.text(request), is_plain=request.prompt is not None)
        except RequestError:  # what this template refuses is counted as it stands
            return renderer.tokens(record.text(), is_plain=False)

    def show(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._renderer.show(tokens)


def tokenizer_of(settings: Settings | None, folder: Path | None) -> ModelTokens | None:
    """Return what counts tokens: by a folder that is named, else by the model of the configuration.

    None is that there is neither, or that the model of the configuration is not on this machine, which is
    said; then tokens are estimated. No weights are read, and nothing is fetched for a folder.

    Raises:
        ConfigError: the folder that is named has no tokenizer.
    """
    if folder is not None:
        axolotl: Mapping[str, Any] = {"base_model": str(folder), "chat_template": "tokenizer_default"}
        place = Path.cwd() / "command line"
    elif settings is not None and settings.axolotl.get("base_model"):
        axolotl, place = settings.axolotl, settings.path
    else:
        return None
    from axolotl_cache.engine.renderer import load_renderer  # with transformers, seconds

    try:
        renderer = load_renderer(axolotl, config_path=place, report=say)
    except (ModelLoadError, OSError, ValueError) as error:
        if folder is not None:
            problem = Problem("command line", "--tokenizer", f"{folder} has no tokenizer to use: {error}")
            raise ConfigError([problem]) from error
        say(f"warning: tokens are estimated, as the model's tokenizer can't be had: {error}")
        return None
    return ModelTokens(renderer)
