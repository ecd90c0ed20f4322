"""The first rows of a file, read by ingest's own code, without Beam and without writing anything."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from components.errors import RetrainError
from components.ingest.format import Format
from components.ingest.logic import to_examples
from components.ingest.recipe import Recipe, Source, match_header, match_records
from components.ingest.tables import open_format
from components.ingest.values import check_type

BLOCK_BYTES = 1 << 20  # read at a time
_EXAMPLES_TOLD = 2  # of a reason why rows are rejected


@dataclass(frozen=True)
class Sample:
    """What the first rows of a file are.

    Attributes:
        source: the file.
        format: csv, csv.gz, parquet, tfrecord or tfrecord.gz.
        read: how many rows were read.
        whole: whether these are all.
        expected: how many rows the file has; estimated by its size where not all were read.
        rejected: how many rows would be quarantined, by reason.
        told: of each reason the first lines that have it.
        unknown: the file's columns that the schema does not know.
        rows: the good rows, a list column for every feature of the examples, null where it is missing.
    """

    source: Source
    format: str
    read: int
    whole: bool
    expected: int
    rejected: Counter[str]
    told: dict[str, list[str]]
    unknown: list[str]
    rows: pa.Table

    @property
    def rejected_share(self) -> float:
        return self.rejected.total() / self.read if self.read else 0.0


def read_sample(recipe: Recipe, source: Source, most: int) -> Sample:
    """Reads at least `most` rows of a file, or all that there are.

    Raises:
        RetrainError: ingest would refuse the file; the message does not name it.
    """
    wanted = [column.name for column in recipe.columns]
    rejected: Counter[str] = Counter()
    told: dict[str, list[str]] = {}
    batches: list[pa.RecordBatch] = []
    names: set[str] = set()
    read, place, whole = 0, 0, True
    # Of two handles one stays where the blocks are cut.
    with open(source.path, "rb") as raw, open(source.path, "rb") as again:
        found = open_format(raw, source.path)
        unknown = match_header(found.names, recipe) if found.names is not None else []
        _check_types(found, wanted)
        for rows in (r for block in found.blocks(raw, BLOCK_BYTES) for r in found.read(again, block, wanted)):
            if read >= most:
                whole = False
                break
            parsed = to_examples(recipe, source, rows)
            read, place = read + len(rows.numbers) + len(rows.faults), raw.tell()
            names |= rows.names or set()
            batches += parsed.batches.values()
            rejected.update(parsed.by_reason)
            for reason, those in parsed.rejected.items():
                lines = [f"line {row.line}, {row.reason}" for row in those[:_EXAMPLES_TOLD]]
                told[reason] = (told.get(reason, []) + lines)[:_EXAMPLES_TOLD]
        expected = read if whole else _expected(found, source.path, read, place)
    if not read:
        raise RetrainError(f"the file {found.no_rows}; a file of a span has rows: mend it, or take it away")
    if found.names is None and whole:
        unknown = match_records(names, recipe)
    table = pa.Table.from_batches(batches)
    return Sample(source, found.format, read, whole, expected, rejected, told, unknown, table)


def _check_types(found: Format, wanted: list[str]) -> None:
    for name, kind in zip(found.names or (), found.types, strict=False):  # a CSV file says no types
        if name in wanted:
            check_type(name, kind)


def _expected(found: Format, path: str, read: int, place: int) -> int:
    """How many rows a file has, of which so many are before a place in it."""
    if found.format == "parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(path).num_rows)
    return round(read * max(os.path.getsize(path) / place, 1.0))
