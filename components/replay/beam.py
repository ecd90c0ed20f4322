"""Bottom-k samples as Beam transforms: only keys are combined; examples move once, to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio import tf_example_record

from components.names import EXAMPLE_ID, SPAN
from components.replay import logic
from components.replay.logic import Sample

_RAW = "_record"
Group = int  # a span, or 0 where all spans share one sample
Rows = tuple[np.ndarray, np.ndarray, pa.Array]  # spans int64 [n], keys uint64 [n], records binary [n]
Kept = tuple[np.ndarray, pa.Array]  # keys uint64 [n], records binary [n]


class ReadKeyed(beam.PTransform):
    """TFRecords of tf.Examples -> `Rows`.

    Args:
        pattern: the files.
        seed: of the sample.
    """

    def __init__(self, pattern: str, seed: int) -> None:
        super().__init__()
        self._pattern, self._seed = pattern, seed

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        schema = schema_pb2.Schema()
        for name in (SPAN, EXAMPLE_ID):
            schema.feature.add(name=name, type=schema_pb2.INT)
        source = tf_example_record.TFExampleRecord(
            self._pattern, schema=schema, raw_record_column_name=_RAW, telemetry_descriptors=["Replay"]
        )
        return pipeline | "Read" >> source.BeamSource(batch_size=4096) | "Key" >> beam.Map(self._key)

    def _key(self, batch: pa.RecordBatch) -> Rows:
        spans, ids, records = (batch.column(name).flatten() for name in (SPAN, EXAMPLE_ID, _RAW))
        return spans.to_numpy(), logic.sample_keys(ids.to_numpy(), self._seed), records


def leave_out(rows: Rows, spans: Set[int]) -> Kept:
    """What of `rows` is of other spans."""
    of, keys, records = rows
    keep = ~np.isin(of, list(spans))
    return keys[keep], records.filter(pa.array(keep))


class CountBySpan(beam.PTransform):
    """`Rows` -> one dictionary: span -> how many there are."""

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        return (
            rows
            | "SpansOf"
            >> beam.FlatMap(lambda rows: zip(*np.unique(rows[0], return_counts=True), strict=True))
            | "Plain" >> beam.MapTuple(lambda span, count: (int(span), int(count)))
            | "Sum" >> beam.CombinePerKey(sum)
            | "Dictionary" >> beam.combiners.ToDict()
        )


class SampleBottomK(beam.PTransform):
    """Keeps the examples with the k smallest keys of each group.

    Takes a pair of PCollections of `Rows`: what the last sample kept, and what is new. Gives what is
    `Kept` of each of them, and one (group, Sample) for every group.

    Args:
        capacity: k.
        by_span: every span is a group of its own; else all spans are group 0.
        before: group -> the sample so far.
    """

    def __init__(self, capacity: int, by_span: bool, before: Mapping[Group, Sample]) -> None:
        super().__init__()
        self._capacity, self._by_span, self._before = capacity, by_span, dict(before)

    def expand(
        self, rows: tuple[beam.PCollection, beam.PCollection]
    ) -> tuple[beam.PCollection, beam.PCollection]:
        kept, new = rows
        keys = (
            kept | "KeptKeys" >> beam.FlatMap(self._keys, 0),
            new | "NewKeys" >> beam.FlatMap(self._keys, 1),
        )
        samples = (
            keys
            | "AllKeys" >> beam.Flatten()
            | "SmallestKeys" >> beam.CombinePerKey(SmallestKeys(self._capacity + 1))
            | "Samples" >> beam.Map(self._sample)
        )
        below = (
            rows
            | "AllRows" >> beam.Flatten()
            | "KeepBelow" >> beam.Map(keep_below, self._by_span, beam.pvalue.AsDict(samples))
        )
        return below, samples

    def _keys(self, rows: Rows, is_new: int) -> Iterable[tuple[Group, tuple[int, np.ndarray]]]:
        groups, keys = _groups(rows, self._by_span), rows[1]
        for group in np.unique(groups).tolist():
            mine = keys[groups == group]
            threshold = self._before.get(group, Sample()).threshold
            below = mine[logic.below(mine, threshold)]
            yield group, (is_new * len(mine), logic.smallest(below, self._capacity + 1))

    def _sample(self, item: tuple[Group, tuple[int, np.ndarray]]) -> tuple[Group, Sample]:
        group, (count, keys) = item
        return group, self._before.get(group, Sample()).add(keys, count, self._capacity)


class SmallestKeys(beam.CombineFn):
    """(count, keys) pairs -> the sum of the counts, and the smallest of all the keys."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def create_accumulator(self) -> tuple[int, np.ndarray]:
        return 0, np.empty(0, np.uint64)

    def add_input(
        self, accumulator: tuple[int, np.ndarray], item: tuple[int, np.ndarray]
    ) -> tuple[int, np.ndarray]:
        return self.merge_accumulators([accumulator, item])

    def merge_accumulators(self, accumulators: Iterable[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
        counts, keys = zip(*accumulators, strict=True)
        return sum(counts), logic.smallest(np.concatenate(keys), self._limit)

    def extract_output(self, accumulator: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
        return accumulator


def _groups(rows: Rows, by_span: bool) -> np.ndarray:
    """int64 of shape [n]."""
    return rows[0] if by_span else np.zeros_like(rows[0])


def keep_below(rows: Rows, by_span: bool, samples: Mapping[Group, Sample]) -> Kept:
    """What of `rows` has a key below its group's threshold."""
    groups, keys, records = _groups(rows, by_span), *rows[1:]
    keep = np.zeros(len(keys), bool)
    for group in np.unique(groups).tolist():
        mine = groups == group
        keep[mine] = logic.below(keys[mine], samples[group].threshold)
    return keys[keep], records.filter(pa.array(keep))


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
