"""The official client against the real server: whole, streamed, several, refused."""

import asyncio
import itertools

import openai
import pytest

SYSTEM = "You help the customers of a bank. " * 12
_NUMBERS = itertools.count()


def ask(text=None, **options):
    """A request that nobody made before, unless it is given a text."""
    text = f"Question {next(_NUMBERS)}?" if text is None else text
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"model": "small", "messages": messages, "temperature": 0, "max_tokens": 6} | options


def source(raw):
    return raw.headers["x-cache"]


def test_first_computed_then_served_from_the_cache(client):
    question = ask()
    first = client.chat.completions.with_raw_response.create(**question)
    again = client.chat.completions.with_raw_response.create(**question)
    assert source(first) in ("miss", "hit-prefix")
    assert source(again) == "hit-exact"
    assert again.headers["age"].isdigit()
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    one, two = first.parse(), again.parse()
    assert one.choices == two.choices
    assert one.choices[0].finish_reason == "length"
    assert two.usage.prompt_tokens_details.cached_tokens == two.usage.prompt_tokens == one.usage.prompt_tokens
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    assert one.system_fingerprint == two.system_fingerprint


def test_another_question_behind_the_same_prompt_is_a_prefix_hit(client):
    client.chat.completions.create(**ask("Hello? " * 40))
    raw = client.chat.completions.with_raw_response.create(**ask("Where is my card? " * 40))
    assert source(raw) == "hit-prefix"
    assert raw.parse().usage.prompt_tokens_details.cached_tokens > 0
    assert "never seen" in raw.headers["x-cache-reason"]


def test_streamed_and_whole_answers_are_the_same_and_share_one_entry(client):
    question = ask()
    whole = client.chat.completions.create(**question)
    raw = client.chat.completions.with_raw_response.create(**question, stream=True)
    assert source(raw) == "hit-exact"
    assert _text(raw.parse()) == whole.choices[0].message.content

    other = ask(max_tokens=20)
    raw = client.chat.completions.with_raw_response.create(**other, stream=True)
    assert source(raw) == "hit-prefix"
    events = list(raw.parse())
    assert len(events) > 3
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices[0].finish_reason == "length"
    again = client.chat.completions.with_raw_response.create(**other)
    assert source(again) == "hit-exact"
    assert again.parse().choices[0].message.content == _text(events)


def test_the_usage_of_a_stream_comes_if_it_is_asked_for(client):
    events = list(
        client.chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True})
    )
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == 6
    assert all(event.usage is None for event in events[:-1])


