"""What a client may say about caching, and RFC 9111 about how it is read. Quotations are of that standard."""

import math

import pytest

from axolotl_cache.errors import RequestError
from axolotl_cache.request import CacheControl


def parse(header):
    return CacheControl.parse(header)


def test_an_empty_header_asks_for_nothing():
    assert parse("") == parse(" , ,") == CacheControl()


def test_max_age():
    # 5.2.1.1: "The max-age request directive indicates that the client prefers a response whose age is less
    # than or equal to the specified number of seconds."
    assert parse("max-age=5") == CacheControl(max_age_seconds=5)
    assert parse("max-age=0").max_age_seconds == 0


def test_both_forms_of_an_argument_are_read():
    # 5.2: "For the directives defined below that define arguments, recipients ought to accept both forms,
    # even if a specific form is required for generation."
    assert parse('max-age="5"') == parse("max-age=5")


def test_names_are_compared_case_insensitively():
    # 5.2: "Cache directives are identified by a token, to be compared case-insensitively"
    assert parse("No-Cache, MAX-AGE=7") == CacheControl(no_cache=True, max_age_seconds=7)


def test_no_cache():
    # 5.2.1.4: "The no-cache request directive indicates that the client prefers a stored response not be
    # used to satisfy the request without successful validation on the origin server."
    assert parse("no-cache") == CacheControl(no_cache=True)
    # 5.2: "For the cache directives defined below, no argument is defined (nor allowed) unless stated
    # otherwise."
    # One that has it all the same still asks for caution.
    assert parse('no-cache="x"').no_cache


def test_no_store():
    # 5.2.1.5: "The no-store request directive indicates that a cache MUST NOT store any part of either this
    # request or any response to it."
    assert parse("no-store") == CacheControl(no_store=True)


def test_only_if_cached():
    # 5.2.1.7: "The only-if-cached request directive indicates that the client only wishes to obtain a
    # stored response."
    assert parse("only-if-cached") == CacheControl(only_if_cached=True)


@pytest.mark.parametrize("header", ["max-stale", "max-stale=10", "min-fresh=20", "no-transform"])
def test_what_is_advisory_and_not_implemented_changes_nothing(header):
    # 5.2.1: "They are advisory; caches MAY implement them, but are not required to."
    assert parse(header) == CacheControl()


def test_what_is_not_known_is_ignored():
    # 5.2.3: "A cache MUST ignore unrecognized cache directives."
    assert parse('community="UCI", x=1, y, no-store') == CacheControl(no_store=True)


def test_a_comma_or_a_name_within_quotes_is_no_directive():
    # 5.2: cache-directive = token [ "=" ( token / quoted-string ) ]
    assert parse('community="a, no-store, \\"max-age=1", max-age=3') == CacheControl(max_age_seconds=3)
    assert parse("x-no-store, no-store-x") == CacheControl()


@pytest.mark.parametrize(
    "header", ["max-age", "max-age=", "max-age=abc", "max-age=-1", "max-age=1.5", "max-age=٣"]
)
def test_an_age_that_is_no_number_asks_for_a_new_answer(header):
    # 4.2.1: "Caches are encouraged to consider responses that have invalid freshness information (e.g., a
    # max-age directive with non-integer content) to be stale."
    assert parse(header) == CacheControl(no_cache=True)


def test_of_several_ages_the_strictest_counts():
    # 4.2.1: "If directives conflict (e.g., both max-age and no-cache are present), the most restrictive
    # directive should be honored."
    assert parse("max-age=9, max-age=4").max_age_seconds == 4
    assert parse("max-age=9, no-cache") == CacheControl(no_cache=True, max_age_seconds=9)


@pytest.mark.parametrize("digits", ["2147483649", "9" * 20, "9" * 9000])
def test_numbers_too_large_count_as_two_to_the_31st(digits):
    # 1.2.2: "If a cache receives a delta-seconds value greater than the greatest integer it can represent,
    # [...] the cache MUST consider the value to be 2147483648 (2^31) or the greatest positive integer it
    # can conveniently represent."
    assert parse(f"max-age={digits}").max_age_seconds == 2**31


@pytest.mark.parametrize(
    "header", ['"', '""', 'x="', "=", "no-store=", ',"no-store', "\x00", "no store", "ü"]
)
def test_no_header_makes_it_fail(header):
    assert isinstance(parse(header), CacheControl)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf])
def test_impossible_ages_are_refused(wrong):
    with pytest.raises(RequestError, match="max-age"):
        CacheControl(max_age_seconds=wrong)


@pytest.mark.parametrize("wrong", [-1, math.nan])
def test_impossible_ttls_are_refused(wrong):
    with pytest.raises(RequestError, match="ttl"):
        CacheControl(ttl_seconds=wrong)
    assert CacheControl(ttl_seconds=math.inf).ttl_seconds == math.inf
