"""The rows of a file as a model server takes them: a column an input, in which a value stands for missing."""

from __future__ import annotations

import base64
import bisect
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import RetrainError
from components.expression import closest
from components.ingest.cells import Kind
from components.ingest.format import Rows
from components.ingest.tables import open_table
from components.ingest.values import check_type, read_values, why_bad
from components.names import MISSING_INT

ROWS_AT_ONCE = 512
VALUES_AT_ONCE = 200_000  # of a request, where rows hold long lists such as an image's pixels
BLOCK_BYTES = 1 << 20

_SHOWN = 10  # columns in a message
_MISSING: dict[str, Any] = {"INT": MISSING_INT, "FLOAT": math.nan, "BYTES": ""}


@dataclass(frozen=True)
class Input:
    """One input of a signature.

    Attributes:
        column: the raw column that it takes.
        kind: its type.
        many: whether it takes lists, of one length in a request; otherwise it takes a list's first value.
    """

    column: str
    kind: Kind
    many: bool


@dataclass(frozen=True)
class Request:
    """Some rows of a file, next to each other.

    Attributes:
        inputs: by name, the values of the rows that can be read.
        lines: of these rows.
        errors: line of any other row -> what is wrong with it.
    """

    inputs: dict[str, list[Any]]
    lines: list[int]
    errors: dict[int, str]


class RowsFile:
    """A file whose rows are predicted: CSV, Parquet, or TFRecord of tf.Examples.

    Args:
        path: the file.
        columns: raw columns that it must have, each once.

    Raises:
        RetrainError: it cannot be opened, is none of these, or lacks a column.
    """

    def __init__(self, path: Path, columns: Collection[str]) -> None:
        self.path = path
        self._table = open_table(path, BLOCK_BYTES)
        self._require(columns)

    def requests(self, inputs: Mapping[str, Input]) -> Iterator[Request]:
        """All rows, in pieces of bounded size.

        Args:
            inputs: by name in a request.

        Raises:
            RetrainError: the file lacks a column that one of them takes, or is damaged.
        """
        self._require({given.column for given in inputs.values()})
        for rows in self._table.rows():
            try:
                yield from _requests(rows, inputs)
            except RetrainError as error:
                raise RetrainError(f"{self.path}: {error}") from None

    def _require(self, columns: Collection[str]) -> None:
        names = self._table.names
        missing = sorted(set(columns) - set(names))
        if missing:
            unused = [name for name in names if name not in columns]
            raise RetrainError(
                f"{self.path}: missing column "
                f"{_shown([f'{name}{closest(name, unused)}' for name in missing[:_SHOWN]], len(missing))}; "
                f"the file has {_shown(names, len(names))}, and the model reads {len(columns)} columns"
            )
        twice = sorted(name for name in columns if names.count(name) > 1)
        if twice:
            raise RetrainError(
                f"{self.path}: column {_shown(twice, len(twice))} comes twice; name every column once"
            )


def _shown(names: list[str], count: int) -> str:
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _requests(rows: Rows, inputs: Mapping[str, Input]) -> Iterator[Request]:
    for given in inputs.values():
        check_type(given.column, rows.batch.column(given.column).type)
    lines, apart = (rows.numbers + 1).tolist(), sorted(rows.faults)
    count, begin, done = len(lines), 0, 0
    while begin < count or done < len(apart):
        end = min(begin + _rows_at_once(rows.batch, begin, inputs), count)
        upto = bisect.bisect(apart, lines[end] - 1) if end < count else len(apart)
        errors = {number + 1: rows.faults[number][0] for number in apart[done:upto]}
        yield _request(rows.batch.slice(begin, end - begin), lines[begin:end], inputs, errors)
        begin, done = end, upto


def _rows_at_once(batch: pa.RecordBatch, begin: int, inputs: Mapping[str, Input]) -> int:
    """How many rows make a request of bounded size, in which all lists are as long as the longest."""
    values = len(inputs)
    for given in inputs.values():
        column = batch.column(given.column).slice(begin, ROWS_AT_ONCE)
        if given.many and pa.types.is_nested(column.type):
            values += pc.max(pc.list_value_length(column)).as_py() or 0
    return max(1, min(ROWS_AT_ONCE, VALUES_AT_ONCE // max(values, 1)))


def _request(
    batch: pa.RecordBatch, lines: list[int], inputs: Mapping[str, Input], errors: dict[int, str]
) -> Request:
    columns: dict[str, pa.Array] = {}
    problems: dict[int, list[str]] = {}
    for name, given in inputs.items():
        cells = batch.column(given.column)
        columns[name], bad = read_values(cells, given.kind)
        for row in [] if bad is None else np.flatnonzero(bad).tolist():
            reason = f"{given.column}: {why_bad(cells, row, given.kind)}"
            problems.setdefault(row, []).append(reason)
    errors |= {lines[row]: "; ".join(reasons) for row, reasons in problems.items()}
    good = [row for row in range(len(lines)) if row not in problems]
    filled = {
        name: _filled(columns[name].take(pa.array(good, pa.int64())), given) for name, given in inputs.items()
    }
    return Request(filled, [lines[row] for row in good], errors)


def _filled(values: pa.Array, given: Input) -> list[Any]:
    """What an input takes of every row; where that is nothing, or too little, what stands for missing."""
    missing = _MISSING[given.kind]
    if not pa.types.is_list(values.type):
        plain = _plain(values.fill_null(missing))
        return [[value] for value in plain] if given.many else plain
    flat, ends = _plain(values.flatten()), np.cumsum(pc.fill_null(values.value_lengths(), 0)).tolist()
    rows = [flat[begin:end] for begin, end in itertools.pairwise([0, *ends])]
    if not given.many:
        return [row[0] if row else missing for row in rows]
    width = max(map(len, rows), default=0) or 1  # no client needs to know of lists of length 0
    return [row + [missing] * (width - len(row)) for row in rows]


def _plain(values: pa.Array) -> list[Any]:
    """Values that JSON has: bytes as text, or in base64 where they are none."""
    plain: list[Any] = values.to_pylist()
    if values.type in (pa.binary(), pa.large_binary()):
        return [_text(value) for value in plain]
    return plain


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
