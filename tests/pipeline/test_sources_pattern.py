"""Patterns: which are refused, how dates are numbered, and how a person reads and names them."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RetrainError
from pipeline.spans.pattern import Pattern, parse

PATTERNS = ["{YYYY}.csv", "{YYYY}/{MM}/*", "day={YYYY}{MM}{DD}/*", "{YYYY}-{MM}-{DD}/{HH}.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*.csv",
        "{SPAN}/{SPAN}/*",
        "/{SPAN}/*",
        "{SPAN}/",
        "*/{SPAN}.csv",
        "{MM}/{DD}/*",
        "{YYYY}/{DD}/*",
        "{YYYY}/{YYYY}/*",
        "{YYYY}/{MM}/{HH}/*",
        "{SPAN}/{YYYY}/*",
        "{YYYY}/*/{MM}/*",
        "{VERSION}/*",
        "{VERSION}/{SPAN}/*",
        "{YYYY}/{VERSION}/{MM}/*",
        "{SPAN}/{VERSION}/{VERSION}/*",
        "{SPAN}/*/{VERSION}/*",
        "{DAY}/*",
        "{SPAN}/{x}/*",
        "{span}/*",
    ],
)
def test_a_pattern_that_does_not_say_the_span_once_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected \{SPAN\} once, or a date in its place") as error:
        parse(text)
    assert str(error.value).startswith(f"got {text!r}, ")


def number(pattern: Pattern, moment: datetime) -> int:
    digits = {"YYYY": f"{moment:%Y}", "MM": f"{moment:%m}", "DD": f"{moment:%d}", "HH": f"{moment:%H}"}
    return pattern.number(digits)


moments = st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31))


@pytest.mark.parametrize("text", PATTERNS)
@given(moment=moments, other=moments)
def test_numbers_follow_time_and_are_dates_again(text: str, moment: datetime, other: datetime) -> None:
    pattern = parse(text)
    span, later = number(pattern, min(moment, other)), number(pattern, max(moment, other))
    assert 0 <= span <= later
    written = pattern.date(span)
    assert min(moment, other).isoformat().startswith(written)
    assert (span == later) == (written == pattern.date(later))
    assert pattern.read("--span", written) == span == pattern.read("--span", str(span))


@given(st.dates(date(1970, 1, 1), date(2999, 12, 31)))
def test_the_number_of_a_day_is_that_of_tfx(day: date) -> None:
    span = number(parse("{YYYY}/{MM}/{DD}/*"), datetime(day.year, day.month, day.day))
    assert datetime(1970, 1, 1) + timedelta(days=span) == datetime(day.year, day.month, day.day)


@pytest.mark.parametrize(
    ("text", "spans", "label"),
    [
        ("{SPAN}/*", [3], "3"),
        ("{SPAN}/*", [3, 4, 7], "3, 4, 7"),
        ("{YYYY}/{MM}/{DD}/*", [19753], "19753 (2024-01-31)"),
        ("{YYYY}/{MM}/{DD}/*", [19753, 19754, 19755], "19753-19755 (2024-01-31 to 2024-02-02)"),
        ("{YYYY}/{MM}/*", [648, 650], "648, 650 (2024-01 to 2024-03)"),
        ("{YYYY}/{MM}/{DD}/{HH}/*", [474077], "474077 (2024-01-31T05)"),
        ("{YYYY}/*", [2024], "2024"),
        ("{YYYY}/{MM}/{DD}/*", [20240131], "20240131"),  # given when the pattern had no dates
    ],
)
def test_a_label_tells_numbers_and_dates(text: str, spans: list[int], label: str) -> None:
    assert parse(text).label(spans) == label


@pytest.mark.parametrize(
    ("text", "named", "message"),
    [
        ("{SPAN}/*", "2024-01-31", "--until: got '2024-01-31', expected the number of a span$"),
        ("{SPAN}/*", "-1", "--until: got '-1'"),
        ("{YYYY}/{MM}/*", "2024-01-31", "or its date such as 2024-01$"),
        ("{YYYY}/{MM}/{DD}/*", "2024-02-31", "or its date such as 2024-01-31$"),
        ("{YYYY}/{MM}/{DD}/{HH}/*", "2024-01-31", "or its date such as 2024-01-31T05$"),
    ],
)
def test_what_is_no_span_is_refused_with_an_example(text: str, named: str, message: str) -> None:
    with pytest.raises(RetrainError, match=message):
        parse(text).read("--until", named)
