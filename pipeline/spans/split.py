"""Splits files into spans, by a time column and the calendar or by rows: what `retrain split` does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from components.errors import RetrainError
from pipeline.spans.periods import NO_DAY, Calendar, RowCount, days_of, parse_every

if TYPE_CHECKING:
    import numpy as np

ROWS_AT_ONCE = 65_536  # of a Parquet file
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class SpanPart:
    """One period.

    Attributes:
        span: its number, from 1 on.
        label: its name, such as 2013-Q1, 2013-03, 2013-W07 (ISO week), 2013-03-09, 2013 or rows-1-500.
        rows: how many rows it has, at least 1.
        paths: the files written, one for each input that has rows of the period.
    """

    span: int
    label: str
    rows: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class SplitResult:
    """What became of the files.

    Attributes:
        parts: by span, ascending; a period without rows keeps its number and has no part.
        unreadable: how many rows have no time that can be read.
        unreadable_paths: the files that hold them, one for each input that has some.
    """

    parts: list[SpanPart]
    unreadable: int
    unreadable_paths: tuple[Path, ...]


def split_files(
    paths: Sequence[Path],
    every: str,
    out: Path,
    *,
    time_column: str | None = None,
    origin: str | None = None,
    force: bool = False,
) -> SplitResult:
    """Splits files into `{out}/{span}/{label}` with `.csv`, `.csv.gz`, `.parquet`, `.tfrecord` or
    `.tfrecord.gz`, as the file is; of several files the name goes on with `-1`, `-2`, ...

    Times are unix seconds or milliseconds, ISO 8601 dates and times, or Arrow timestamps and dates; those
    with a time zone are taken in UTC, those without as they are written. A time in January 2013 is in span

        1 + the number of periods from the first one to January 2013

    whether or not the periods between have rows, and the first one is that of the earliest time, or of
    `origin`. Without a time column a period is so many rows, counted through all files. Rows keep their order
    within a span, and CSV rows and TFRecord records their bytes. Files are streamed: they may be larger than
    memory, and need not be sorted. Everything is written aside and renamed into place at the end.

    Args:
        paths: CSV or TFRecord of tf.Examples, plain or gzipped, or Parquet files.
        every: `day`, `week` (Monday to Sunday), `month`, `quarter` or `year`; or such as `500rows`.
        out: the folder of the spans; made if it is not there.
        time_column: the column's name; only for a period of the calendar.
        origin: ISO date in the period that is span 1, so that a later file continues the numbers.
        force: replace span folders that are already there, with all that is in them.

    Raises:
        RetrainError: a file cannot be read, has no such column, no row, or no time that can be read; a
            time is before `origin`; or a target is already there. No span has changed then.
    """
    division = parse_every(every)
    if isinstance(division, RowCount) and (time_column or origin):
        raise RetrainError(
            f"every: got {every!r} with a time column or an origin; rows are counted without them, so leave "
            "them out, or take day, week, month, quarter or year"
        )
    if isinstance(division, Calendar) and not time_column:
        raise RetrainError(
            f"every: got {every!r} without a time column; name it with --time, or take a number of rows such "
            "as --every 500rows"
        )
    first = division.period(origin) if isinstance(division, Calendar) and origin is not None else None
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".split-tmp-", dir=out) as folder:
        readers: list[_Reader] = []
        counts: list[dict[int | None, int]] = []
        for i, path in enumerate(paths):
            (staging := Path(folder, f"file-{i}")).mkdir()
            readers.append(reader := _reader_of(path)(path, time_column, staging))
            before = sum(sum(count.values()) for count in counts)
            try:
                counts.append(_distribute(reader, division, first, before))
            except RetrainError as error:
                raise RetrainError(f"{path}: {error}") from None
        result, moves = _gather(readers, counts, division, first, out, Path(folder))
        publish(moves, Path(folder), force)
    return result


def _gather(
    readers: Sequence[_Reader],
    counts: Sequence[dict[int | None, int]],
    division: Calendar | RowCount,
    first: int | None,
    out: Path,
    aside: Path,
) -> tuple[SplitResult, dict[Path, Path]]:
    """The spans' folders, still aside, and where they go."""
    periods = sorted({period for count in counts for period in count if period is not None})
    start = periods[0] if first is None else first
    parts, moves = [], {}

    def files_of(period: int | None, label: str) -> list[tuple[Path, str]]:
        """The files of a period, and their names to be."""
        return [
            (reader.finish(period), f"{label}{f'-{i}' if len(readers) > 1 else ''}{reader.suffix}")
            for i, (reader, count) in enumerate(zip(readers, counts, strict=True), 1)
            if period in count
        ]

    for period in periods:
        span, label = period - start + 1, division.label(period)
        (staged := aside / f"span-{span}").mkdir()
        files = files_of(period, label)
        for path, name in files:
            path.rename(staged / name)
        rows = sum(count.get(period, 0) for count in counts)
        parts.append(SpanPart(span, label, rows, tuple(out / str(span) / name for _, name in files)))
        moves[staged] = out / str(span)
    left = {path: out / name for path, name in files_of(None, UNREADABLE)}
    unreadable = sum(count.get(None, 0) for count in counts)
    return SplitResult(parts, unreadable, tuple(left.values())), moves | left


