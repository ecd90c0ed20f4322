"""Parquet files, by row groups and, within one, by batches; columns of the file's own types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import RetrainError
from components.ingest.format import Block, Rows, as_json
from components.ingest.rows import BLOCK_BYTES

MAGIC = b"PAR1"
_MAX_BATCH_ROWS = 65_536
_BUFFER_BYTES = 1 << 16  # of every column's compressed pages; without, a row group's are all in memory


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file with these columns; see `Format`."""

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    format: str = "parquet"
    no_rows: str = "has columns and no row"

    @classmethod
    def open(cls, raw: IO[bytes]) -> ParquetFile:
        """Reads the columns.

        Raises:
            RetrainError: the file is damaged.
        """
        with _readable(), _opened(raw) as file:
            schema = file.schema_arrow
            return cls(tuple(schema.names), tuple(schema.types))

    def blocks(self, raw: IO[bytes], size: int) -> Iterator[Block]:
        """As many row groups in a block as hold `size` bytes uncompressed, and at least one."""
        with _readable(), _opened(raw) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            shapes = [(group.num_rows, group.total_byte_size) for group in groups]
        begin = first = row = held = 0
        for group, (rows, length) in enumerate(shapes):
            row, held = row + rows, held + length
            if row > first and (held >= size or group + 1 == len(shapes)):
                yield Block(begin, group + 1 - begin, first)
                begin, first, held = group + 1, row, 0

    def read(self, raw: IO[bytes] | None, block: Block, columns: Sequence[str] | None) -> Iterator[Rows]:
        assert raw is not None, "a block of Parquet is read from its file"
        first = block.first
        for batch in self._batches(raw, block, columns):
            yield _rows(batch, first)
            first += batch.num_rows

    def _batches(
        self, raw: IO[bytes], block: Block, columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        groups = range(block.place, block.place + block.length)
        with _readable(), _opened(raw) as file:
            width = len(self.names if columns is None else columns)
            sizes = [file.metadata.row_group(group) for group in groups]
            row_bytes = sum(g.total_byte_size for g in sizes) // max(sum(g.num_rows for g in sizes), 1)
            # Encoded, a value may take a bit; in memory it takes 8 bytes.
            rows = min(max(BLOCK_BYTES // max(row_bytes, 8 * width, 1), 1), _MAX_BATCH_ROWS)
            for batch in file.iter_batches(rows, row_groups=list(groups), columns=columns, use_threads=False):
                if columns is not None:  # a dot in a name can bring others along
                    batch = batch.select(list(columns))
                batch.validate(full=True)  # text that is not UTF-8, among others
                yield batch


def _opened(raw: IO[bytes]) -> Any:
    raw.seek(0)
    return pq.ParquetFile(raw, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


@contextmanager
def _readable() -> Iterator[None]:
    """Tells what pyarrow says of a damaged file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().split("\n")[0].rstrip(".")
        raise RetrainError(
            f"the Parquet file is truncated or damaged ({said}); copy it again, or write it again"
        ) from None


def _rows(batch: pa.RecordBatch, first: int) -> Rows:
    numbers = np.arange(first, first + batch.num_rows, dtype=np.int64)
    return Rows(batch, numbers, lambda wanted: as_json(batch, [number - first for number in wanted]))
