"""LangChain's and LiteLLM's clients against our own server: a process of its own, over the bundled model."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("SERVER_PYTHON") or REPOSITORY / ".venv" / "bin" / "python")
"""Of an environment with the extras `engine` and `server`: the clients' own has neither."""
MODEL = REPOSITORY / "models" / "SmolLM2-135M-Instruct"
SYSTEM = "You help the customers of a bank, and answer briefly. " * 12


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The server's address."""
    if not PYTHON.exists() or not MODEL.exists():
        pytest.skip(f"{PYTHON} or {MODEL} is missing: run scripts/install")
    folder = tmp_path_factory.mktemp("server")
    config = folder / "config.yaml"
    config.write_text(
        f"base_model: {MODEL}\nchat_template: tokenizer_default\nbf16: true\n"
        "inference_settings: {enable_persistence: false}\n"
    )
    command = [PYTHON, "-m", "axolotl_cache.cli.main", "serve", config, "--port", "0", "--cache-truncated"]
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY / "src"),
        "AXOLOTL_CACHE_HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder),
    }
    options = ["--model-name", "small", "--temperature", "0"]
    running = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)
    said = []
    for line in running.stderr:
        said.append(line)
        if " at http" in line:
            break
    else:
        running.communicate()
        pytest.fail("the server did not start:\n" + "".join(said[-20:]))
    yield re.search(r"http://[\d.:]+", said[-1])[0] + "/v1"
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode in (0, -15)


class TestLangChain:
    @pytest.fixture
    def chat(self, url):
        module = pytest.importorskip("langchain_openai")
        return module.ChatOpenAI(
            base_url=url,
            api_key="none",
            model="small",
            temperature=0,
            max_tokens=8,
            max_retries=0,
            include_response_headers=True,
            stream_usage=True,
        )

    def test_the_second_answer_is_a_hit(self, chat):
        asked = [("system", SYSTEM), ("human", "How do I block my card?")]
        first, again = chat.invoke(asked), chat.invoke(asked)
        assert first.response_metadata["headers"]["x-cache"] in ("miss", "hit-prefix")
        assert again.response_metadata["headers"]["x-cache"] == "hit-exact"
        assert again.content == first.content != ""
        tokens = again.usage_metadata
        assert tokens["input_token_details"]["cache_read"] == tokens["input_tokens"] > 100
        assert tokens["output_tokens"] == 8

    def test_a_stream_is_what_the_whole_answer_is(self, chat):
        asked = [("system", SYSTEM), ("human", "Where is the nearest cash machine?")]
        pieces = list(chat.stream(asked))
        assert len(pieces) > 3
        assert "".join(piece.content for piece in pieces) == chat.invoke(asked).content
        assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 8

    def test_async_and_batches(self, chat):
        asked = [[("human", f"Say the number {n}.")] for n in range(3)]
        together = asyncio.run(chat.abatch(asked))
        assert [answer.content for answer in together] == [chat.invoke(each).content for each in asked]

    def test_tools_and_what_a_model_says_of_them(self, chat):
        function = {"name": "balance", "description": "Of an account.", "parameters": {"type": "object"}}
        tool = {"type": "function", "function": function}
        assert chat.bind_tools([tool]).invoke("What is my balance?").content

    def test_a_mistake_is_told_as_openais_would_be(self, url, chat):
        import openai

        with pytest.raises(openai.NotFoundError, match="there is small"):
            chat.model_copy(update={"model_name": "large"}).invoke("Hello?")


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own, at import and at every call
class TestLiteLLM:
    @pytest.fixture
    def ask(self, url):
        pytest.importorskip("openai")
        litellm = pytest.importorskip("litellm")

        def call(text, *, send=litellm.completion, **options):
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
            given = {"model": "openai/small", "temperature": 0, "max_tokens": 8, "max_retries": 0} | options
            return send(api_base=url, api_key="none", messages=messages, **given)

        return call

    def test_the_second_answer_is_a_hit(self, ask):
        first, again = ask("How do I block my card?"), ask("How do I block my card?")
        assert _source(first) in ("miss", "hit-prefix", "hit-exact")
        assert _source(again) == "hit-exact"
        assert again.choices[0].message.content == first.choices[0].message.content != ""
        usage = again.usage
        assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens > 100

    def test_a_stream_is_what_the_whole_answer_is(self, ask):
        pieces = list(ask("Where is my card?", stream=True, stream_options={"include_usage": True}))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == ask("Where is my card?").choices[0].message.content
        assert pieces[-1].usage.completion_tokens == 8

    def test_async(self, ask):
        import litellm

        async def both():
            return await asyncio.gather(*(ask(f"Say {n}.", send=litellm.acompletion) for n in range(2)))

        texts = [answer.choices[0].message.content for answer in asyncio.run(both())]
        assert texts == [ask(f"Say {n}.").choices[0].message.content for n in range(2)]

    def test_a_mistake_is_told_as_openais_would_be(self, ask):
        import litellm

        with pytest.raises(litellm.NotFoundError, match="there is small"):
            ask("Hello?", model="openai/large")
        with pytest.raises(litellm.BadRequestError, match="max_tokens"):
            ask("Hello?", max_tokens=0)


def _source(answer):
    return answer._hidden_params["additional_headers"]["llm_provider-x-cache"]