class _Reader(Protocol):
    """One format: reads a file in blocks and appends rows of a block to the file of a period."""

    time_column: str | None
    suffix: str  # known with the first block
    first_times: list[str]  # for a message

    def blocks(self) -> Iterator[tuple[int, np.ndarray | None, Any]]:
        """(rows, the day of each since 1970 or `NO_DAY`, the rows); no days without a time column."""

    def append(self, period: int | None, rows: Any, places: np.ndarray) -> None:
        """Adds the rows at these places, ascending, to a period's file; None is the unreadable ones'."""

    def finish(self, period: int | None) -> Path:
        """The period's whole file."""


def _distribute(
    reader: _Reader, division: Calendar | RowCount, first: int | None, before: int
) -> dict[int | None, int]:
    """Appends every row to its period's file; gives the rows by period, the unreadable ones' being None."""
    import numpy as np

    counts: dict[int | None, int] = {}
    seen = 0
    for size, days, rows in reader.blocks():
        places_of_all = np.arange(before + seen, before + seen + size)
        periods = division.periods(places_of_all if days is None else days)
        seen += size
        order = np.argsort(periods, kind="stable")
        values, begins = np.unique(periods[order], return_index=True)
        for value, places in zip(values.tolist(), np.split(order, begins[1:]), strict=True):
            period = None if value == NO_DAY else value
            if period is not None and first is not None and period < first:
                raise RetrainError(
                    f"there are rows of {division.label(period)}, and the origin makes "
                    f"{division.label(first)} span 1; give an origin that is no later than the earliest row"
                )
            reader.append(period, rows, places)
            counts[period] = counts.get(period, 0) + len(places)
    if not seen:
        raise RetrainError("there is no row; name a file with rows")
    if not counts.keys() - {None}:
        raise RetrainError(
            f"no time in column {reader.time_column!r} can be read: it begins "
            f"{', '.join(reader.first_times)}. Required are unix seconds or milliseconds, or ISO dates and "
            "times such as 2013-03-09 12:00:00"
        )
    return counts


