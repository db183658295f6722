from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.config import format_duration, format_size, parse_duration, parse_size
from axolotl_cache.config.units import (
    LARGEST_SIZE_BYTES,
    LONGEST_DURATION_SECONDS,
    SIZE_UNITS,
    TIME_UNITS,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2GB", 2_000_000_000),
        ("2GiB", 2 * 2**30),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        (" 1.5GB ", 1_500_000_000),
        ("0.1GiB", 107_374_182),
        ("4096", 4096),
        (4096, 4096),
        ("17B", 17),
        (0, 0),
    ],
)
def test_sizes_are_read(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "GB",
        "2 bananas",
        "2Gb/s",
        "-2GB",
        "1.5",
        "2G",
        "1e9",
        "1_000",
        "٣GB",
        True,
        None,
        2.0,
        -1,
        "9999999TB",
    ],
)
def test_what_is_no_size_is_refused_with_its_value(wrong):
    with pytest.raises(ValueError, match=r"is not a size|is more than") as refusal:
        parse_size(wrong)
    assert repr(wrong) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("48h", 172_800),
        ("1h30m", 5400),
        ("2d 12h", 216_000),
        ("1d2h3m4s", 93_784),
        ("90s", 90),
        ("1.5h", 5400),
        ("0.25s", 0.25),
        ("7200", 7200),
        (" 7200 ", 7200),
        (7200, 7200),
        (0.5, 0.5),
        (1e-7, 1e-7),
    ],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "h",
        "1h30",
        "30m1h",
        "1h1h",
        "-5",
        -5,
        "4 bananas",
        "1e3",
        True,
        None,
        math.inf,
        math.nan,
        1e300,
        "101000d",
    ],
)
def test_what_is_no_time_is_refused_with_its_value(wrong):
    with pytest.raises(ValueError, match=r"is not a time|is more than") as refusal:
        parse_duration(wrong)
    assert repr(wrong) in str(refusal.value)


@given(st.integers(min_value=0, max_value=LARGEST_SIZE_BYTES))
def test_a_size_survives_writing_and_reading(size_bytes):
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.integers(min_value=0, max_value=1000), st.sampled_from(sorted(SIZE_UNITS)))
def test_a_size_in_a_unit_is_that_many_of_it(count, unit):
    assert parse_size(f"{count}{unit}") == parse_size(f"{count} {unit.lower()}") == count * SIZE_UNITS[unit]


@given(st.floats(min_value=0, max_value=LONGEST_DURATION_SECONDS, allow_nan=False))
def test_a_time_survives_writing_and_reading(seconds):
    assert parse_duration(format_duration(seconds)) == parse_duration(seconds) == seconds


@given(st.tuples(*(st.integers(min_value=0, max_value=99) for _ in TIME_UNITS)).filter(any))
def test_a_time_of_several_parts_is_their_sum(counts):
    parts = [(count, unit) for count, unit in zip(counts, TIME_UNITS, strict=True) if count]
    text = "".join(f"{count}{unit}" for count, unit in parts)
    assert parse_duration(text) == sum(count * TIME_UNITS[unit] for count, unit in parts)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(2 * 10**9, "2GB"), (512 * 2**20, "512MiB"), (1_234_567, "1234567B"), (0, "0B")]
)
def test_sizes_are_written_short_and_exact(size_bytes, text):
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1800, "30m"), (5400.0, "1h30m"), (172_800, "2d"), (0.5, "0.5s"), (0, "0s")]
)
def test_times_are_written_short_and_exact(seconds, text):
    assert format_duration(seconds) == text
