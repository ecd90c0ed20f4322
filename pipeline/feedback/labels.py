"""The files with the labels: CSV, Parquet or TFRecord, as they arrive."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.errors import RetrainError
from components.expression import closest
from components.feedback.join import LabelRow
from components.feedback.log import Value
from components.ingest.cells import Kind
from components.ingest.format import Rows
from components.ingest.tables import Table, open_table
from components.ingest.values import check_type, only_values, read_values, why_bad
from pipeline.spans.periods import MILLISECONDS_FROM

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class BadRow:
    """A row of the labels that cannot be joined.

    Attributes:
        file, line: where it stands.
        reason: what is wrong with it.
        counted: the same without the row's own values, as rows are counted.
        text: the row.
    """

    file: str
    line: int
    reason: str
    counted: str
    text: str


@dataclass(frozen=True)
class LabelFormat:
    """What the files of a deployment's labels hold.

    Attributes:
        key: the column with the key.
        time: the column with the time of the label; None: the file's own time is.
        columns: raw column -> kind, of all that may be taken from the labels.
        required: those of them that every row must have.
    """

    key: str
    time: str | None
    columns: Mapping[str, Kind]
    required: frozenset[str]


def label_files(place: Path) -> list[Path]:
    """The files of a folder and the folders in it, or the one file.

    Names that begin with a dot or an underscore, or end with .tmp, are left out: they are being written.

    Raises:
        RetrainError: there is none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise RetrainError(f"labels: {place} is not there; name a file with labels, or a folder of such")
    files = [
        path
        for path in sorted(place.rglob("*"))
        if path.is_file() and not any(_unfinished(part) for part in path.relative_to(place).parts)
    ]
    if not files:
        raise RetrainError(f"labels: the folder {place} holds no file; put the labels' files into it")
    return files


def _unfinished(name: str) -> bool:
    return name[0] in "._" or name.endswith(".tmp")


def read_labels(path: Path, form: LabelFormat, seen: float) -> Iterator[LabelRow | BadRow]:
    """The rows of a file in order.

    Args:
        path: the file; its name is kept with each row.
        form: what it holds.
        seen: the time of this command, in unix seconds.

    Raises:
        RetrainError: the file cannot be read, or lacks a column; the message names it.
    """
    table = open_labels(path, form)
    written = path.stat().st_mtime
    for rows in table.rows():
        try:
            yield from _read(path.name, rows, form, written, seen)
        except RetrainError as error:
            raise RetrainError(f"{path}: {error}") from None


def open_labels(path: Path, form: LabelFormat) -> Table:
    """Opens a file of labels, and holds its columns against what they must be.

    Raises:
        RetrainError: it cannot be read, lacks a column, or has one twice.
    """
    table = open_table(path, _BLOCK_BYTES)
    wanted = {form.key: "feedback.key"} | ({form.time: "feedback.time"} if form.time else {})
    for name in [*wanted, *sorted(form.required)]:
        if name not in table.names:
            why = f" ({wanted[name]})" if name in wanted else ", which the label is made of"
            raise RetrainError(
                f"{path}: missing column {name!r}{why}{closest(name, table.names)}; the file has "
                f"{', '.join(table.names) or 'none'}. Add the column, or set the key to what it is called"
            )
        if table.names.count(name) > 1:
            raise RetrainError(f"{path}: column {name!r} comes twice; name every column once")
    return table


def _read(
    file: str, rows: Rows, form: LabelFormat, written: float, seen: float
) -> Iterator[LabelRow | BadRow]:
    for number, (reason, counted) in sorted(rows.faults.items()):
        (text,) = rows.texts([number])
        yield BadRow(file, number + 1, reason, counted, text)
    names = [name for name in form.columns if name in rows.batch.schema.names]
    problems: dict[int, tuple[str, str]] = {}
    keys = _column(rows.batch, form.key, "BYTES", problems)
    times: list[Any] = [written] * len(keys)
    if form.time is not None:
        times = _times(rows.batch, form.time, problems)
    values = {name: _column(rows.batch, name, form.columns[name], problems) for name in names}
    for place, key in enumerate(keys):
        line = int(rows.numbers[place]) + 1
        row = {name: column[place] for name, column in values.items()}
        name = _plain_key(key)
        why = problems.get(place) or _missing(form, name, row)
        if why is not None:
            (text,) = rows.texts([int(rows.numbers[place])])
            yield BadRow(file, line, *why, text)
        else:
            yield LabelRow(name, times[place], row, seen, file, line)


