"""Times to seconds, and seconds to the parts of a date, inside the graph.

The arithmetic of the calendar is Howard Hinnant's (chrono-compatible low-level date algorithms, 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_MILLISECONDS_FROM = 10**11  # as seconds the year 5138, as milliseconds March 1973
_DAY = 86_400
_NUMBER = r"\s*([+-]?\d{1,15})(?:\.\d*)?\s*"
_ISO = (  # with ^ and $, as regex_replace is content with a part
    r"^\s*(\d{4})-(0?[1-9]|1[0-2])-(0?[1-9]|[12]\d|3[01])"  # 1-3: the date
    r"(?:[T ]([01]?\d|2[0-3]):([0-5]\d)(?::\d{2}(?:[.,]\d*)?)?)?"  # 4, 5: the time
    r"\s*(?:Z|UTC|([+-])(\d{2}):?(\d{2})?)?\s*$"  # 6-8: the time zone
)


def seconds(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Unix seconds of times, and which of them can be read.

    Args:
        values: int64 [batch], unix seconds or milliseconds; or text of them, or ISO 8601 text. What has
            a time zone is taken in UTC, what has none as it is written.

    Returns:
        int64 [batch], 0 where it cannot be read, and seconds within a minute left out of ISO text; bool
        [batch].
    """
    if values.dtype != tf.string:
        return _from_number(values), tf.ones_like(values, tf.bool)
    is_number = tf.strings.regex_full_match(values, _NUMBER)
    is_iso = tf.strings.regex_full_match(values, _ISO)
    digits = tf.strings.regex_replace(tf.where(is_number, values, "0"), _NUMBER, r"\1")
    number = _from_number(tf.strings.to_number(digits, tf.int64))
    iso = _from_iso(tf.where(is_iso, values, "1970-01-01"))
    return tf.where(is_iso, iso, number), is_number | is_iso


def _from_number(values: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.abs(values) >= _MILLISECONDS_FROM, values // 1000, values)


def _from_iso(texts: tf.Tensor) -> tf.Tensor:
    def group(number: int) -> tf.Tensor:
        # A zero before it: a group that is not there is empty.
        digits = tf.strings.regex_replace(texts, _ISO, rf"0\{number}")
        return tf.strings.to_number(digits, tf.int64)

    year, month, day, hour, minute = (group(number) for number in range(1, 6))
    sign = tf.where(tf.equal(tf.strings.regex_replace(texts, _ISO, r"\6"), "-"), -1, 1)
    offset = tf.cast(sign, tf.int64) * (group(7) * 3600 + group(8) * 60)
    return _days(year, month, day) * _DAY + hour * 3600 + minute * 60 - offset


def _days(year: tf.Tensor, month: tf.Tensor, day: tf.Tensor) -> tf.Tensor:
    """Days since 1970-01-01."""
    year -= tf.cast(month <= 2, tf.int64)
    era, year_of_era = year // 400, year % 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1  # from the first of March on
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def parts(times: tf.Tensor, names: Sequence[str]) -> list[tf.Tensor]:
    """Parts of times, each int64 [batch]; `components.features.PARTS` gives their ranges.

    Args:
        times: unix seconds, int64 [batch].
        names: of the parts.
    """
    days = times // _DAY
    month, day_of_month = _month_and_day(days)
    known = {
        "minute": times // 60 % 60,
        "hour": times // 3600 % 24,
        "day_of_week": (days + 3) % 7 + 1,  # 1970-01-01 was a Thursday
        "day_of_month": day_of_month,
        "month": month,
    }
    return [known[name] for name in names]


def _month_and_day(days: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    day_of_era = (days + 719_468) % 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153  # March is 0
    return (shifted + 2) % 12 + 1, day_of_year - (153 * shifted + 2) // 5 + 1