def test_several_choices_with_a_seed_differ_and_come_again(client):
    question = ask(n=3, seed=7, temperature=1.5)
    first = client.chat.completions.create(**question)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert first.usage.completion_tokens == 18
    raw = client.chat.completions.with_raw_response.create(**question)
    assert source(raw) == "hit-exact"
    assert [choice.message.content for choice in raw.parse().choices] == texts

    streamed = ["", "", ""]
    for event in client.chat.completions.create(**question, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_what_is_sampled_without_a_seed_is_neither_served_nor_stored_unless_asked(client):
    question = ask()
    del question["temperature"]  # OpenAI's default, and ours: 1
    sources = [
        source(client.chat.completions.with_raw_response.create(**question, extra_headers=headers))
        for headers in ({}, {}, {"X-Cache-Also": "sampled"}, {"X-Cache-Also": "sampled"})
    ]
    assert sources[1:] == ["hit-prefix", "hit-prefix", "hit-exact"]


def test_log_probabilities_of_chat_and_of_plain_completions(client):
    question = ask(logprobs=True, top_logprobs=2)
    one = client.chat.completions.create(**question).choices[0]
    again = client.chat.completions.create(**question).choices[0]
    assert one.logprobs == again.logprobs
    assert [len(entry.top_logprobs) for entry in one.logprobs.content] == [2] * 6
    assert all(entry.logprob <= 0 for entry in one.logprobs.content)

    plain = client.completions.create(
        model="small", prompt="Once upon a time", logprobs=2, temperature=0, max_tokens=4
    ).choices[0]
    assert len(plain.logprobs.tokens) == len(plain.logprobs.text_offset) == 4
    assert [len(top) for top in plain.logprobs.top_logprobs] == [2] * 4


def test_plain_completions_of_several_prompts(client):
    prompts = ["The first of them", "And the second one"]
    both = client.completions.create(model="small", prompt=prompts, temperature=0, max_tokens=5, n=2)
    alone = [
        client.completions.create(model="small", prompt=prompt, temperature=0, max_tokens=5)
        for prompt in prompts
    ]
    texts = [choice.text for choice in both.choices]
    assert texts == [alone[i].choices[0].text for i in (0, 0, 1, 1)]
    assert both.usage.prompt_tokens == sum(each.usage.prompt_tokens for each in alone)


def test_a_stop_string_ends_the_answer(client):
    question = ask(max_tokens=12)
    text = client.chat.completions.create(**question).choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    stopped = client.chat.completions.create(**question, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text[: text.index(stop)]


def test_parts_and_tool_calls_are_read(client):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the weather?"}]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
    ]
    answer = client.chat.completions.create(**ask() | {"messages": messages}, tools=tools)
    assert answer.usage.completion_tokens == 6


def test_cache_control_is_heeded(client):
    question = ask()

    def send(header):
        return client.chat.completions.with_raw_response.create(
            **question, extra_headers={"Cache-Control": header}
        )

    with pytest.raises(openai.APIStatusError) as missing:
        send("only-if-cached")
    assert missing.value.status_code == 504
    assert missing.value.code == "not_cached"
    assert source(send("no-store")) == "hit-prefix"
    assert source(send("max-age=60")) == "hit-prefix"
    assert source(send("only-if-cached")) == "hit-exact"
    assert source(send("no-cache")) == "hit-prefix"


def test_another_principal_is_served_none_of_this_ones_answers(client):
    question = ask()

    def send(principal):
        return source(
            client.chat.completions.with_raw_response.create(
                **question, extra_headers={"X-Principal": principal}
            )
        )

    assert [send(name) for name in ("ann", "ann", "bob")] == ["hit-prefix", "hit-exact", "hit-prefix"]


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"model": "nobody"}, 404, "small"),
        ({"messages": []}, 400, "messages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"max_tokens": 100_000}, 400, "positions"),
        ({"extra_body": {"temprature": 1}}, 400, "temprature"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        ({"extra_headers": {"X-Cache-TTL": "soon"}}, 400, "X-Cache-TTL"),
        ({"extra_headers": {"X-Cache-Tags": "tenant:other"}}, 400, "tenant"),
        ({"extra_headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ({"top_logprobs": 2}, 400, "logprobs"),
        ({"extra_body": {"response_format": {"type": "json_object"}}}, 400, "response_format"),
    ],
)
def test_what_is_wrong_is_said_in_openais_shape(client, wrong, status, said):
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**ask() | wrong)
    assert refused.value.status_code == status
    assert said in refused.value.body["message"]
    assert set(refused.value.body) == {"message", "type", "param", "code"}


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "axolotl-cache"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("large")


def test_many_at_once_share_the_engines_steps(served):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def one(question):
                text = ""
                async for event in await client.chat.completions.create(**question, stream=True):
                    text += event.choices[0].delta.content or ""
                return text

            questions = [ask(max_tokens=20) for _ in range(32)]
            together = await asyncio.gather(*map(one, questions))
            return questions, together

    before = served.pipeline.engine.stats.steps
    questions, together = asyncio.run(ask_all())
    steps = served.pipeline.engine.stats.steps - before
    assert steps < 32 * 20 / 4  # one after another would take 640
    with served.client() as client:
        alone = client.chat.completions.with_raw_response.create(**questions[5])
        fresh = client.chat.completions.create(**questions[5], extra_headers={"Cache-Control": "no-cache"})
    assert source(alone) == "hit-exact"
    assert together[5] == alone.parse().choices[0].message.content == fresh.choices[0].message.content


def _text(events):
    return "".join(event.choices[0].delta.content or "" for event in events)
