"""The steps of ingest over Beam: files to parts, parts to examples, examples to shards.

What is wrong with a file travels along as data: an exception would reach the caller as one of Beam's.
"""

from __future__ import annotations

import functools
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from components.errors import RetrainError
from components.ingest.format import Block, Format
from components.ingest.logic import Parsed, to_examples
from components.ingest.recipe import Recipe, Source, match_header
from components.ingest.report import Shard, Summary
from components.ingest.rows import BLOCK_BYTES
from components.ingest.tables import open_format
from components.ingest.values import check_type

PARTS_PER_SHARD = 32  # 128 MiB of CSV: large enough to read well, small enough to read in parallel
ROWS_ENCODED_AT_ONCE = 4096  # the encoder builds a message for each before it writes the first
_GZIP_LEVEL = 1  # level 6 takes three times as long for files a quarter smaller


@dataclass(frozen=True)
class Part:
    """Rows of one file, not read yet."""

    source: Source
    format: Format
    block: Block
    unknown: tuple[str, ...]  # the columns that the schema does not know; with a file's first part


@dataclass(frozen=True)
class Problem:
    """Why a file cannot be ingested."""

    source: Source
    message: str


class CutIntoParts(beam.PTransform):
    """`Source`s to `Part`s, or a `Problem` for a file that cannot be ingested.

    Parts are spread over the workers. Of most files only offsets travel; the bytes of a gzipped one must, as
    it cannot be read from the middle, and in-memory Beam then holds it whole.
    """

    def __init__(self, recipe: Recipe, block_bytes: int = BLOCK_BYTES):
        super().__init__()
        self.recipe, self.block_bytes = recipe, block_bytes

    def expand(self, sources: Any) -> Any:
        # Not Reshuffle: its keys are random, and the order of examples would be with them.
        cut = beam.FlatMap(_cut, self.recipe, self.block_bytes)
        return (
            sources
            | "Cut" >> cut.with_output_types(tuple[tuple[int, int], Any])
            | "Spread" >> beam.GroupByKey()
            | "Unkey" >> beam.FlatMap(lambda keyed: keyed[1])
        )


class ParseAndWrite(beam.PTransform):
    """`Part`s to gzipped TFRecord files of tf.Examples in `folder`; gives `Summary`s, shards in them."""

    def __init__(self, recipe: Recipe, folder: str):
        super().__init__()
        self.recipe, self.folder = recipe, folder

    def expand(self, parts: Any) -> Any:
        return (
            parts | "Parse" >> beam.FlatMap(_parse, self.recipe) | "Write" >> beam.ParDo(_Write(self.folder))
        )


