"""Splits a file with a time column into spans by the calendar: what `retrain split` does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.errors import RetrainError
from pipeline.periods import NO_DAY, Calendar, days_of

if TYPE_CHECKING:
    import numpy as np

ROWS_AT_ONCE = 65_536  # of a Parquet file
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class SpanPart:
    """One period of the file.

    Attributes:
        span: its number, from 1 on.
        label: its name, such as 2013-Q1, 2013-03, 2013-W07 (ISO week), 2013-03-09 or 2013.
        rows: how many rows it has, at least 1.
        path: the file written, `{out}/{span}/{label}` and the input's suffix.
    """

    span: int
    label: str
    rows: int
    path: Path


@dataclass(frozen=True)
class SplitResult:
    """What became of a file.

    Attributes:
        parts: by span, ascending; a period without rows keeps its number and has no part.
        unreadable: how many rows have no time that can be read.
        unreadable_path: the file that holds them, `{out}/unreadable` and the input's suffix; None if there
            are none.
    """

    parts: list[SpanPart]
    unreadable: int
    unreadable_path: Path | None


def split_file(
    path: str | os.PathLike[str],
    time_column: str,
    every: str,
    out: str | os.PathLike[str],
    *,
    origin: str | None = None,
    force: bool = False,
) -> SplitResult:
    """Splits a file by time into `{out}/{span}/{label}` with `.csv`, `.csv.gz` or `.parquet`, as the file is.

    Times are unix seconds or milliseconds, ISO 8601 dates and times, or Arrow timestamps and dates; those
    with a time zone are taken in UTC, those without as they are written. A time in January 2013 is in span

        1 + the number of periods from the first one to January 2013

    whether or not the periods between have rows, and the first one is that of the earliest time, or of
    `origin`. Rows keep their order within a span, and CSV rows their bytes. The file is streamed: it may be
    larger than memory, and need not be sorted. Everything is written aside and renamed into place at the end.

    Args:
        path: a CSV, plain or gzipped, or a Parquet file.
        time_column: the column's name.
        every: `day`, `week` (Monday to Sunday), `month`, `quarter` or `year`.
        out: the folder of the spans; made if it is not there.
        origin: ISO date in the period that is span 1, so that a later file continues the numbers.
        force: replace span folders that are already there, with all that is in them.

    Raises:
        RetrainError: the file cannot be read, has no such column, no row, or no time that can be read; a
            time is before `origin`; or a target is already there. No span has changed then.
    """
    source, out = Path(path), Path(out)
    calendar = Calendar(every)
    first = None if origin is None else calendar.period(origin)
    kind = _ParquetReader if _first_bytes(source) == b"PAR1" else _CsvReader
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".split-tmp-", dir=out) as folder:
        reader: _Reader = kind(source, time_column, Path(folder))
        try:
            rows, unreadable = _distribute(reader, calendar, first)
        except RetrainError as error:
            raise RetrainError(f"{source}: {error}") from None
        start = min(rows) if first is None else first
        parts, moves = [], {}
        for period, count in sorted(rows.items()):
            span, label = period - start + 1, calendar.label(period)
            part = SpanPart(span, label, count, out / str(span) / f"{label}{reader.suffix}")
            (staged := Path(folder, f"span-{span}")).mkdir()
            reader.finish(period).rename(staged / part.path.name)
            parts.append(part)
            moves[staged] = part.path.parent
        left = out / f"{UNREADABLE}{reader.suffix}" if unreadable else None
        if left:
            moves[reader.finish(None)] = left
        _publish(moves, Path(folder), force)
    return SplitResult(parts, unreadable, left)


class _Reader(Protocol):
    """One format: reads a file in blocks and appends rows of a block to the file of a period."""

    time_column: str
    suffix: str  # known with the first block
    first_times: list[str]  # for a message

    def blocks(self) -> Iterator[tuple[np.ndarray, Any]]:
        """(day of every row since 1970, or `NO_DAY`; the rows)."""

    def append(self, period: int | None, rows: Any, places: np.ndarray) -> None:
        """Adds the rows at these places, ascending, to a period's file; None is the unreadable ones'."""

    def finish(self, period: int | None) -> Path:
        """The period's whole file."""


def _distribute(reader: _Reader, calendar: Calendar, first: int | None) -> tuple[dict[int, int], int]:
    """Appends every row to its period's file; gives the rows by period, and the unreadable ones' number."""
    import numpy as np

    counts: dict[int, int] = {}
    unreadable = 0
    for days, rows in reader.blocks():
        periods = calendar.periods(days)
        order = np.argsort(periods, kind="stable")
        values, begins = np.unique(periods[order], return_index=True)
        for period, places in zip(values.tolist(), np.split(order, begins[1:]), strict=True):
            if period == NO_DAY:
                reader.append(None, rows, places)
                unreadable += len(places)
            elif first is not None and period < first:
                raise RetrainError(
                    f"there are rows of {calendar.label(period)}, and the origin makes "
                    f"{calendar.label(first)} span 1; give an origin that is no later than the earliest row"
                )
            else:
                reader.append(period, rows, places)
                counts[period] = counts.get(period, 0) + len(places)
    if not counts:
        seen = f"it begins {', '.join(reader.first_times)}" if unreadable else "there is no row"
        raise RetrainError(
            f"no time in column {reader.time_column!r} can be read: {seen}. Required are unix seconds or "
            "milliseconds, or ISO dates and times such as 2013-03-09 12:00:00"
        )
    return counts, unreadable


