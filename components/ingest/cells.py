"""CSV text to columns of cells, and cells to values, a whole column at a time.

The fast path of values is one cast of the column. Only a column in which it fails is looked at again, and
what a cell means never depends on its neighbours: the slow path reads all that the fast one reads, alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

Kind = Literal["INT", "FLOAT", "BYTES"]

# What a cell of a numeric column may say for "missing": pyarrow's own list, which is pandas' too.
# fmt: off
MISSING_TEXTS = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null",
])
# fmt: on
LARGEST_FLOAT32 = 3.4028234663852886e38

_BLANKS = " \t"
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_INTEGRAL = r"^(?:\+|(-))?([0-9]+)(?:\.0*)?$"

BAD = object()


def read_cells(
    text: bytes, width: int, positions: Sequence[int]
) -> tuple[list[pa.StringArray], dict[int, int]]:
    """Columns of whole rows as text, null where a cell is empty.

    Args:
        text: the rows, in UTF-8.
        width: how many cells a row has.
        positions: the columns to read, from 0.

    Returns:
        The columns without the rows of another width; and the widths of those, by their place among all rows.
    """
    ragged: dict[int, int] = {}

    def skip(row: Any) -> str:
        ragged[row.number - 1] = row.actual_columns
        return "skip"

    if not text.strip(b"\r\n"):
        return [pa.array([], pa.string()) for _ in positions], ragged
    wanted = [str(position) for position in positions]
    table = pa.csv.read_csv(
        io.BytesIO(text),
        pa.csv.ReadOptions(
            use_threads=False,  # with threads rows have no numbers
            block_size=len(text) + 1,
            column_names=[str(position) for position in range(width)],
        ),
        pa.csv.ParseOptions(newlines_in_values=b'"' in text, invalid_row_handler=skip),
        pa.csv.ConvertOptions(
            check_utf8=False,
            column_types={name: pa.string() for name in wanted},
            include_columns=wanted,
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    return [column.combine_chunks() for column in table.columns], ragged


def parse_column(cells: pa.StringArray, kind: Kind) -> tuple[pa.Array, pa.BooleanArray | None]:
    """Values of one column.

    - INT: decimal integers of 64 bits; an integral decimal such as `3.0` or `1e3` is the integer.
    - FLOAT: what pyarrow reads as a float, within the finite range of float32; infinities are not read.
    - BYTES: any text, as it is.

    Blanks around a number are ignored. A null cell is missing, and so is a cell of a numeric column that
    says so (`MISSING_TEXTS`, such as `nan` or `NULL`); in a BYTES column those are text like any other.

    Args:
        cells: the texts; null where a cell is empty.
        kind: the column's type.

    Returns:
        The values, int64, float64 or string, null where missing or unreadable; and which cells could not be
        read, or None if all could.
    """
    if kind == "BYTES":
        return cells, None
    cast, one = (_ints, int_cell) if kind == "INT" else (_floats, float_cell)
    for attempt in (lambda: cells, lambda: _tidy(cells)):
        values = cast(attempt())
        if values is not None:
            return values, None
    return _one_by_one(cells, one, pa.int64() if kind == "INT" else pa.float64())


def int_cell(text: str) -> Any:
    """The integer in one cell, None if it says missing, `BAD` if it is no integer of 64 bits."""
    text = text.strip(_BLANKS)
    if text in MISSING_TEXTS:
        return None
    value = _cast_one(text, pa.int64())
    if value is BAD and _DECIMAL.fullmatch(text):
        exact = Decimal(text)
        if exact == exact.to_integral_value() and -(2**63) <= exact < 2**63:
            return int(exact)
    return value


def float_cell(text: str) -> Any:
    """The float in one cell, None if it says missing, `BAD` if it is no finite float32."""
    text = text.strip(_BLANKS)
    if text in MISSING_TEXTS:
        return None
    value = _cast_one(text, pa.float64())
    return value if value is not BAD and abs(value) <= LARGEST_FLOAT32 else BAD


def _ints(cells: pa.StringArray) -> pa.Int64Array | None:
    try:
        return pc.cast(cells, pa.int64())
    except pa.ArrowInvalid:
        return None


def _floats(cells: pa.StringArray) -> pa.DoubleArray | None:
    try:
        values = pc.cast(cells, pa.float64())
    except pa.ArrowInvalid:
        return None
    finite = pc.all(pc.less_equal(pc.abs(values), LARGEST_FLOAT32)).as_py()  # a nan is not
    return values if finite in (True, None) else None  # None: there is no value at all


def _tidy(cells: pa.StringArray) -> pa.StringArray:
    """What makes most columns castable that are not yet: `3.0` for 3, `nan` for missing, blanks."""
    trimmed = pc.utf8_trim(cells, characters=_BLANKS)
    missing = pc.is_in(trimmed, value_set=pa.array(sorted(MISSING_TEXTS)))
    known = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
    return pc.replace_substring_regex(known, pattern=_INTEGRAL, replacement=r"\1\2")


def _one_by_one(
    cells: pa.StringArray, one: Callable[[str], Any], kind: pa.DataType
) -> tuple[pa.Array, pa.BooleanArray]:
    """Reads every distinct text once."""
    coded = pc.dictionary_encode(cells)
    read = [one(text) for text in coded.dictionary.to_pylist()]
    values = pa.array([None if value is BAD else value for value in read], kind)
    bad = pa.array([value is BAD for value in read], pa.bool_())
    return values.take(coded.indices), pc.fill_null(bad.take(coded.indices), False)


def _cast_one(text: str, kind: pa.DataType) -> Any:
    try:
        return pa.scalar(text).cast(kind).as_py()
    except pa.ArrowInvalid:
        return BAD