@dataclass
class _BytesReader:
    """CSV and TFRecord, as bytes: rows are never parsed further than to find the time."""

    source: Path
    time_column: str | None
    folder: Path
    suffix: str = ""
    first_times: list[str] = field(default_factory=list)
    header: bytes = b""
    line_end: bytes = b""

    def blocks(self) -> Iterator[tuple[int, np.ndarray | None, Any]]:
        from components.ingest.format import block_bytes
        from components.ingest.rows import BLOCK_BYTES
        from components.ingest.tables import open_format

        with open(self.source, "rb") as raw, open(self.source, "rb") as again:
            form = open_format(raw, str(self.source))
            self.suffix = f".{form.format}"
            _require_column(self.time_column, _names(form, again))
            for block in form.blocks(raw, BLOCK_BYTES):
                if form.names is not None and not self.header:
                    self._keep_header(again, block.place)
                data = block_bytes(again, block)
                places = _row_places(data, is_csv=form.names is not None)
                if places:
                    days = None
                    if self.time_column is not None:
                        pieces = list(form.read(again, block, [self.time_column]))
                        days = self._days(pieces, block.first, [number for _, _, number in places])
                    yield len(places), days, (data, places)

    def append(self, period: int | None, rows: Any, places: np.ndarray) -> None:
        import gzip

        data, of_row = rows
        chosen = (of_row[place] for place in places.tolist())
        joined = b"".join(data[begin:end] + self.line_end for begin, end, _ in chosen)
        path = self.finish(period)
        begin = b"" if path.exists() else self.header
        # A gzip file may be made of several gzip streams, so appending needs no file to stay open.
        with gzip.open(path, "ab", 6) if self.suffix.endswith(".gz") else open(path, "ab") as file:
            file.write(begin + joined)

    def finish(self, period: int | None) -> Path:
        return self.folder / f"{UNREADABLE if period is None else period}{self.suffix}"

    def _keep_header(self, raw: IO[bytes], length: int) -> None:
        from components.ingest.rows import decompressed

        raw.seek(0)
        header = decompressed(raw)[0].read(length)
        self.line_end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        self.header = header.rstrip(b"\r\n") + self.line_end

    def _days(self, pieces: list[Any], first: int, numbers: list[int]) -> np.ndarray:
        """The days of all rows; one that cannot be parsed has none."""
        import numpy as np

        days = np.full(len(numbers), NO_DAY, dtype=np.int64)
        for piece in pieces:
            times = piece.batch.column(0)
            self.first_times = self.first_times or [repr(time) for time in times.slice(0, 3).to_pylist()]
            days[np.searchsorted(numbers, piece.numbers - first)] = days_of(times)
        return days


def _names(form: Any, raw: IO[bytes]) -> list[str]:
    """The columns; of a TFRecord file those of its first records."""
    names = list(form.sniff(raw) if form.names is None else form.names)
    raw.seek(0)
    return names


def _row_places(data: bytes, is_csv: bool) -> list[tuple[int, int, int]]:
    """(begin, end, number within the block) of every row or record in a block's bytes."""
    from components.ingest.rows import row_spans

    return row_spans(data) if is_csv else list(_record_places(data))


def _record_places(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Records with all that frames them: length, checksum, bytes, checksum."""
    from components.ingest.tfrecord_file import HEADER_BYTES

    begin = number = 0
    while begin < len(data):
        length = int.from_bytes(data[begin : begin + 8], "little")
        end = begin + HEADER_BYTES + length + 4
        yield begin, end, number
        begin, number = end, number + 1


@dataclass
class _ParquetReader:
    """Parquet, by batches. A Parquet file cannot be appended to, so rows are kept in Arrow streams one after
    the other, a file a period, until all are known."""

    source: Path
    time_column: str | None
    folder: Path
    suffix: str = ".parquet"
    first_times: list[str] = field(default_factory=list)

    def blocks(self) -> Iterator[tuple[int, np.ndarray | None, Any]]:
        import pyarrow as pa
        import pyarrow.parquet

        try:
            with pa.parquet.ParquetFile(self.source) as file:
                names = file.schema_arrow.names
                _require_column(self.time_column, names)
                place = None if self.time_column is None else names.index(self.time_column)
                for batch in file.iter_batches(ROWS_AT_ONCE):
                    times = None if place is None else batch.column(place)
                    if times is not None and not self.first_times:
                        self.first_times = [str(time) for time in times.slice(0, 3)]
                    yield len(batch), None if times is None else days_of(times), batch
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


def _reader_of(path: Path) -> type[_BytesReader | _ParquetReader]:
    """What reads a file, by its first bytes."""
    return _ParquetReader if _first_bytes(path) == b"PAR1" else _BytesReader


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise RetrainError(f"{path}: cannot be read ({error.strerror}); name one readable file") from None
    if not magic:
        raise RetrainError(f"{path}: the file is empty (0 bytes); name one with a header and rows")
    return magic


def _require_column(column: str | None, names: list[str]) -> None:
    if column is not None and names.count(column) != 1:
        seen = "more than once" if column in names else "not"
        raise RetrainError(
            f"column {column!r} is {seen} in the file; name one of its columns: {', '.join(map(repr, names))}"
        )


def publish(moves: dict[Path, Path], aside: Path, force: bool) -> None:
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
