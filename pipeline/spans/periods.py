"""Times of any common form to days, and days to calendar periods; or rows to groups of so many."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import RetrainError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EVERY = ("day", "week", "month", "quarter", "year")
NO_DAY = -(2**40)  # stands for a time that cannot be read; far from any date

# A number is seconds since 1970 below this, and milliseconds from it on: as seconds it is the year 5138, as
# milliseconds March 1973.
MILLISECONDS_FROM = 1e11

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_FIRST_DAY = datetime.date.min.toordinal() - _EPOCH
_LAST_DAY = datetime.date.max.toordinal() - _EPOCH
_SECONDS_A_DAY = 86_400
_UNITS_A_DAY = {unit: _SECONDS_A_DAY * 10**i for unit, i in {"s": 0, "ms": 3, "us": 6, "ns": 9}.items()}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True)
class RowCount:
    """Periods of so many rows, in the order of the files, from 0."""

    rows: int

    def periods(self, places: np.ndarray) -> np.ndarray:
        """Periods, int64, of rows by their place among all, from 0."""
        return places // self.rows

    def label(self, period: int) -> str:
        """rows-337-672: the rows, from 1."""
        return f"rows-{period * self.rows + 1}-{(period + 1) * self.rows}"


def parse_every(every: str) -> Calendar | RowCount:
    """Reads `month`, or `336rows`.

    Raises:
        RetrainError: it is neither.
    """
    counted = re.fullmatch(r"([0-9]+) ?rows", every)
    if counted is None:
        return Calendar(every)
    if int(counted[1]) == 0:
        raise RetrainError(f"every: got {every!r}, expected at least 1 row")
    return RowCount(int(counted[1]))


class Calendar:
    """Periods of one length, counted from the one of 1970-01-01, which is 0."""

    def __init__(self, every: str):
        """Raises RetrainError unless `every` is one of `EVERY`."""
        if every not in EVERY:
            raise RetrainError(
                f"every: got {every!r}, expected one of {', '.join(EVERY)}, or a number of rows, such as "
                "500rows"
            )
        self.every = every

    def periods(self, days: np.ndarray) -> np.ndarray:
        """Periods, int64 of shape [rows], of days since 1970-01-01; `NO_DAY` stays what it is."""
        import numpy as np

        there = np.where(days == NO_DAY, 0, days)
        if self.every == "day":
            periods = there
        elif self.every == "week":
            periods = (there + 3) // 7  # from Monday to Sunday; 1970-01-01 was a Thursday
        else:
            months = there.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
            periods = months // {"month": 1, "quarter": 3, "year": 12}[self.every]
        return np.where(days == NO_DAY, NO_DAY, periods)

    def period(self, day: str) -> int:
        """The period of an ISO date.

        Raises:
            RetrainError: `day` is none.
        """
        import numpy as np

        try:
            date = datetime.date.fromisoformat(day)
        except ValueError:
            raise RetrainError(f"origin: got {day!r}, required is a date such as 2013-01-01") from None
        return int(self.periods(np.array([date.toordinal() - _EPOCH], dtype=np.int64))[0])

    def label(self, period: int) -> str:
        """2013-03-09, 2013-W10 (ISO week), 2013-03, 2013-Q1 or 2013."""
        match self.every:
            case "day":
                return datetime.date.fromordinal(_EPOCH + period).isoformat()
            case "week":  # the week's Thursday is always in the ISO year that the week belongs to
                year, week, _ = datetime.date.fromordinal(_EPOCH + period * 7).isocalendar()
                return f"{year:04d}-W{week:02d}"
            case "month":
                return f"{1970 + period // 12:04d}-{period % 12 + 1:02d}"
            case "quarter":
                return f"{1970 + period // 4:04d}-Q{period % 4 + 1}"
        return f"{1970 + period:04d}"


def days_of(times: pa.Array) -> np.ndarray:
    """Days since 1970-01-01, int64 of shape [rows], `NO_DAY` where a time is null or cannot be read.

    Args:
        times: unix seconds or milliseconds as numbers or text, ISO 8601 as text, dates or timestamps; or
            lists, of which the first value counts. What has a time zone is taken in UTC, what has none as
            it is written.

    Raises:
        RetrainError: the array's type is none that a time can have.
    """
    import pyarrow as pa

    kind = times.type
    if pa.types.is_dictionary(kind):
        return days_of(times.dictionary_decode())
    if pa.types.is_list(kind) and not pa.types.is_nested(kind.value_type):  # what tf.Examples hold
        return days_of(_first_values(times))
    if pa.types.is_null(kind):
        return _texts(times.cast(pa.string()))
    if pa.types.is_binary(kind):
        return _texts(_decoded(times))
    if pa.types.is_date(kind):
        return _whole(times.cast(pa.date32()).cast(pa.int32()), 1)
    if pa.types.is_timestamp(kind):
        return _whole(times.cast(pa.int64()), _UNITS_A_DAY[kind.unit])
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(times.cast(pa.float64(), safe=False))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(times.cast(pa.string()))
    raise RetrainError(
        f"the time column has the type {kind}; required are numbers, text, dates or timestamps"
    )


def _first_values(lists: pa.ListArray) -> pa.Array:
    """The first of each list; null where there is none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    first = pc.list_slice(lists, 0, 1)
    there = pc.fill_null(pc.greater(pc.list_value_length(first), 0), False).to_numpy(zero_copy_only=False)
    return pc.list_flatten(first).take(pa.array(np.cumsum(there) - 1, mask=~there))


