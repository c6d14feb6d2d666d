import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.units import (
    LARGEST_COUNT,
    Band,
    format_bytes,
    format_count,
    format_duration,
    format_money,
    parse_band,
    parse_bytes,
    parse_count,
    parse_duration,
    parse_fraction,
    parse_number,
)

PARSERS = [parse_count, parse_bytes, parse_duration, parse_fraction, parse_number, parse_band]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("70e9", 70_000_000_000),
        ("70B", 70_000_000_000),
        ("7.5b", 7_500_000_000),
        ("2T", 2_000_000_000_000),
        ("2e12", 2_000_000_000_000),
        ("0.1T", 100_000_000_000),
        ("1_000_000", 1_000_000),
        ("1,000,000", 1_000_000),
        ("30k", 30_000),
        ("15M", 15_000_000),
        ("0", 0),
        ("9223372036854775807", LARGEST_COUNT),
    ],
)
def test_a_count_is_read_in_every_accepted_form(text, expected):
    assert parse_count(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("40GiB", 40 * 2**30), ("40GB", 40 * 10**9), ("512mb", 512 * 10**6), ("100B", 100), ("1.5KiB", 1536)],
)
def test_bytes_tell_powers_of_1000_from_powers_of_1024(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("3d4h", 273_600), ("1.5h", 5400), ("250ms", 0.25), ("1w", 604_800)],
)
def test_durations_are_seconds(text, seconds):
    assert parse_duration(text) == seconds


def test_fractions_numbers_and_bands():
    assert parse_fraction("0.5%") == parse_fraction("0.005") == 0.005
    assert parse_fraction("1") == parse_fraction("100%") == 1
    assert parse_number("3e-4") == 0.0003
    assert parse_band("0.45") == Band(0.45, 0.45, 0.45)
    assert parse_band("30%:38%:45%") == Band(0.30, 0.38, 0.45)
    assert parse_band("2:2.95:5") == Band(2, 2.95, 5)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text",
    ["nan", "inf", "-inf", "-5", "-5s", "", " ", "abc", "1__0", "_1", "1e", "0x10", "１２", "1e99999", "9" * 5000],
)
def test_no_parser_takes_what_is_not_a_number(parse, text):
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_count, "1e400"),
        (parse_count, "9223372036854775808"),
        (parse_bytes, "1e30GB"),
        (parse_duration, "1e400s"),
        (parse_number, "1e400"),
        (parse_band, "1e400"),
    ],
)
def test_an_overflow_is_refused_and_never_becomes_infinity(parse, text):
    with pytest.raises(UsageError, match="too large"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text", "example"),
    [
        (parse_count, "70 B", "70B"),
        (parse_count, "7,5B", "7.5B"),
        (parse_count, "-5", "5"),
        (parse_count, "1.5", "2"),
        (parse_count, "many", "2T"),
        (parse_bytes, "40", "40B"),
        (parse_bytes, "40G", "40GB"),
        (parse_duration, "90", "90s"),
        (parse_duration, "4h3d", "3d4h"),
        (parse_duration, "1h1h", "3d4h"),
        (parse_fraction, "50", "50%"),
        (parse_fraction, "150%", "0.5%"),
        (parse_fraction, "0,5%", "0.5%"),
        (parse_band, "0.45:0.38:0.30", "0.30:0.38:0.45"),
    ],
)
def test_a_refusal_shows_the_token_the_forms_and_a_corrected_example(parse, text, example):
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert f"'{text}'" in str(raised.value)
    assert raised.value.hint.endswith(f"for example {example}")
    parse(example)


def test_a_band_has_one_part_or_three():
    with pytest.raises(UsageError, match="2 parts"):
        parse_band("1:2")


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(alphabet="0123456789._,eE+-kKMGTBbisdhmw%: naif", max_size=12))
def test_any_text_is_a_finite_number_or_a_usage_error(parse, text):
    try:
        value = parse(text)
    except UsageError:
        return
    values = value if isinstance(value, Band) else [value]
    assert all(math.isfinite(number) and number >= 0 for number in values)


def test_defaults_that_typer_sends_through_a_parser_come_back_unchanged():
    assert parse_count(5) == 5
    assert parse_bytes(1024) == 1024
    assert parse_duration(60.0) == 60.0
    assert parse_fraction(0.005) == 0.005
    assert parse_number(0.1) == 0.1
    assert parse_band(Band(1, 2, 3)) == Band(1, 2, 3)


@given(st.integers(min_value=0, max_value=LARGEST_COUNT))
def test_a_printed_count_reads_back_within_three_digits(count):
    assert parse_count(format_count(count)) == pytest.approx(count, rel=0.0051)


@given(st.integers(min_value=0, max_value=2**62))
def test_printed_bytes_read_back_within_three_digits(num_bytes):
    assert abs(parse_bytes(format_bytes(num_bytes)) - num_bytes) <= 0.005 * num_bytes + 1


@given(st.floats(min_value=0.001, max_value=1e9))
def test_a_printed_duration_reads_back_within_two_units(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.025, abs=0.0006)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (999_999, "999,999"), (10**6, "1M"), (999_999_999, "1B"), (1_720_320, "1.72M"), (2 * 10**12, "2T")],
)
def test_counts_as_people_read_them(value, expected):
    assert format_count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (2**20 - 1, "1MiB"),
        (40 * 2**30, "40GiB"),
        (1_468_006_400, "1.37GiB"),
    ],
)
def test_bytes_as_people_read_them(value, expected):
    assert format_bytes(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0ms"), (0.25, "250ms"), (0.9999, "1s"), (7.25, "7.25s"), (59.99, "1m"), (61.4, "1m1s"), (3599.7, "1h"),
        (5400, "1h30m"), (86_399, "1d"), (300_000, "3d11h"),
    ],
)  # fmt: skip
def test_durations_as_people_read_them(seconds, expected):
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("dollars", "expected"),
    [
        (0.42, "$0.42"),
        (99.999, "$100"),
        (12_400, "$12,400"),
        (999_999.6, "$1M"),
        (1_047_400, "$1.05M"),
        (45.5e6, "$45.5M"),
    ],
)
def test_money_as_people_read_it(dollars, expected):
    assert format_money(dollars) == expected
