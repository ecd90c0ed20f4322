"""CSV files, plain or gzipped: text columns, null where a cell is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa

from components.errors import RetrainError
from components.ingest import rows
from components.ingest.cells import read_cells
from components.ingest.format import Block, Reason, Rows, block_bytes

_HEADER_BYTES = 1 << 16  # read at a time, to find the header


@dataclass(frozen=True)
class CsvFile:
    """A CSV file with this header; see `Format`."""

    names: tuple[str, ...]
    compressed: bool
    types: tuple[pa.DataType, ...] = ()
    no_rows: str = "has a header and no row"

    @classmethod
    def open(cls, raw: IO[bytes], compressed: bool) -> CsvFile:
        """Reads the header.

        Raises:
            RetrainError: there is none, or it is not UTF-8.
        """
        for header, _, _, _ in _texts(raw, _HEADER_BYTES):
            if header:
                return cls(tuple(header), compressed)
        raise RetrainError("the file has only blank lines; required are a header and rows: mend or remove it")

    @property
    def format(self) -> str:
        return "csv.gz" if self.compressed else "csv"

    def blocks(self, raw: IO[bytes], size: int) -> Iterator[Block]:
        for header, offset, line, text in _texts(raw, size):
            if header and text.strip(b"\r\n"):
                yield Block(offset, len(text), line, text if self.compressed else None)

    def read(self, raw: IO[bytes] | None, block: Block, columns: Sequence[str] | None) -> Iterator[Rows]:
        text = block_bytes(raw, block)
        rows.check_utf8(text, block.first)
        if columns is None:
            columns, positions = self.names, list(range(len(self.names)))
        else:
            place = {name: position for position, name in enumerate(self.names)}
            positions = [place[name] for name in columns]
        cells, ragged = read_cells(text, len(self.names), positions)
        lines = block.first + rows.row_lines(text, len(cells[0]) + len(ragged))
        faults = {int(lines[row]): _ragged_reason(width, len(self.names)) for row, width in ragged.items()}

        def texts(numbers: Sequence[int]) -> list[str]:
            spans = {block.first + line: (begin, end) for begin, end, line in rows.row_spans(text)}
            return [text[slice(*spans[number])].decode() for number in numbers]

        batch = pa.RecordBatch.from_arrays(cells, names=list(columns))
        yield Rows(batch, np.delete(lines, list(ragged)), texts, faults)


def _texts(raw: IO[bytes], size: int) -> Iterator[tuple[list[str], int, int, bytes]]:
    """(header, offset, physical line from 0, text) of every piece of the file behind its header; without a
    header as long as there are only blank lines."""
    raw.seek(0)
    header: list[str] = []
    for offset, line, text in rows.blocks(rows.decompressed(raw)[0], size):
        if not header:
            rows.check_utf8(text, line)
            header, length = rows.read_header(text)
            offset, line, text = offset + length, line + rows.count_lines(text[:length]), text[length:]
        yield header, offset, line, text


def _ragged_reason(width: int, required: int) -> Reason:
    return f"{width} cells, and the header has {required}", "wrong number of cells"
