"""What each cause is called, and what to do about it."""

from __future__ import annotations

from typing import Final

from axolotl_cache.profiling.doctor.finding import Cause

KEY_DIFFERENCES: Final = {
    Cause.CLOCK: (
        "A date or time in the prompt makes equal questions different",
        "leave the time out, round it to the day, or give it in a tool that the model calls",
    ),
    Cause.REQUEST_ID: (
        "A random id in the prompt makes equal questions different",
        "send ids beside the prompt (`metadata`, X-Request-Id), not in it",
    ),
    Cause.TOOL_ORDER: (
        "The same tools come in different orders",
        "sort the tools by name before sending them",
    ),
    Cause.TEMPLATE: (
        "The same messages are rendered by different chat templates",
        "use one chat template everywhere: compare `chat_template` and the tokenizer of all servers",
    ),
    Cause.BLANKS: (
        "Prompts differ in blanks and line ends only",
        "strip blanks at the ends of messages, and join parts in one way",
    ),
    Cause.MAX_TOKENS: (
        "The same prompt is asked with different max_tokens",
        "send one max_tokens for one kind of request: an answer is stored for one limit only",
    ),
    Cause.SEEDS: (
        "The same prompt is asked with different seeds",
        "send one fixed seed, or temperature 0",
    ),
    Cause.NAMESPACE: (
        "The namespace changed, so that nothing stored before is served",
        "keep cache_version, environment_tag and weights as they are unless answers must change; "
        "do not put build numbers or dates in them",
    ),
}
"""What it is called and what to do, for differences in keys."""

EARLY: Final = {
    "time": (
        Cause.CLOCK,
        "A date or time stands in front of what never changes",
        "move it behind the stable instructions (end of the system prompt, or the user's message)",
    ),
    "id": (
        Cause.REQUEST_ID,
        "An id that is always another stands in front of what never changes",
        "send it beside the prompt (`metadata`, X-Request-Id), or move it behind the stable instructions",
    ),
    "user": (
        Cause.USER_FIRST,
        "Who asks stands in front of what is the same for all",
        "move the user's name and data behind the stable instructions",
    ),
    "text": (
        Cause.TEXT_FIRST,
        "Text that changes stands in front of text that is always the same",
        "put the stable instructions first",
    ),
}
"""By the kind of what changes early: the cause, what it is called, what to do."""

ANSWERS: Final = {
    Cause.UNSEEDED: (
        "Answers differ because they are sampled without a seed",
        "ask with temperature 0 or a seed where one answer is wanted",
    ),
    Cause.NAMESPACE: (
        "Answers differ between versions of the model",
        "serve one version at a time, or give each its own cache_version",
    ),
    Cause.TEMPLATE: (
        "Answers differ between chat templates",
        "use one chat template everywhere",
    ),
    Cause.UNEXPLAINED: (
        "The same request got different answers, with no sampling that would explain it",
        "look for weights changed in place, for engines whose batches change results, and for prompts that "
        "the log does not show whole; `doctor LOG --config YAML --check 20` asks the model again",
    ),
}
"""The same for answers that differ."""
