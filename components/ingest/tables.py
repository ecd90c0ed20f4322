"""Opens a data file of any format that is known, and streams it; neither Beam nor TensorFlow is needed.

>>> table = open_table("trips.parquet")  # doctest: +SKIP
>>> for first, batch in table.batches():  # doctest: +SKIP
...     print(first, batch.schema)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa

from components.errors import RetrainError
from components.ingest import rows
from components.ingest.csv_file import CsvFile
from components.ingest.format import Format, Rows
from components.ingest.parquet_file import MAGIC, ParquetFile
from components.ingest.tfrecord_file import HEADER_BYTES, TFRecordFile, begins_record

_BY_SUFFIX = {
    ".csv": "CSV",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".tfrecord": "TFRecord",
    ".tfrecords": "TFRecord",
}
_OTHERS = {  # files that are often taken for one of those; none of these bytes begins a text
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ\x00": "XZ",
    b"ARROW1\x00\x00": "Arrow IPC (Feather)",
}
_KNOWN = "CSV (plain or gzip), Parquet, and TFRecord of tf.Examples (plain or gzip)"


@dataclass
class Table:
    """One file as a stream of rows.

    Attributes:
        path: the file.
        format: csv, csv.gz, parquet, tfrecord or tfrecord.gz.
        names: the columns in the file's order, duplicates kept. Of a TFRecord file those of the first 1,000
            records, sorted.
        ragged: how many rows the last `batches()` left out: CSV rows with more or fewer cells than the
            header, records that are no tf.Example.
        added: the columns that it met in a TFRecord file's later records, and left out; how many batches
            have each.
    """

    path: str
    format: str
    names: list[str]
    ragged: int = 0
    added: Counter[str] = field(default_factory=Counter)
    _format: Format = field(kw_only=True, repr=False)
    _sniffed: dict[str, pa.DataType] = field(kw_only=True, repr=False)
    _block_bytes: int = field(kw_only=True, repr=False)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, from 1, those left out counted; rows) of every piece of the file.

        Columns are those of `names`: of a CSV file text, null where a cell is empty; of a Parquet file as it
        has them; of a TFRecord file lists of int64, float32 or binary, null where a record has not the
        feature, and lists of text where its records do not agree on a kind.

        Raises:
            RetrainError: the file is damaged; the message names it.
        """
        self.ragged, self.added = 0, Counter()
        number = 1
        for piece in self.rows():
            if piece.batch.num_rows:
                yield number, piece.batch
            number += piece.batch.num_rows + len(piece.faults)
            self.ragged += len(piece.faults)

    def rows(self) -> Iterator[Rows]:
        """As `batches`, with every row's number or line, the rows left out, and why."""
        with _named(self.path), _open(self.path) as raw, _open(self.path) as again:
            for block in self._format.blocks(raw, self._block_bytes):
                for piece in self._format.read(again, block, None):
                    if piece.names is not None:
                        self.added.update(piece.names - self._sniffed.keys())
                        piece.batch = self._fitted(piece.batch)
                    yield piece

    def _fitted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of `names`, which a batch of records may lack."""
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns = []
        for name, kind in self._sniffed.items():
            column = found.get(name)
            if column is None or pa.types.is_null(column.type):
                column = pa.nulls(batch.num_rows, kind)
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, names=list(self._sniffed))


def open_table(path: str | os.PathLike[str], block_bytes: int = rows.BLOCK_BYTES) -> Table:
    """Opens a local file, and reads its columns.

    Args:
        path: a CSV or TFRecord file, plain or gzipped, or a Parquet file.
        block_bytes: about how much of it is in memory at a time, as it is stored.

    Raises:
        RetrainError: it cannot be opened, is empty, is of no format that is known or of another one than its
            name says, or is damaged. The message names the file.
    """
    path = os.fspath(path)
    with _named(path), _open(path) as raw:
        form = open_format(raw, path)
        sniffed = form.sniff(raw) if isinstance(form, TFRecordFile) else {}
    names = list(sniffed if form.names is None else form.names)
    return Table(path, form.format, names, _format=form, _sniffed=sniffed, _block_bytes=block_bytes)


def open_format(raw: IO[bytes], name: str) -> Format:
    """Finds a file's format by its first bytes, and reads its header.

    Args:
        raw: the file at its beginning; it can seek.
        name: the file's name, which must not contradict its content.

    Raises:
        RetrainError: as `open_table`, but the message does not name the file.
    """
    stream, compressed = rows.decompressed(raw, name)
    begin = rows.read_bytes(stream, HEADER_BYTES)
    raw.seek(0)
    found = _find(begin)
    said = _said_by(name)
    if not begin:
        raise RetrainError("the file is empty (0 bytes); required are a header and rows: mend or remove it")
    if said not in (None, found):
        raise RetrainError(
            f"not {said}, although its name ends in {_suffix(name)}: it begins with {begin!r}, like {found}; "
            f"name it after what it is, or write it again as {said}"
        )
    match found:
        case "Parquet" if compressed:
            raise RetrainError(
                "a gzipped Parquet file cannot be read in parts, and Parquet compresses by itself: gunzip it"
            )
        case "Parquet":
            return ParquetFile.open(raw)
        case "TFRecord":
            return TFRecordFile(compressed)
        case "CSV":
            return CsvFile.open(raw, compressed)
    raise RetrainError(f"this is {found}, which is not read; required is {_KNOWN}: convert it")


def _find(begin: bytes) -> str:
    if begin.startswith(MAGIC):
        return "Parquet"
    if begins_record(begin):
        return "TFRecord"
    return next((name for magic, name in _OTHERS.items() if begin.startswith(magic)), "CSV")


def _suffix(name: str) -> str:
    return os.path.splitext(name.removesuffix(".gz"))[1]


def _said_by(name: str) -> str | None:
    return _BY_SUFFIX.get(_suffix(name).lower())


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise RetrainError(f"cannot be opened ({error.strerror}); required is a readable file") from None


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except RetrainError as error:
        raise RetrainError(f"{path}: {error}") from None
