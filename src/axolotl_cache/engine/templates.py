"""Which chat template an Axolotl YAML means, by Axolotl's own rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from axolotl_cache.engine.digest import combine
from axolotl_cache.errors import ModelLoadError

TOKENIZER_DEFAULT = "tokenizer_default"
FALLBACK_PREFIX = "tokenizer_default_fallback_"
DEFAULT_SENTENCE = "You are a helpful assistant."
"""What `default_system_message` replaces in a template named `chatml`."""

BUILT_IN = {
    "chatml": (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt is defined and add_generation_prompt -%}"
        "{{- '<|im_start|>assistant\\n' -}}"
        "{%- endif -%}"
    ),
    "llama3": (
        "{%- for message in messages -%}"
        "{%- if loop.first -%}{{- bos_token -}}{%- endif -%}"
        "{%- if message.content is string -%}{%- set text = message.content -%}"
        "{%- else -%}"
        "{%- set text = message.content | selectattr('text', 'defined') | map(attribute='text') | join -%}"
        "{%- endif -%}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}"
        "{{- text | trim + '<|eot_id|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt is defined and add_generation_prompt -%}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
        "{%- endif -%}"
    ),
}
"""Templates that work without Axolotl installed. They render as Axolotl's of the same name."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The template in force for inference."""

    text: str | None
    """Jinja; None if there is none, and prompts are completed as they stand."""
    source: str
    """Where it came from, for people."""
    file: Path | None = None
    """The file that it was read from, if the YAML names one."""
    default_system_message: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits; empty without a template."""
        if self.text is None:
            return ""
        return combine("chat-template", [self.text, self.default_system_message])


def resolve_template(
    axolotl: Mapping[str, Any], tokenizer: Any, *, find_file: Callable[[str], Path | None]
) -> ChatTemplate:
    """Return the chat template that Axolotl would use for inference with this YAML.

    An explicit `chat_template` wins; then the first dataset's, if it is of type `chat_template`. Without
    either, the tokenizer's own, where Axolotl's command completes the bare text.

    Args:
        axolotl: the YAML.
        tokenizer: asked for its own template only.
        find_file: says where a path written in the YAML is, or None.

    Raises:
        ModelLoadError: the template that is asked for can't be had.
    """
    message = str(axolotl.get("default_system_message") or "")
    choice, jinja, where, warnings = _choice(axolotl)
    if choice is None:
        own = own_template(tokenizer)
        return ChatTemplate(own, "the tokenizer's own" if own else "none", None, message, tuple(warnings))
    text, source, file = _text(choice, jinja, where, tokenizer, find_file)
    if choice == "chatml" and where == "chat_template" and message:
        if DEFAULT_SENTENCE in text:
            text = text.replace(DEFAULT_SENTENCE, message)
        else:
            warnings.append(_no_effect("the chatml template has no default sentence to replace"))
    elif message:
        warnings.append(_no_effect("Axolotl reads it with `chat_template: chatml` only"))
    return ChatTemplate(text, source, file, message, tuple(warnings))


def own_template(tokenizer: Any) -> str | None:
    """Return the template that came with the tokenizer, or None; of several, the one named `default`."""
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, Mapping):
        own = own.get("default")
    return own or None


def _choice(axolotl: Mapping[str, Any]) -> tuple[str | None, str | None, str, list[str]]:
    """Return which template is asked for, its Jinja, the key that says so, and what to warn of."""
    jinja = axolotl.get("chat_template_jinja")
    # Axolotl's validation: a Jinja template without a name is the template.
    choice = axolotl.get("chat_template") or ("jinja" if jinja else None)
    if choice:
        return str(choice), jinja, "chat_template", []
    datasets = axolotl.get("datasets")
    first = datasets[0] if isinstance(datasets, list) and datasets else None
    if not isinstance(first, Mapping) or first.get("type") != "chat_template":
        return None, None, "", []
    warnings = []
    if first.get("chat_template_jinja") and not first.get("chat_template"):
        warnings.append(
            "datasets[0].chat_template_jinja is not read: Axolotl takes `tokenizer_default` for a dataset "
            "that names no chat_template. Write `chat_template: jinja` beside it."
        )
    choice = str(first.get("chat_template") or TOKENIZER_DEFAULT)
    return choice, first.get("chat_template_jinja"), "datasets[0].chat_template", warnings


def _text(
    choice: str, jinja: str | None, where: str, tokenizer: Any, find_file: Callable[[str], Path | None]
) -> tuple[str, str, Path | None]:
    if choice == "jinja":
        return _from_jinja(jinja, where, find_file)
    if choice == TOKENIZER_DEFAULT or choice.startswith(FALLBACK_PREFIX):
        own = own_template(tokenizer)
        if own:
            return own, "the tokenizer's own", None
        if choice == TOKENIZER_DEFAULT:
            raise ModelLoadError(
                f"{where}: {choice}, but the tokenizer has no chat template. Name the one that the model was "
                "trained with, or write `tokenizer_default_fallback_chatml`."
            )
        choice = choice.removeprefix(FALLBACK_PREFIX)
    return _named(choice, where), f"built in: {choice}", None


def _from_jinja(
    jinja: str | None, where: str, find_file: Callable[[str], Path | None]
) -> tuple[str, str, Path | None]:
    if not jinja:
        raise ModelLoadError(f"{where}: jinja needs chat_template_jinja, the template's text or a file.")
    # A text with line ends or Jinja's braces in it is no path, and may be too long to be asked for as one.
    file = None if "\n" in jinja or "{" in jinja else find_file(jinja)
    if file is None or not file.is_file():
        return jinja, "chat_template_jinja", None
    return file.read_text(encoding="utf-8"), str(file), file


def _named(name: str, where: str) -> str:
    if name in BUILT_IN:
        return BUILT_IN[name]
    installed = _axolotl_templates()
    if name in installed:
        return installed[name].read_text(encoding="utf-8")
    near = get_close_matches(name, {*BUILT_IN, *installed}, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    if installed:
        raise ModelLoadError(f"{where}: Axolotl has no template `{name}`.{hint}")
    raise ModelLoadError(
        f"{where}: `{name}` is not among the templates that work without Axolotl "
        f"({', '.join(sorted(BUILT_IN))}).{hint} Either install Axolotl beside this package, or write "
        "`chat_template: jinja` and in chat_template_jinja the file chat_template.jinja that training saved "
        "with the tokenizer."
    )


def _axolotl_templates() -> dict[str, Path]:
    """Return the templates of an installed Axolotl by name, without importing it (that takes 30 seconds)."""
    spec = find_spec("axolotl")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    found: dict[str, Path] = {}
    for place in places:
        for path in (Path(place) / "utils" / "chat_templates" / "templates").glob("*.jinja"):
            found.setdefault(path.stem, path)
    return found


def _no_effect(reason: str) -> str:
    return f"default_system_message has no effect: {reason}. Send a system message with the conversation."
