"""Pieces of text add up to the whole, whatever the tokens' borders."""

from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.text import TextStream


def by_bytes(tokens):
    return bytes(tokens).decode("utf-8", errors="replace")


def stream(text: str, stop=()) -> tuple[list[str], TextStream]:
    out = TextStream(by_bytes, stop)
    pieces = []
    for token in text.encode():
        pieces.append(out.push(token))
        if out.stopped:
            break
    return [*pieces, out.finish()], out


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_pieces_add_up(text):
    assert "".join(stream(text)[0]) == text


def test_a_character_comes_whole():
    assert [p for p in stream("价é")[0] if p] == ["价", "é"]


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_ends_before_the_first_stop_string(text, stop):
    pieces, out = stream(text, stop)
    # The earliest place at which a stop string is complete decides, as one reads token by token.
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if not ends:
        assert "".join(pieces) == text
        assert not out.stopped
        return
    seen = text[: min(ends)]
    assert "".join(pieces) == seen[: min(seen.find(s) for s in stop if s in seen)]
    assert out.stopped


def test_nothing_of_a_stop_string_is_ever_shown():
    pieces, _ = stream("hello STOP more", ["STOP"])
    assert "".join(pieces) == "hello "
    assert not any("S" in p for p in pieces)


def test_pieces_add_up_where_decoding_strips_the_first_blank_and_skips_special_tokens():
    """As SentencePiece tokenizers do."""
    words = {1: " hello", 2: " world", 0: ""}

    def decode(tokens):
        return "".join(words[t] for t in tokens).removeprefix(" ")

    out = TextStream(decode)
    tokens = [1, 0, 2, 0, 0, 1]
    assert "".join([*(out.push(t) for t in tokens), out.finish()]) == decode(tokens)


def test_bytes_that_never_become_a_character_still_come_out():
    out = TextStream(by_bytes)
    assert out.push(0xE4) == ""
    assert out.finish() == "\ufffd"
