"""What the rest of ingest knows of a file format: `Block`s to spread over workers, and the `Rows` in them.

A format is found by a file's first bytes (`tables.py`); `csv_file.py`, `parquet_file.py` and
`tfrecord_file.py` are one each. Their errors do not name the file: who opened it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa

Reason = tuple[str, str]
"""Why a row is rejected: as it is told of the row, and in general, as rows are counted."""


@dataclass(frozen=True)
class Block:
    """Some rows of a file, as a worker finds them again.

    Attributes:
        place: where they begin, from 0: an offset in bytes, or a row group.
        length: how many bytes, or row groups.
        first: the number of the first row, from 0: its physical line in a CSV file.
        data: the bytes themselves where the file cannot be read from the middle; else None.
    """

    place: int
    length: int
    first: int
    data: bytes | None = None


@dataclass
class Rows:
    """Rows of a block.

    Attributes:
        batch: the columns asked for, in that order, each of any Arrow type; a column of nulls where the
            rows have none such.
        numbers: of every row of `batch`, int64 [rows], ascending, from 0: CSV's is the physical line.
        texts: the rows of these numbers, ascending, as a person may read them.
        faults: the rows that are not in `batch`, by number.
        names: the columns that there are, where every row says its own; None where the file has a header.
    """

    batch: pa.RecordBatch
    numbers: np.ndarray
    texts: Callable[[Sequence[int]], list[str]]
    faults: dict[int, Reason] = field(default_factory=dict)
    names: frozenset[str] | None = None


class Format(Protocol):
    """An opened file's format and columns. It is pickled, so it does not hold the file itself."""

    @property
    def format(self) -> str:
        """csv, csv.gz, parquet, tfrecord or tfrecord.gz."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns in the file's order, duplicates kept; None where every row says its own."""

    @property
    def types(self) -> tuple[pa.DataType, ...]:
        """The columns' types, as far as the file says them."""

    @property
    def no_rows(self) -> str:
        """What is to be seen in a file that has no block."""

    def blocks(self, raw: IO[bytes], size: int) -> Iterator[Block]:
        """All rows of the file, about `size` bytes in each block.

        The file is read on from block to block: `read` needs another handle in the meantime.

        Raises:
            RetrainError: the file is damaged, or ends within a row.
        """

    def read(self, raw: IO[bytes] | None, block: Block, columns: Sequence[str] | None) -> Iterator[Rows]:
        """The rows of a block, in one or several pieces.

        Args:
            raw: the file; None will do for a block that has its data.
            columns: the columns to read, none of them twice in the file; None for all there are.

        Raises:
            RetrainError: the block cannot be read.
        """


def block_bytes(raw: IO[bytes] | None, block: Block) -> bytes:
    """The bytes of a block whose place and length are bytes."""
    if block.data is not None:
        return block.data
    assert raw is not None, "a block without its data needs the file"
    raw.seek(block.place)
    return raw.read(block.length)


def as_json(batch: pa.RecordBatch, places: Sequence[int]) -> list[str]:
    """Rows of a batch as compact JSON, as a person may read them: bytes as text, times in ISO 8601."""
    return [
        json.dumps(row, default=_plain, ensure_ascii=False, separators=(",", ":"))
        for row in batch.take(pa.array(places, pa.int64())).to_pylist()
    ]


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    return value.isoformat() if isinstance(value, date) else str(value)
