"""What a setting accepts: its types, how each is read, and the sentence that answers a wrong value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from axolotl_cache.config.units import parse_duration, parse_size
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS


def accepts(text: str) -> WrapValidator:
    """Answer every wrong value of a key with the same sentence: what is accepted there."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValueError:
            raise PydanticCustomError("not_accepted", "{accepted}", {"accepted": text}) from None

    return WrapValidator(check)


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be above 0")
    return value


def holds_a_block(value: int, info: ValidationInfo) -> int:
    """Refuse a prefix that is shorter than a block, unless prefixes are off."""
    if value < BLOCK_SIZE_TOKENS and info.data.get("enable_prefix_cache", True):
        raise ValueError("shorter than a block")
    return value


def list_to_tuple(value: Any) -> Any:
    """Take a YAML list for a tuple."""
    return tuple(value) if isinstance(value, list) else value


def empty_to_none(value: Any) -> Any:
    """Take an empty block for none."""
    return None if value == {} else value


def regular_expression(value: str) -> str:
    """Refuse what does not compile."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(str(error)) from error
    return value


def _never_is_zero(value: Any) -> Any:
    return 0.0 if value == "never" else parse_duration(value)


_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?"
_CONNECTION = re.compile(
    rf"(?:rediss?|valkeys?)(?:\+sentinel|\+cluster)?://(?:\S*@)?{_HOST}(?:,{_HOST})*(?:/[^\s?]*)?(?:\?\S*)?"
    r"|unix://\S+"
)


def connection(value: str) -> str:
    """Refuse what is no connection string."""
    if not _CONNECTION.fullmatch(value):
        raise ValueError("not a connection string")
    return value


_KEY_SOURCE = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]*|file:.+)?")


def names_a_key(value: str) -> str:
    """Refuse what is not the name of a place where a key is."""
    if not _KEY_SOURCE.fullmatch(value):
        raise ValueError("not the name of a place")
    return value


Switch = Annotated[bool, accepts("true or false")]
Text = Annotated[str, accepts("a text; put it in quotes")]
KeySource = Annotated[
    str,
    AfterValidator(names_a_key),
    accepts(
        "the name of a place where the key is: env:VARIABLE or file:PATH (the key itself never stands here)"
    ),
]
Share = Annotated[float, Field(ge=0, le=1), accepts("a number from 0 to 1")]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_above_zero),
    accepts("a size above 0, as 2GB, 512MiB or a whole number of bytes"),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    AfterValidator(_above_zero),
    accepts("a time above 0 and of at most 100 years, as 7200 (seconds), 90s, 1h30m or 48h"),
]


def choice(*names: str) -> WrapValidator:
    """Answer every wrong value of a key with the list of right ones."""
    return accepts("one of " + ", ".join(names))


def _exact_amount(value: Any) -> Any:
    try:
        # A float's own digits: 0.15 is meant as 0.15, not as the binary fraction nearest to it.
        return Decimal(str(value)) if type(value) in (int, float, str) else value
    except InvalidOperation:
        raise ValueError("no number") from None


Amount = Annotated[
    Decimal,
    Field(ge=0),
    BeforeValidator(_exact_amount),
    accepts("a price for a million tokens, from 0, as 0.15"),
]

KindTtl = Annotated[
    float, BeforeValidator(_never_is_zero), accepts("a time as 48h, or never (such answers are not stored)")
]
