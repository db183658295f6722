"""What is never stored: errors, cut-off answers, refusals, empty ones, and streams left before their end."""

from dataclasses import replace

import pytest

from axolotl_cache.response import storable
from axolotl_cache.response.storable import Outcome, reads_as_refusal, why_not_stored

GOOD = Outcome("Your card arrives in five days.", "stop")


def test_an_answer_may_be_stored():
    assert why_not_stored(GOOD) is None
    assert why_not_stored(replace(GOOD, status=200, finish_reason=None)) is None
    assert why_not_stored(Outcome("", "tool_calls", calls_tools=True)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"failed": True}, storable.FAILED),
        ({"status": 400}, storable.FAILED),
        ({"status": 503}, storable.FAILED),
        ({"ended": False}, storable.ABORTED),
        ({"finish_reason": "content_filter"}, storable.FILTERED),
        ({"refusal": "I can't."}, storable.REFUSED),
        ({"finish_reason": "length"}, storable.TRUNCATED),
        ({"text": ""}, storable.EMPTY),
        ({"text": " \n\t"}, storable.EMPTY),
        ({"text": "I'm sorry, but I can't help with that."}, storable.READS_AS_REFUSAL),
    ],
)
def test_each_reason_by_its_name(change, reason):
    assert why_not_stored(replace(GOOD, **change)) == reason


def test_cut_off_answers_and_refusals_are_stored_for_who_asks():
    cut = replace(GOOD, finish_reason="length")
    assert why_not_stored(cut, truncated=True) is None
    assert why_not_stored(cut, refusals=True) == storable.TRUNCATED
    refusal = replace(GOOD, text="As an AI language model, I have no opinion.")
    assert why_not_stored(refusal, refusals=True) is None
    assert why_not_stored(refusal, truncated=True) == storable.READS_AS_REFUSAL
    # What the API itself calls a refusal, or an error, no wish makes an answer.
    for change in ({"refusal": "no"}, {"failed": True}, {"text": ""}, {"finish_reason": "content_filter"}):
        assert why_not_stored(replace(GOOD, **change), truncated=True, refusals=True)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with that.",
        "I am so sorry, I am unable to provide that information.",
        "I'm afraid I cannot do that.",
        "Sorry, I can't help you there.",
        "Unfortunately, I am not able to access your account.",
        "I apologize, but I cannot provide medical advice.",
        "I cannot provide instructions for that.",
        "I can't help with this.",
        "I won't create such content.",
        "I'm unable to answer that.",
        "I must decline.",
        "As an AI language model, I don't have personal opinions.",
        "as a large language model I cannot browse",
        "  \"I'm sorry, but I can't do that.\"",
        "**I'm sorry**, but I can't comply.",
        "抱歉，我无法回答这个问题。",
        "很抱歉，作为人工智能，我不能提供这类信息。",
        "非常抱歉，我没办法帮助您。",
        "对不起，我不能协助您完成这个请求。",
        "不好意思，这个问题我暂时无法回答。",
        "我无法提供医疗建议。",
        "作为一个AI语言模型，我没有个人观点。",
        "作为一名人工智能助手，我不能这样做。",
        "抱歉，我無法回答這個問題。",
        "對不起，我不能提供這些資訊。",
    ],
)
def test_refusals_are_recognised_in_english_and_chinese(text):
    assert reads_as_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that your card was stolen. To block it, call the number on its back.",
        "Sorry for the delay! Your parcel arrives tomorrow.",
        "Unfortunately, refunds take up to ten days. You can follow yours in the app.",
        "You cannot withdraw cash abroad with this card.",
        "I can help with that. Open the app and choose Cards.",
        "As an account holder, you may order a second card.",
        "As an aid to memory, write it down.",
        "The answer is 42.",
        "很抱歉给您带来不便。您的卡将在五天内寄到。",
        "对不起，让您久等了。请打开应用并选择卡片。",
        "我们的营业时间是九点到五点。",
        "作为账户持有人，您可以申请第二张卡。",
        "这张卡不能在国外取现。",
        "I'm sorry, but I can't say that briefly. " + "Here is the long answer. " * 40,  # it does answer
    ],
)
def test_answers_are_not_taken_for_refusals(text):
    assert not reads_as_refusal(text)
