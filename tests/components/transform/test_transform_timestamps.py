"""The calendar in the graph, against Python's."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import tensorflow as tf

from components.features import PARTS
from components.transform import timestamps


def part(moment, name):
    return (
        moment.isoweekday() if name == "day_of_week" else getattr(moment, name.replace("day_of_month", "day"))
    )


def parts_of(texts_or_numbers):
    times, readable = timestamps.seconds(tf.constant(texts_or_numbers))
    assert readable.numpy().all()
    return dict(zip(PARTS, (p.numpy() for p in timestamps.parts(times, list(PARTS))), strict=True))


def moments():
    """Times of the years 1 to 9998 at random, and the days around the ends of Februaries."""
    random = np.random.default_rng(0).integers(-62_100_000_000, 253_300_000_000, 4000)
    found = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(s)) for s in random]
    for year in (1600, 1900, 1968, 1969, 1970, 1999, 2000, 2023, 2024, 2100, 2400):
        last = datetime(year, 2, 27, 23, 59, 59, tzinfo=UTC)
        found += [last + timedelta(days=days, seconds=s) for days in range(4) for s in (0, 1)]
        found += [datetime(year, 12, 31, 23, 59, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)]
    return found


def whole_seconds(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def test_parts_are_those_of_the_calendar():
    all_moments = moments()
    times = tf.constant([whole_seconds(m) for m in all_moments], tf.int64)
    for name, values in zip(PARTS, timestamps.parts(times, list(PARTS)), strict=True):
        np.testing.assert_array_equal(values, [part(m, name) for m in all_moments], err_msg=name)
        first, count = PARTS[name]
        assert set(values.numpy().tolist()) == set(range(first, first + count))


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", " %Y-%m-%dT%H:%M:%S.250+00:00 "])
def test_iso_text_is_the_same_time(form):
    some = [m for m in moments() if m.year >= 1000][:500]  # strftime does not fill up smaller years
    found = parts_of([m.strftime(form) for m in some])
    for name, values in found.items():
        np.testing.assert_array_equal(values, [part(m, name) for m in some], err_msg=name)


@pytest.mark.parametrize(("hours", "minutes"), [(5, 30), (-8, 0), (0, 45), (14, 0), (-3, -30)])
def test_a_time_zone_is_taken_away(hours, minutes):
    zone = timezone(timedelta(hours=hours, minutes=minutes))
    times, _ = timestamps.seconds(tf.constant([datetime(2020, 3, 1, 0, 10, tzinfo=zone).isoformat()]))
    assert int(times[0]) == int(datetime(2020, 3, 1, 0, 10, tzinfo=zone).timestamp())


READABLE = {
    "2024-02-29": datetime(2024, 2, 29, tzinfo=UTC),
    "2024-2-9": datetime(2024, 2, 9, tzinfo=UTC),
    "2024-02-29T07:05": datetime(2024, 2, 29, 7, 5, tzinfo=UTC),
    "2024-02-29 7:05 UTC": datetime(2024, 2, 29, 7, 5, tzinfo=UTC),
    "2024-02-29 07:05:00+02": datetime(2024, 2, 29, 5, 5, tzinfo=UTC),
    "2024-02-29T07:05:00,5-0130": datetime(2024, 2, 29, 8, 35, tzinfo=UTC),
    "1709190300": datetime(2024, 2, 29, 7, 5, tzinfo=UTC),
    " 1709190300.75 ": datetime(2024, 2, 29, 7, 5, tzinfo=UTC),
    "1709190300999": datetime(2024, 2, 29, 7, 5, tzinfo=UTC),
    "-60": datetime(1969, 12, 31, 23, 59, tzinfo=UTC),
}


def test_texts_of_times():
    times, readable = timestamps.seconds(tf.constant(list(READABLE)))
    assert readable.numpy().all()
    assert times.numpy().tolist() == [whole_seconds(m) for m in READABLE.values()]


def test_milliseconds_are_told_by_their_size():
    numbers = [1709190300, 1709190300_999, -1709190300_001, 10**11 - 1, 10**11]
    times, _ = timestamps.seconds(tf.constant(numbers, tf.int64))
    assert times.numpy().tolist() == [1709190300, 1709190300, -1709190301, 10**11 - 1, 10**8]


def test_what_is_no_time_is_told():
    texts = ["", " ", "now", "29.02.2024", "2024-13-01", "2024-01-32", "2024-00-01", "2024-01-01T24:00",
             "2024-01-01T10:61", "2024-01-01T", "1.7e9", "9" * 16, "2024-01-01 10:00 CET", "x2024-01-01",
             "\u0662\u0660\u0662\u0664-01-01", b"\xff"]  # fmt: skip
    times, readable = timestamps.seconds(tf.constant(texts))
    assert not readable.numpy().any() and not times.numpy().any()


def test_the_ends_of_the_integers_have_a_date_too():
    values = timestamps.parts(timestamps.seconds(tf.constant([-(2**63), 2**63 - 1]))[0], list(PARTS))
    for (first, count), value in zip(PARTS.values(), values, strict=True):
        assert ((first <= value.numpy()) & (value.numpy() < first + count)).all()