def _missing(form: LabelFormat, key: str, row: Mapping[str, Value]) -> tuple[str, str] | None:
    gone = [form.key] if not key else [name for name in sorted(form.required) if row[name] is None]
    return None if not gone else (f"{gone[0]} is missing", f"{gone[0]} is missing")


def _plain_key(key: Any) -> str:
    return key.decode("utf-8", "replace").strip() if isinstance(key, bytes) else ""


def _column(
    batch: pa.RecordBatch, name: str, kind: Kind, problems: dict[int, tuple[str, str]]
) -> list[Value]:
    """The values of a column, None where it is missing; what is no such value goes to `problems`, by row."""
    cells = batch.column(name)
    check_type(name, cells.type)
    values, bad = read_values(cells, kind)
    for row in [] if bad is None else np.flatnonzero(bad).tolist():
        why = why_bad(cells, row, kind)
        problems.setdefault(row, (f"{name}: {why}", f"{name}: not {'text' if kind == 'BYTES' else kind}"))
    return [_plain(value) for value in values.to_pylist()]


def _plain(value: Any) -> Value:
    if isinstance(value, list):
        plain: list[Any] = [_plain(one) for one in value]
        return plain[0] if len(plain) == 1 else plain
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _times(batch: pa.RecordBatch, name: str, problems: dict[int, tuple[str, str]]) -> list[float]:
    """Unix seconds of every row; 0 where there is a problem."""
    cells = batch.column(name)
    check_type(name, cells.type)
    if pa.types.is_temporal(cells.type):
        values, _ = read_values(cells, "FLOAT")
    else:
        values, _ = only_values(read_values(cells, "BYTES")[0])
    times = []
    for row, value in enumerate(values.to_pylist()):
        time = _seconds(value)
        if time is None:
            told = "is missing" if value is None else f"{value!r} is no time"
            problems.setdefault(row, (f"{name}: {told}", f"{name}: no time"))
        times.append(time or 0.0)
    return times


def _seconds(value: Any) -> float | None:
    """Unix seconds of a number (seconds or milliseconds) or ISO 8601; without a zone it is UTC.

    >>> _seconds("2026-01-01T00:00:00+01:00"), _seconds(1767222000.0), _seconds(b"1767222000000")
    (1767222000.0, 1767222000.0, 1767222000.0)
    """
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if not math.isfinite(number):
        return None
    return number / 1000 if abs(number) >= MILLISECONDS_FROM else number


class NewLabels:
    """The labels of a place, from call to call only those of files that are new or have changed.

    Args:
        place: a file, or a folder of files that may not be there yet.
        form: what they hold.
    """

    def __init__(self, place: Path, form: LabelFormat) -> None:
        self._place, self._form = place, form
        self._known: dict[str, tuple[int, int]] = {}

    def read(self, now: float) -> list[LabelRow]:
        """The rows that can be joined.

        Raises:
            RetrainError: a file cannot be read, or lacks a column.
        """
        if not self._place.exists() or (self._place.is_dir() and not any(self._place.iterdir())):
            return []
        rows: list[LabelRow] = []
        for path in label_files(self._place):
            stamp = file_stamp(path)
            if self._known.get(str(path)) != stamp:
                found = read_labels(path, self._form, now)
                rows += [row for row in found if isinstance(row, LabelRow)]
                self._known[str(path)] = stamp
        return rows


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file: what says that it has changed."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