@dataclass
class _CsvReader:
    """CSV, as bytes: rows are never parsed further than to find the time."""

    source: Path
    time_column: str
    folder: Path
    suffix: str = ".csv"
    header: bytes = b""
    line_end: bytes = b"\n"
    first_times: list[str] = field(default_factory=list)

    def blocks(self) -> Iterator[tuple[np.ndarray, Any]]:
        from components.ingest import rows

        names: list[str] = []
        with open(self.source, "rb") as raw:
            stream, compressed = rows.decompressed(raw, self.source.name)
            self.suffix = ".csv.gz" if compressed else ".csv"
            for _, line, text in rows.blocks(stream):
                rows.check_utf8(text, line)
                if not names:
                    names, length = rows.read_header(text)
                    self._keep_header(text[:length])
                    text = text[length:]
                if names:
                    place = _column_place(names, self.time_column)
                    spans = rows.row_spans(text)
                    if spans:
                        yield self._days(text, len(names), place, len(spans)), (text, spans)

    def append(self, period: int | None, rows: Any, places: np.ndarray) -> None:
        import gzip

        text, spans = rows
        chosen = (spans[place] for place in places.tolist())
        joined = self.line_end.join(text[begin:end] for begin, end, _ in chosen) + self.line_end
        path = self.finish(period)
        begin = b"" if path.exists() else self.header
        # A gzip file may be made of several gzip streams, so appending needs no file to stay open.
        with gzip.open(path, "ab", compresslevel=6) if self.suffix == ".csv.gz" else open(path, "ab") as file:
            file.write(begin + joined)

    def finish(self, period: int | None) -> Path:
        return self.folder / f"{UNREADABLE if period is None else period}{self.suffix}"

    def _keep_header(self, header: bytes) -> None:
        stripped = header.rstrip(b"\r\n")
        self.line_end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        self.header = stripped + self.line_end

    def _days(self, text: bytes, width: int, place: int, count: int) -> np.ndarray:
        """The days of all `count` rows; one with a wrong number of cells has none."""
        import numpy as np

        from components.ingest.cells import read_cells

        (times,), ragged = read_cells(text, width, [place])
        self.first_times = self.first_times or [repr(time) for time in times.slice(0, 3).to_pylist()]
        days = np.full(count, NO_DAY, dtype=np.int64)
        days[np.delete(np.arange(count), list(ragged))] = days_of(times)
        return days


@dataclass
class _ParquetReader:
    """Parquet, by batches. A Parquet file cannot be appended to, so rows are kept in Arrow streams one after
    the other, a file a period, until all are known."""

    source: Path
    time_column: str
    folder: Path
    suffix: str = ".parquet"
    first_times: list[str] = field(default_factory=list)

    def blocks(self) -> Iterator[tuple[np.ndarray, Any]]:
        import pyarrow as pa
        import pyarrow.parquet

        try:
            with pa.parquet.ParquetFile(self.source) as file:
                place = _column_place(file.schema_arrow.names, self.time_column)
                for batch in file.iter_batches(ROWS_AT_ONCE):
                    times = batch.column(place)
                    self.first_times = self.first_times or [str(time) for time in times.slice(0, 3)]
                    yield days_of(times), batch
        except (pa.ArrowInvalid, OSError) as error:
            raise RetrainError(f"the Parquet file cannot be read ({error}); write it again") from None

    def append(self, period: int | None, rows: Any, places: np.ndarray) -> None:
        import pyarrow as pa

        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            open(self._staged(period), "ab") as file,
            pa.ipc.new_stream(file, rows.schema, options=options) as stream,
        ):
            stream.write_batch(rows.take(places))

    def finish(self, period: int | None) -> Path:
        import pyarrow as pa
        import pyarrow.parquet

        path = self._staged(period).with_suffix(self.suffix)
        pending: list[Any] = []
        writer = None
        for batch in _batches(self._staged(period)):
            pending.append(batch)
            writer = writer or pa.parquet.ParquetWriter(path, batch.schema)
            if sum(len(batch) for batch in pending) >= ROWS_AT_ONCE:  # row groups are not smaller than before
                writer.write_table(pa.Table.from_batches(pending))
                pending = []
        assert writer is not None, "a period without rows"
        if pending:
            writer.write_table(pa.Table.from_batches(pending))
        writer.close()
        return path

    def _staged(self, period: int | None) -> Path:
        return self.folder / f"{UNREADABLE if period is None else period}.arrows"


def _batches(path: Path) -> Iterator[Any]:
    """Record batches of Arrow streams that follow each other in a file."""
    import pyarrow as pa

    size = path.stat().st_size
    with open(path, "rb") as file:
        while file.tell() < size:
            with pa.ipc.open_stream(file) as stream:
                yield from stream


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise RetrainError(f"{path}: cannot be read ({error.strerror}); name one readable file") from None
    if not magic:
        raise RetrainError(f"{path}: the file is empty (0 bytes); name one with a header and rows")
    return magic


def _column_place(names: list[str], column: str) -> int:
    if names.count(column) != 1:
        seen = "more than once" if column in names else "not"
        raise RetrainError(
            f"column {column!r} is {seen} in the file; name one of its columns: {', '.join(map(repr, names))}"
        )
    return names.index(column)


def _publish(moves: dict[Path, Path], aside: Path, force: bool) -> None:
    """Renames what is staged to its target; all of it, or nothing."""
    there = [str(target) for target in moves.values() if target.exists()]
    if there and not force:
        raise RetrainError(
            f"{len(there)} of {len(moves)} targets are already there: {', '.join(there[:5])}"
            f"{', ...' if len(there) > 5 else ''}; take another folder, give an origin that continues the "
            "numbers, or replace them with force"
        )
    done: list[tuple[Path, Path]] = []
    try:
        for i, (staged, target) in enumerate(moves.items()):
            if target.exists():
                target.rename(old := aside / f"old-{i}")
                done.append((old, target))
            staged.rename(target)
            done.append((target, staged))
    except OSError:
        for now, before in reversed(done):
            now.rename(before)
        raise
