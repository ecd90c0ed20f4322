"""Columns of any Arrow type to values of the schema's three kinds, or lists of them.

Converted is what loses nothing; a value that would is bad, and its row is rejected.

| column              | INT                  | FLOAT                | BYTES                        |
|---------------------|----------------------|----------------------|------------------------------|
| text, decimal       | as a CSV cell        | as a CSV cell        | itself                       |
| bool                | 0, 1                 | 0, 1                 | true, false                  |
| integers            | itself               | itself               | its digits                   |
| floats              | itself if it is one  | itself               | the shortest that reads back |
| dates and times     | unix seconds, floor  | unix seconds         | 2013-03-09T12:00:00          |
| binary              | as a CSV cell        | as a CSV cell        | itself                       |

Missing are null, nan, an empty text, and, in an INT or FLOAT column, what `cells.MISSING_TEXTS` lists. Times
with a zone are taken in UTC, and those without too; a date is its midnight, and as text 2013-03-09.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import RetrainError
from components.ingest.cells import LARGEST_FLOAT32, Kind, parse_column

TYPES: dict[Kind, pa.DataType] = {"INT": pa.int64(), "FLOAT": pa.float64(), "BYTES": pa.large_binary()}
QUOTED_CHARACTERS = 60  # of a value that a reason quotes

ARTICLES = {"INT": "an INT", "FLOAT": "a FLOAT", "BYTES": "BYTES"}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

Read = tuple[pa.Array, pa.BooleanArray | None]
"""Values, null where missing or bad; and which are bad, None if none is."""


def check_type(name: str, found: pa.DataType) -> None:
    """Raises RetrainError if a column of this type cannot be read."""
    value = found.value_type if _is_list(found) else found
    value = value.value_type if pa.types.is_dictionary(value) else value
    if not any(is_one(value) for is_one in _READABLE):
        raise RetrainError(
            f"column {name!r} is of type {found}; required is text, binary, a number, a bool, a date, a "
            "timestamp, or a list of one of these: write its parts into columns of their own"
        )


def read_values(column: pa.Array, kind: Kind) -> Read:
    """Values of one column.

    Args:
        column: of a type that `check_type` lets pass.
        kind: what they become.

    Returns:
        int64, float64, or text or binary of any Arrow type, [rows]; or of a list column lists of those,
        [rows] of any length above 0: what is missing is left out of a list, and a list without a value is
        null. And which rows hold a value that is none of the kind, or None.
    """
    if not _is_list(column.type):
        return _flat(column, kind)
    rows = _rows_of_values(column)
    values, bad = _flat(column.flatten(), kind)
    bad_rows = None
    if bad is not None:
        bad_rows = np.zeros(len(column), dtype=bool)
        bad_rows[rows[bad.to_numpy(zero_copy_only=False)]] = True
        bad_rows = pa.array(bad_rows)
    if values.null_count:
        rows = rows[values.is_valid().to_numpy(zero_copy_only=False)]
    return as_lists(values, np.bincount(rows, minlength=len(column))), bad_rows


def as_lists(values: pa.Array, counts: np.ndarray) -> pa.ListArray:
    """Lists of these lengths of the values that there are; an empty one is null.

    Args:
        values: flat; nulls are left out.
        counts: [rows], how many of the values that are left a row has.
    """
    offsets = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    mask = None if counts.all() else pa.array(counts == 0)
    return pa.ListArray.from_arrays(pa.array(offsets), values.drop_null(), mask=mask)


def only_values(values: pa.Array) -> Read:
    """The one value of every row; which rows have several."""
    if not _is_list(values.type):
        return values, None
    several = pc.fill_null(pc.greater(pc.list_value_length(values), 1), False)
    begins = pc.if_else(values.is_valid(), values.offsets[:-1], pa.scalar(None, pa.int32()))
    return values.values.take(begins), several if pc.any(several).as_py() else None


def _rows_of_values(column: pa.Array) -> np.ndarray:
    """The row of every value of `column.flatten()`, int64."""
    if not pa.types.is_fixed_size_list(column.type):
        return pc.list_parent_indices(column).to_numpy()
    there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    return np.repeat(there, column.type.list_size)


def why_bad(column: pa.Array, row: int, kind: Kind) -> str:
    """`'abc' is not an INT`: the first value of a row that is bad."""
    found = column[row]
    if _is_list(column.type):
        values = column[row : row + 1].flatten()
        _, bad = _flat(values, kind)
        found = values[pc.index(bad, True).as_py()]
    return f"{_quoted(found)} is not {ARTICLES[kind]}"


def _quoted(found: pa.Scalar) -> str:
    """A value as a message shows it: text in quotes, all cut off at `QUOTED_CHARACTERS`."""
    value = found.as_py()
    if isinstance(value, bytes):
        value = value[: 4 * QUOTED_CHARACTERS].decode("utf-8", errors="replace")
    if pa.types.is_float32(found.type):
        value = np.float32(value)  # whose text is as short as it was written
    return repr(value[:QUOTED_CHARACTERS]) if isinstance(value, str) else str(value)[:QUOTED_CHARACTERS]


def _flat(column: pa.Array, kind: Kind) -> Read:
    for is_one, read in _READABLE.items():
        if is_one(column.type):
            return read(column, kind)
    raise AssertionError(f"{column.type} passed the check")


def _dictionary(column: pa.DictionaryArray, kind: Kind) -> Read:
    """Every distinct value is read once."""
    values, bad = _flat(column.dictionary, kind)
    bad = None if bad is None else pc.fill_null(bad.take(column.indices), False)
    return values.take(column.indices), bad


def _null(column: pa.NullArray, kind: Kind) -> Read:
    return pa.nulls(len(column), TYPES[kind]), None


def _text(column: pa.Array, kind: Kind) -> Read:
    if column.type != pa.string():
        column = column.cast(pa.string())
    if kind != "BYTES":
        return parse_column(column, kind)
    return _without_empty(column), None


def _binary(column: pa.Array, kind: Kind) -> Read:
    column = column.cast(pa.binary())
    if kind == "BYTES":
        return _without_empty(column), None
    try:
        return parse_column(column.cast(pa.string()), kind)
    except pa.ArrowInvalid:  # some are not UTF-8, and not a number
        texts = [None if cell is None else _decoded(cell) for cell in column.to_pylist()]
        return parse_column(pa.array(texts, pa.string()), kind)


def _decoded(cell: bytes) -> str:
    return cell.decode("utf-8", errors="backslashreplace")


def _without_empty(column: pa.Array) -> pa.Array:
    empty = pc.equal(pc.binary_length(column), 0)
    if not pc.any(empty).as_py():
        return column
    hidden = pc.fill_null(empty, True).to_numpy(zero_copy_only=False)
    # Not if_else: of a slice of text or binary it gives other bytes (pyarrow 18).
    return column.take(pa.array(np.arange(len(column)), mask=hidden))


def _bool(column: pa.BooleanArray, kind: Kind) -> Read:
    return column.cast(pa.string() if kind == "BYTES" else TYPES[kind]), None


def _integer(column: pa.Array, kind: Kind) -> Read:
    if kind == "BYTES":
        return column.cast(pa.string()), None
    if kind == "FLOAT":
        return column.cast(pa.float64(), safe=False), None  # to the nearest, as a cell of so many digits
    if column.type != pa.uint64():
        return column.cast(pa.int64()), None
    return _keep(column, pc.less(column, pa.scalar(2**63, pa.uint64())), pa.int64())


def _float(column: pa.Array, kind: Kind) -> Read:
    known = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if kind == "BYTES":
        return _shortest(known), None
    wide = known.cast(pa.float64())
    if kind == "FLOAT":
        return _keep(wide, pc.less_equal(pc.abs(wide), LARGEST_FLOAT32), pa.float64())
    in_range = pc.and_(pc.greater_equal(wide, -(2.0**63)), pc.less(wide, 2.0**63))
    whole = pc.and_(in_range, pc.equal(wide, pc.floor(wide)))
    return _keep(wide, whole, pa.int64())


def _half(column: pa.Array, kind: Kind) -> Read:
    if kind == "BYTES":  # a third of Arrow's functions know no float16
        some = column.to_numpy(zero_copy_only=False)
        texts = [None if np.isnan(one) else str(np.float16(one)) for one in some]
        return pa.array(texts, pa.string(), mask=np.asarray(column.is_null())), None
    return _float(column.cast(pa.float32()), kind)


def _shortest(column: pa.Array) -> pa.StringArray:
    """The shortest texts that read back as the same floats; every distinct one is written once."""
    coded = column.dictionary_encode()
    texts = [str(one) for one in coded.dictionary.to_numpy()]
    return pa.array(texts, pa.string()).take(coded.indices)


def _decimal(column: pa.Array, kind: Kind) -> Read:
    return _text(column.cast(pa.string()), kind)


def _time(column: pa.Array, kind: Kind) -> Read:
    unit = "s"
    if pa.types.is_date(column.type):
        if kind == "BYTES":
            return column.cast(pa.date32()).cast(pa.string()), None
        column = column.cast(pa.date32()).cast(pa.timestamp("s"))
    else:
        unit = column.type.unit
    ticks = column.cast(pa.timestamp(unit)).cast(pa.int64())  # without its zone a time is in UTC
    missing = ticks.is_null().to_numpy(zero_copy_only=False)
    numbers = ticks.fill_null(0).to_numpy()
    if kind == "BYTES":
        texts = pa.array(
            np.datetime_as_string(numbers.view(f"datetime64[{unit}]")), pa.string(), mask=missing
        )
        short = pc.replace_substring_regex(texts, pattern=r"\.?0*$", replacement="") if unit != "s" else texts
        return short, None
    if kind == "INT":
        return pa.array(numbers // _PER_SECOND[unit], mask=missing), None
    return pa.array(numbers / _PER_SECOND[unit], mask=missing), None


def _keep(column: pa.Array, good: pa.BooleanArray, kind: pa.DataType) -> Read:
    """The good values; the others are null and bad. What is null in `good` is missing."""
    if pc.all(good).as_py() in (True, None):  # None: there is no value at all
        return column.cast(kind), None
    kept = pc.if_else(good, column, pa.scalar(None, column.type))
    return kept.cast(kind), pc.fill_null(pc.invert(good), False)


def _is_list(found: pa.DataType) -> bool:
    return pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)


def _is_text(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)


def _is_binary(found: pa.DataType) -> bool:
    return (
        pa.types.is_binary(found)
        or pa.types.is_large_binary(found)
        or pa.types.is_fixed_size_binary(found)
        or pa.types.is_binary_view(found)
    )


def _is_time(found: pa.DataType) -> bool:
    return pa.types.is_timestamp(found) or pa.types.is_date(found)


_READABLE = {
    _is_text: _text,
    pa.types.is_integer: _integer,
    pa.types.is_float16: _half,
    pa.types.is_floating: _float,
    _is_binary: _binary,
    pa.types.is_boolean: _bool,
    pa.types.is_dictionary: _dictionary,
    pa.types.is_decimal: _decimal,
    _is_time: _time,
    pa.types.is_null: _null,
}