def _decoded(times: pa.Array) -> pa.StringArray:
    """Bytes as text; what is no UTF-8 is no time either."""
    import pyarrow as pa

    texts = [None if time is None else time.decode("utf-8", "replace") for time in times.to_pylist()]
    return pa.array(texts, pa.string())


def _whole(units: pa.Array, units_a_day: int) -> np.ndarray:
    """Of whole units since 1970."""
    import numpy as np
    import pyarrow.compute as pc

    days = pc.fill_null(units, 0).to_numpy(zero_copy_only=False).astype(np.int64) // units_a_day
    readable = units.is_valid().to_numpy(zero_copy_only=False) & (days >= _FIRST_DAY) & (days <= _LAST_DAY)
    return np.where(readable, days, NO_DAY)


def _numbers(numbers: pa.DoubleArray) -> np.ndarray:
    """Of unix seconds or milliseconds."""
    import numpy as np
    import pyarrow.compute as pc

    values = pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False)
    seconds = np.where(np.abs(values) >= MILLISECONDS_FROM, values / 1000, values)
    days = np.floor(seconds / _SECONDS_A_DAY)
    readable = (days >= _FIRST_DAY) & (days <= _LAST_DAY)  # a nan is neither
    return np.where(readable, days, NO_DAY).astype(np.int64)


def _texts(texts: pa.StringArray) -> np.ndarray:
    """Of numbers or ISO 8601, mixed as they may be."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(texts)
    is_number = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    days = np.full(len(texts), NO_DAY, dtype=np.int64)
    chosen = is_number.to_numpy(zero_copy_only=False)
    days[chosen] = _numbers(texts.filter(is_number).cast(pa.float64()))
    days[~chosen] = _iso(texts.filter(pc.invert(is_number)))
    return days


def _iso(texts: pa.StringArray) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    try:  # whole columns are read at once if they are alike
        return _whole(texts.cast(pa.timestamp("us")).cast(pa.int64()), _UNITS_A_DAY["us"])
    except pa.ArrowInvalid:
        coded = texts.dictionary_encode()
        days = np.array([_iso_day(text) for text in coded.dictionary.to_pylist()] + [NO_DAY], dtype=np.int64)
        return days[coded.indices.fill_null(len(days) - 1).to_numpy(zero_copy_only=False)]


def _iso_day(text: str) -> int:
    try:
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo:
            time = time.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return NO_DAY
    return time.toordinal() - _EPOCH
