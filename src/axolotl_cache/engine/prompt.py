"""From a request to the model's prompt: the chat template applied, and the text cut into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from axolotl_cache.errors import RequestError
from axolotl_cache.request import Message, Request


class PromptRenderer:
    """Renders prompts exactly as the model was trained to see them.

    Args:
        tokenizer: the model's Hugging Face tokenizer.
        chat_template: Jinja text; None for a model without one, which then takes plain prompts only.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self._tokenizer = tokenizer
        self._chat_template = chat_template

    @property
    def takes_messages(self) -> bool:
        """Whether there is a chat template."""
        return self._chat_template is not None

    def text(self, request: Request) -> str:
        """Return the prompt as text, special tokens written out.

        Raises:
            RequestError: neither or both of messages and prompt are given, or the template refuses them.
        """
        if (request.prompt is None) == (not request.messages):
            raise RequestError("a request holds either `messages` or a `prompt`")
        if request.prompt is not None:
            return request.prompt
        return self.render(request.messages, tools=request.tools)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), for_answer: bool = True
    ) -> str:
        """Return messages as the template writes them, ready for the assistant's answer if `for_answer`.

        Tools are there for templates that write them; others leave them out.
        """
        if self._chat_template is None:
            raise RequestError(
                "this model has no chat template: send a plain `prompt`, or set `chat_template` in the YAML"
            )
        try:
            return self._apply([self._for_template(m) for m in messages], tools, for_answer=for_answer)
        except Exception as error:
            # Templates are programs: what they raise (jinja2's errors, or their own) is about the messages.
            raise RequestError(f"the chat template refuses these messages: {error}") from error

    @cached_property
    def reads_parts(self) -> bool:
        """Whether the template reads a message's content as a list of parts, and not as a text only."""
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        try:
            text = self._apply([{"role": "user", "content": parts}], (), for_answer=True)
        except Exception:  # whatever a template raises about a list, it does not read it
            return False
        return "one" in text and "two" in text and "'type'" not in text and '"type"' not in text

    def _for_template(self, message: Message) -> dict[str, Any]:
        """Return a message under the names that Hugging Face templates look for."""
        content = list(message.parts) if message.parts and self.reads_parts else message.content
        more: dict[str, Any] = {
            "tool_calls": [dict(call) for call in message.tool_calls],
            "tool_call_id": message.tool_call_id,
            "name": message.name,
        }
        return {"role": message.role, "content": content} | {k: v for k, v in more.items() if v}

    def _apply(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, for_answer: bool
    ) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self._chat_template,
                tokenize=False,
                add_generation_prompt=for_answer,
            )
        )

    def tokens(self, text: str, *, is_plain: bool) -> list[int]:
        """Return the token ids of a rendered text.

        Args:
            text: as returned by `text`.
            is_plain: True for a plain prompt, which gets the tokenizer's own special tokens; a rendered
                conversation has them written out already.
        """
        try:
            return list(self._tokenizer(text, add_special_tokens=is_plain)["input_ids"])
        except (UnicodeError, TypeError) as error:  # half a character, which JSON can spell
            raise RequestError(f"the prompt is not valid Unicode text: {error}") from error

    def special_token(self, text: str) -> int | None:
        """Return the id of a special token written out, or None if the text is no single special token."""
        token = self._tokenizer.convert_tokens_to_ids(text)
        return token if token in self._tokenizer.all_special_ids and self.show([token]) == text else None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def show(self, tokens: Sequence[int]) -> str:
        """Return the text of any tokens, special ones written out, for reports."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokenizer's special tokens, written out: what gives a text another meaning in a prompt."""
        return tuple(map(str, self._tokenizer.all_special_tokens))

    def shared_prefix(self, system: str | None) -> list[int]:
        """Return the tokens that every conversation with this system message starts with.

        Found by rendering two conversations that have nothing else in common. None stands for no system
        message: what remains is the one that the template puts in by itself, if any.
        """
        head = () if system is None else (Message("system", system),)
        one, other = (
            self.tokens(self.render((*head, Message("user", word))), is_plain=False)
            for word in ("A b", "7\n")
        )
        length = 0
        while length < min(len(one), len(other)) and one[length] == other[length]:
            length += 1
        return one[:length]
