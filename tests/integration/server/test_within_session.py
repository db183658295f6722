"""A session's question in other words, over HTTP: what the headers say, whole and streamed."""

import random

from axolotl_cache.pipeline.semantic import open_semantic
from axolotl_cache.pipeline.session import SessionStep
from axolotl_cache.session import Sessions


def test_the_header_says_hit_session(serve_model, bag_of_words):
    served = serve_model()
    pipeline = served.pipeline
    pipeline.semantic = open_semantic(
        pipeline.response, embedder=bag_of_words, max_error_rate=0.3, check_share=0.0, rng=random.Random(1)
    )
    pipeline.session = SessionStep(pipeline.renderer, Sessions(1000, lambda: 0.0))
    said = []

    def ask(client, text, session="s", **options):
        messages = [*said, {"role": "user", "content": text}]
        return client.chat.completions.with_raw_response.create(
            model="small",
            messages=messages,
            temperature=0,
            max_tokens=6,
            extra_headers={"X-Session-Id": session, "X-Principal": "ann"},
            **options,
        )

    with served.client() as client:
        first = ask(client, "When does my order 67890 arrive?")
        assert first.headers["x-cache"] == "miss"
        text = first.parse().choices[0].message.content
        said += [{"role": "user", "content": "When does my order 67890 arrive?"}]
        said += [{"role": "assistant", "content": text}]
        again = ask(client, "hi, when does my order 67890 arrive please")
        assert again.headers["x-cache"] == "hit-session"
        assert again.headers["age"].isdigit()
        assert again.parse().choices[0].message.content == text
        streamed = ask(client, "hi, when does my order 67890 arrive please", stream=True)
        assert streamed.headers["x-cache"] == "hit-session"
        assert "".join(event.choices[0].delta.content or "" for event in streamed.parse()) == text
        assert ask(client, "Hello when does my order 67890 arrive", session="t").headers["x-cache"] not in {
            "hit-session",
            "hit-semantic",
        }
