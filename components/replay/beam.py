"""Samples as Beam transforms: only ranks are combined; examples move once, to the output.

Files are read twice, once for what the sample is drawn by and once for the examples that are in it, so that
no runner holds the others between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder
from tfx_bsl.tfxio import tf_example_record

from components.errors import RetrainError
from components.names import EXAMPLE_ID, SPAN
from components.replay import logic
from components.replay.logic import Group, Quota, Scheme, Sketch

RECORD = "_record"
_BATCH = 4096
Columns = Mapping[str, int]  # column -> its `schema_pb2.FeatureType`
Kept = tuple[np.ndarray, pa.Array]  # keys uint64 [n], records binary [n]


class ReadRows(beam.PTransform):
    """TFRecords of tf.Examples -> `pa.RecordBatch`es of their columns, each a list a row.

    Args:
        pattern: of the files.
        columns: what to decode, beside the span and the id.
        records: give the examples as they are, too, as the column `RECORD`.
    """

    def __init__(self, pattern: str, columns: Columns, records: bool) -> None:
        super().__init__()
        self._pattern, self._columns, self._records = pattern, dict(columns), records

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        decode = tf_example_record.TFExampleBeamRecord(
            physical_format="tfrecords_gzip",
            schema=_schema(self._columns),
            raw_record_column_name=RECORD if self._records else None,
            telemetry_descriptors=["Replay"],
        )
        # Not TFExampleRecord: it flattens what it reads, and a local runner holds all of that.
        return (
            pipeline
            | "Read" >> beam.io.ReadFromTFRecord(self._pattern)
            | "Decode" >> decode.BeamSource(batch_size=_BATCH)
        )


def decoded(pattern: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    """As `ReadRows` gives them, in this process; arguments as its.

    Raises:
        RetrainError: there is no file.
    """
    import tensorflow as tf

    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise RetrainError(
            f"replay: there is no file {pattern}. Restore it, or promote a version that is whole"
        )
    decoder = ExamplesToRecordBatchDecoder(_schema(columns).SerializeToString())
    for examples in tf.data.TFRecordDataset(files, "GZIP").batch(_BATCH).as_numpy_iterator():
        yield decoder.DecodeBatch(examples.tolist())


def _schema(columns: Columns) -> schema_pb2.Schema:
    schema = schema_pb2.Schema()
    for name, kind in ({SPAN: schema_pb2.INT, EXAMPLE_ID: schema_pb2.INT} | dict(columns)).items():
        schema.feature.add(name=name, type=kind)
    return schema


def numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """int64 [n] of a column of which every row has one value."""
    return batch.column(name).flatten().to_numpy()


def records(batch: pa.RecordBatch) -> pa.Array:
    """binary [n]: the examples themselves."""
    return batch.column(RECORD).flatten()


class _Rows(NamedTuple):
    keys: np.ndarray
    names: list[Group]
    groups: np.ndarray
    ranks: np.ndarray


class Draw:
    """How the rows of a batch fall into a sample.

    Args:
        scheme, seed: of the sample.
        quota: of it.
        thresholds: group -> that of the sample before.
    """

    def __init__(self, scheme: Scheme, seed: int, quota: Quota, thresholds: Mapping[Group, int]) -> None:
        self.scheme, self.seed, self.quota, self.thresholds = scheme, seed, quota, dict(thresholds)

    def sketch(self, batch: pa.RecordBatch) -> Sketch:
        """Of the rows of a batch."""
        rows = self._rows(batch)
        return logic.sketch(rows.names, rows.groups, rows.ranks, self.thresholds, self.quota)

    def keep(self, batch: pa.RecordBatch, thresholds: Mapping[Group, int]) -> Kept:
        """What of a batch with its records is in the sample with these thresholds."""
        rows = self._rows(batch)
        keep = logic.keep(rows.names, rows.groups, rows.ranks, thresholds)
        return rows.keys[keep], records(batch).filter(pa.array(keep))

    def _rows(self, batch: pa.RecordBatch) -> _Rows:
        spans, keys = numbers(batch, SPAN), logic.sample_keys(numbers(batch, EXAMPLE_ID), self.seed)
        columns = [batch.column(name).to_pylist() for name in self.scheme.by]
        names, index = self.scheme.groups(spans, columns)
        return _Rows(keys, names, index, self.scheme.ranks(keys, spans))


class MergeSketches(beam.CombineFn):
    """`Sketch`es of parts -> that of the whole."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    def create_accumulator(self) -> Sketch:
        return Sketch()

    def add_input(self, accumulator: Sketch, item: Sketch) -> Sketch:
        return logic.merge([accumulator, item], self._quota)

    def merge_accumulators(self, accumulators: Iterable[Sketch]) -> Sketch:
        return logic.merge(accumulators, self._quota)

    def extract_output(self, accumulator: Sketch) -> Sketch:
        return accumulator


class CountBySpan(beam.PTransform):
    """`pa.RecordBatch`es -> one dictionary: span -> how many rows there are."""

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return (
            batches
            | "SpansOf" >> beam.FlatMap(count_spans)
            | "Sum" >> beam.CombinePerKey(sum)
            | "Dictionary" >> beam.combiners.ToDict()
        )


def count_spans(batch: pa.RecordBatch) -> Iterable[tuple[int, int]]:
    """Span -> rows of a batch."""
    spans, counts = np.unique(numbers(batch, SPAN), return_counts=True)
    return zip(spans.tolist(), counts.tolist(), strict=True)


class WriteInOrder(beam.PTransform):
    """Writes what was `Kept` as one gzipped file of TFRecords, in the order of the keys.

    Beam promises no order, and a trainer's seeded shuffle begins with the one it finds: without
    this, the same inputs would train another model at every try. One worker sorts all of it; a
    sample is bounded.

    Args:
        path: of the file, without the suffix that numbers it.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, kept: beam.PCollection) -> beam.PCollection:
        return (
            kept
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Sort" >> beam.FlatMapTuple(lambda _, kept: in_order(kept))
            | "Write" >> beam.io.WriteToTFRecord(self._path, file_name_suffix=".gz")
        )


def in_order(kept: Iterable[Kept]) -> list[bytes]:
    """All records, by their keys."""
    pairs = [pair for keys, records in kept for pair in zip(keys.tolist(), records.to_pylist(), strict=True)]
    return [record for _, record in sorted(pairs)]