class WriteSummary(beam.PTransform):
    """Adds up `Summary`s and writes the sum to `path` as JSON."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def expand(self, summaries: Any) -> Any:
        return (
            summaries
            | "AddUp" >> beam.CombineGlobally(_AddUp()).without_defaults()
            | "WriteSum" >> beam.Map(_write_summary, self.path)
        )


def _cut(
    source: Source, recipe: Recipe, block_bytes: int
) -> Iterator[tuple[tuple[int, int], Part | Problem]]:
    """Parts of a file by (order of the source, place of the block)."""
    place = -1
    try:
        for part in _parts(source, recipe, block_bytes):
            place = part.block.place
            yield (source.order, place), part
    except RetrainError as error:
        yield (source.order, place + 1), Problem(source, f"{source}: {error}")


def _parts(source: Source, recipe: Recipe, block_bytes: int) -> Iterator[Part]:
    unknown: tuple[str, ...] = ()
    first = True
    with _open(source.path) as raw:
        found = open_format(raw, source.path)
        if found.names is not None:
            unknown = tuple(match_header(found.names, recipe))
        _check_types(found, recipe)
        for block in found.blocks(raw, block_bytes):
            yield Part(source, found, block, unknown if first else ())
            first = False
    if first:
        raise RetrainError(
            f"the file {found.no_rows}; a file of a span has rows: mend it, or take it out of the span"
        )


def _check_types(found: Format, recipe: Recipe) -> None:
    wanted = {column.name for column in recipe.columns}
    for name, kind in zip(found.names or (), found.types, strict=False):  # a CSV file says no types
        if name in wanted:
            check_type(name, kind)


def _open(path: str) -> Any:
    """The file, read as it is; FileSystems would decompress by the name alone."""
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except IsADirectoryError:
        raise RetrainError("this is a folder; name the files in it") from None
    except (FileNotFoundError, PermissionError) as error:
        raise RetrainError(f"cannot be opened ({error.strerror}); required is a readable file") from None


def _parse(part: Part | Problem, recipe: Recipe) -> Iterator[tuple[tuple[int, int], Parsed | None, Summary]]:
    """(order of the source, number of a row), what is from there on if it can be read, and its summary."""
    source = part.source
    if isinstance(part, Problem):
        yield (source.order, 0), None, Summary(problems=[(source.order, part.message)])
        return
    key = (source.order, part.block.first)
    if part.unknown:
        yield key, None, Summary(unknown=Counter(part.unknown))
    names = [column.name for column in recipe.columns]
    try:
        with nullcontext() if part.block.data is not None else _open(source.path) as raw:
            for rows in part.format.read(raw, part.block, names):
                parsed = to_examples(recipe, source, rows)
                yield key, parsed, Summary.of_rows(source, parsed, rows.names)
                key = (source.order, key[1] + len(rows.numbers) + len(rows.faults))
    except RetrainError as error:
        yield key, None, Summary(problems=[(source.order, f"{source}: {error}")])


class _Write(beam.DoFn):
    """Encodes and writes rows, under names of its own: those of a bundle that failed, nobody hears of."""

    def __init__(self, folder: str):
        self.folder = folder

    def setup(self) -> None:
        from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

        self.encoder = RecordBatchToExamplesEncoder()

    def start_bundle(self) -> None:
        self.open: dict[str, _OpenShard] = {}
        self.parts = 0

    def process(self, element: tuple[tuple[int, int], Parsed | None, Summary]) -> Iterator[Summary]:
        key, parsed, summary = element
        yield summary
        if parsed is None:
            return
        for split, batch in parsed.batches.items():
            if batch.num_rows:
                if split not in self.open:
                    self.open[split] = _OpenShard(self.folder, split, key)
                for begin in range(0, batch.num_rows, ROWS_ENCODED_AT_ONCE):
                    self.open[split].write(self.encoder.encode(batch.slice(begin, ROWS_ENCODED_AT_ONCE)))
        self.parts += 1
        if self.parts % PARTS_PER_SHARD == 0:
            yield self._close()

    def finish_bundle(self) -> Iterator[Any]:
        yield GlobalWindows.windowed_value(self._close())

    def _close(self) -> Summary:
        shards = [shard.close() for shard in self.open.values()]
        self.open = {}
        return Summary(shards=shards)


class _OpenShard:
    """A TFRecord file that is being written."""

    def __init__(self, folder: str, split: str, first: tuple[int, int]):
        self.shard = Shard(first, split, f"{folder}/{split}-{uuid.uuid4().hex}.gz")
        self.writer = record_writer(self.shard.path)

    def write(self, examples: list[bytes]) -> None:
        for example in examples:
            self.writer.write(example)

    def close(self) -> Shard:
        self.writer.close()
        return self.shard


def record_writer(path: str) -> Any:
    """A `tf.io.TFRecordWriter` that compresses with gzip."""
    import tensorflow as tf

    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=_GZIP_LEVEL)
    return tf.io.TFRecordWriter(path, options)


class _AddUp(beam.CombineFn):
    def create_accumulator(self) -> Summary:
        return Summary()

    def add_input(self, total: Summary, summary: Summary) -> Summary:
        return total.add(summary)

    def merge_accumulators(self, totals: Iterable[Summary]) -> Summary:
        return functools.reduce(Summary.add, totals, Summary())

    def extract_output(self, total: Summary) -> Summary:
        return total


def _write_summary(summary: Summary, path: str) -> None:
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(summary.to_json().encode())
