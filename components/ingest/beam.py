"""The steps of ingest over Beam: files to blocks of rows, blocks to examples, examples to shards.

What is wrong with a file travels along as data: an exception would reach the caller as one of Beam's.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from components.errors import RetrainError
from components.ingest import rows
from components.ingest.logic import Parsed, parse_block
from components.ingest.recipe import Layout, Recipe, Source, match_header
from components.ingest.report import Shard, Summary

BLOCKS_PER_SHARD = 32  # 128 MiB of CSV: large enough to read well, small enough to read in parallel
ROWS_ENCODED_AT_ONCE = 4096  # the encoder builds a message for each before it writes the first
_GZIP_LEVEL = 1  # level 6 takes three times as long for files a quarter smaller


@dataclass(frozen=True)
class Block:
    """Whole rows of one file; `text` is None where they are read again, from `offset`."""

    source: Source
    layout: Layout
    offset: int
    length: int
    line: int  # the physical line that it begins on, from 0
    first: bool
    text: bytes | None


@dataclass(frozen=True)
class Problem:
    """Why a file cannot be ingested."""

    source: Source
    message: str


class CutIntoBlocks(beam.PTransform):
    """`Source`s to `Block`s, or a `Problem` for a file that cannot be ingested.

    Blocks are spread over the workers. Of a plain file only offsets travel; the text of a compressed one
    must, as it cannot be read from the middle, and in-memory Beam then holds it whole.
    """

    def __init__(self, recipe: Recipe, block_bytes: int = rows.BLOCK_BYTES):
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
    """`Block`s to gzipped TFRecord files of tf.Examples in `folder`; gives `Summary`s, shards in them."""

    def __init__(self, recipe: Recipe, folder: str):
        super().__init__()
        self.recipe, self.folder = recipe, folder

    def expand(self, blocks: Any) -> Any:
        return (
            blocks | "Parse" >> beam.FlatMap(_parse, self.recipe) | "Write" >> beam.ParDo(_Write(self.folder))
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
) -> Iterator[tuple[tuple[int, int], Block | Problem]]:
    """Blocks of a file by (order of the source, offset)."""
    offset = -1
    try:
        for block in _blocks(source, recipe, block_bytes):
            offset = block.offset
            yield (source.order, offset), block
    except RetrainError as error:
        yield (source.order, offset + 1), Problem(source, f"{source}: {error}")


def _blocks(source: Source, recipe: Recipe, block_bytes: int) -> Iterator[Block]:
    layout = None
    empty = True
    first = True
    with _open(source.path) as raw:
        stream, compressed = rows.decompressed(raw, source.path)
        for offset, line, text in rows.blocks(stream, block_bytes):
            empty = False
            if layout is None:
                rows.check_utf8(text, line)
                header, length = rows.read_header(text)
                if not header:
                    continue
                layout = match_header(header, recipe)
                offset, line, text = offset + length, line + rows.count_lines(text[:length]), text[length:]
            if text.strip(b"\r\n"):
                yield Block(source, layout, offset, len(text), line, first, text if compressed else None)
                first = False
    if first:
        seen = "is empty (0 bytes)" if empty else "has only blank lines"
        raise RetrainError(
            f"the file {'has a header and no row' if layout else seen}; a file of a span has a header and "
            "rows: mend it, or take it out of the span"
        )


def _open(path: str) -> Any:
    """The file, read as it is; FileSystems would decompress by the name alone."""
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except IsADirectoryError:
        raise RetrainError("this is a folder; name the files in it") from None
    except (FileNotFoundError, PermissionError) as error:
        raise RetrainError(f"cannot be opened ({error.strerror}); required is a readable file") from None


def _parse(
    block: Block | Problem, recipe: Recipe
) -> Iterator[tuple[tuple[int, int], Parsed | None, Summary]]:
    """(order of the source, offset), what is in the block if it can be read, and its summary."""
    if isinstance(block, Problem):
        yield (block.source.order, 0), None, Summary(problems=[(block.source.order, block.message)])
        return
    key = (block.source.order, block.offset)
    text = block.text
    if text is None:
        with _open(block.source.path) as file:
            file.seek(block.offset)
            text = file.read(block.length)
    try:
        parsed = parse_block(recipe, block.source, block.layout, text, block.line)
    except RetrainError as error:
        yield key, None, Summary(problems=[(block.source.order, f"{block.source}: {error}")])
    else:
        yield key, parsed, Summary.of_block(block.source, block.layout, parsed, block.first)


class _Write(beam.DoFn):
    """Encodes and writes blocks, under names of its own: those of a bundle that failed, nobody hears of."""

    def __init__(self, folder: str):
        self.folder = folder

    def setup(self) -> None:
        from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

        self.encoder = RecordBatchToExamplesEncoder()

    def start_bundle(self) -> None:
        self.open: dict[str, _OpenShard] = {}
        self.blocks = 0

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
        self.blocks += 1
        if self.blocks % BLOCKS_PER_SHARD == 0:
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
