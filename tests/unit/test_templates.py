"""Which chat template a YAML means, and what our own render."""

import pytest

from axolotl_cache.engine import templates
from axolotl_cache.engine.templates import BUILT_IN, resolve_template
from axolotl_cache.errors import ModelLoadError

OWN = "own {{ messages }}"


class Tokenizer:
    """As much of a tokenizer as is asked for."""

    def __init__(self, chat_template=None):
        self.chat_template = chat_template


def resolve(axolotl, own=OWN, folder=None):
    def find_file(name):
        place = folder / name if folder else None
        return place if place and place.exists() else None

    return resolve_template(axolotl, Tokenizer(own), find_file=find_file)


@pytest.mark.parametrize(
    ("axolotl", "own", "text"),
    [
        ({"chat_template": "chatml"}, OWN, BUILT_IN["chatml"]),
        ({"chat_template": "llama3"}, None, BUILT_IN["llama3"]),
        ({"chat_template": "tokenizer_default"}, OWN, OWN),
        ({"chat_template": "tokenizer_default_fallback_chatml"}, OWN, OWN),
        ({"chat_template": "tokenizer_default_fallback_chatml"}, None, BUILT_IN["chatml"]),
        ({"chat_template": "jinja", "chat_template_jinja": "{{ 1 }}"}, OWN, "{{ 1 }}"),
        # A Jinja template without a name is the template.
        ({"chat_template_jinja": "{{ 1 }}"}, OWN, "{{ 1 }}"),
        # The key wins over the dataset.
        (
            {"chat_template": "chatml", "datasets": [{"type": "chat_template", "chat_template": "llama3"}]},
            OWN,
            BUILT_IN["chatml"],
        ),
        (
            {"datasets": [{"type": "chat_template", "chat_template": "llama3"}]},
            OWN,
            BUILT_IN["llama3"],
        ),
        ({"datasets": [{"type": "chat_template"}]}, OWN, OWN),
        # Only the first dataset, and only of this type.
        (
            {"datasets": [{"type": "alpaca"}, {"type": "chat_template", "chat_template": "llama3"}]},
            OWN,
            OWN,
        ),
        ({"datasets": [{"type": "alpaca", "chat_template": "llama3"}]}, None, None),
        ({}, OWN, OWN),
        ({"chat_template": None}, OWN, OWN),
        ({}, None, None),
        ({}, "", None),
        ({}, {"default": OWN, "tool_use": "other"}, OWN),
        ({}, {"tool_use": "other"}, None),
    ],
)
def test_the_rules_of_axolotl(axolotl, own, text):
    assert resolve(axolotl, own).text == text


def test_a_file_is_read_where_it_is(tmp_path):
    (tmp_path / "mine.jinja").write_text("from a file")
    found = resolve({"chat_template": "jinja", "chat_template_jinja": "mine.jinja"}, folder=tmp_path)
    assert found.text == "from a file"
    assert found.file == tmp_path / "mine.jinja"


def test_a_name_of_no_file_is_the_text(tmp_path):
    found = resolve({"chat_template_jinja": "just text"}, folder=tmp_path)
    assert (found.text, found.file) == ("just text", None)


def test_jinja_without_text_is_refused():
    with pytest.raises(ModelLoadError, match="needs chat_template_jinja"):
        resolve({"chat_template": "jinja"})


def test_a_tokenizer_without_template_is_refused_where_its_own_is_asked_for():
    with pytest.raises(ModelLoadError, match="the tokenizer has no chat template"):
        resolve({"chat_template": "tokenizer_default"}, own=None)
    with pytest.raises(ModelLoadError, match=r"datasets\[0\]\.chat_template"):
        resolve({"datasets": [{"type": "chat_template"}]}, own=None)


def test_an_unknown_name_names_two_ways_out(monkeypatch):
    monkeypatch.setattr(templates, "_axolotl_templates", dict)
    with pytest.raises(ModelLoadError, match="install Axolotl") as caught:
        resolve({"chat_template": "qwen3"})
    assert "chat_template: jinja" in str(caught.value)
    with pytest.raises(ModelLoadError, match="Did you mean `chatml`"):
        resolve({"chat_template": "chatmll"})


def test_other_names_are_read_from_an_installed_axolotl(tmp_path, monkeypatch):
    folder = tmp_path / "axolotl" / "utils" / "chat_templates" / "templates"
    folder.mkdir(parents=True)
    (folder / "qwen3.jinja").write_text("of Axolotl")
    (tmp_path / "axolotl" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "axolotl", raising=False)
    assert resolve({"chat_template": "qwen3"}).text == "of Axolotl"
    with pytest.raises(ModelLoadError, match="Did you mean `qwen3`"):
        resolve({"chat_template": "qwen"})


def test_a_datasets_jinja_without_a_name_is_not_read_and_a_warning_says_so():
    found = resolve({"datasets": [{"type": "chat_template", "chat_template_jinja": "x"}]})
    assert found.text == OWN
    assert "chat_template_jinja is not read" in found.warnings[0]


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_a_default_system_message_without_effect_is_said_aloud(template):
    found = resolve({"chat_template": template, "default_system_message": "Be brief."})
    assert "default_system_message has no effect" in found.warnings[0]
    assert resolve({"chat_template": template}).warnings == ()


def test_the_digest_is_of_the_text():
    one, two = resolve({"chat_template": "chatml"}), resolve({"chat_template": "llama3"})
    assert one.digest != two.digest
    assert one.digest == resolve({"chat_template": "tokenizer_default"}, own=BUILT_IN["chatml"]).digest
    assert resolve({}, None).digest == ""
    with_message = resolve({"chat_template": "chatml", "default_system_message": "Be brief."})
    assert with_message.digest != one.digest


CONVERSATION = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "  Who?"},
]
RENDERED = {
    "chatml": (
        "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n  Who?<|im_end|>\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
    ),
}
TURN = {
    "chatml": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_our_templates_render_every_character_as_axolotls_do(name):
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(messages, **settings):
        texts, _ = render_jinja_template(
            [messages], chat_template=BUILT_IN[name], bos_token="<s>", **settings
        )
        return texts[0]

    assert render(CONVERSATION) == RENDERED[name]
    assert render(CONVERSATION, add_generation_prompt=True) == RENDERED[name] + TURN[name]


def test_llama3_joins_the_parts_of_a_message():
    from transformers.utils.chat_template_utils import render_jinja_template

    parts = [{"type": "text", "text": " a "}, {"type": "image"}, {"type": "text", "text": "b\n"}]
    texts, _ = render_jinja_template(
        [[{"role": "user", "content": parts}]], chat_template=BUILT_IN["llama3"], bos_token=""
    )
    assert texts[0] == "<|start_header_id|>user<|end_header_id|>\n\na b<|eot_id|>"
