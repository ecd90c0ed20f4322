"""The Beam sample over real TFRecords against the pure logic."""

import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from components.replay.beam import CountBySpan, ReadKeyed, SampleBottomK, in_order, leave_out
from components.replay.logic import Sample, below, sample_keys

SEED = 3
IN_PROCESS = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]


def keys_of(rows):
    return sample_keys(np.array([i for _, i in rows]), SEED)


def id_of(record):
    example = tf.train.Example.FromString(record)
    return tuple(example.features.feature[name].int64_list.value[0] for name in ("span", "example_id"))


@pytest.mark.parametrize("by_span", [False, True], ids=["one sample", "a sample a span"])
def test_the_sample_is_that_of_the_logic(tmp_path, rows, write, by_span):
    capacity = 300
    spans = {span: rows(span, count) for span, count in {1: 6000, 2: 200, 3: 5000}.items()}
    groups = spans if by_span else {0: [row for span in spans.values() for row in span]}
    # Spans 1 and 2 were learned before; of span 1, or of both together, only a part was kept.
    old = {group: [row for row in of if row[0] < 3] for group, of in groups.items()}
    before = {group: Sample().add(keys_of(of), len(of), capacity) for group, of in old.items() if of}
    kept = [
        row
        for group, sample in before.items()
        for row, keep in zip(old[group], below(keys_of(old[group]), sample.threshold), strict=True)
        if keep
    ]
    expected = {group: Sample().add(keys_of(of), len(of), capacity) for group, of in groups.items()}
    expected_rows = [
        row
        for group, of in groups.items()
        for row, keep in zip(of, below(keys_of(of), expected[group].threshold), strict=True)
        if keep
    ]
    assert len(expected_rows) == (300 + 200 + 300 if by_span else 300)

    write(tmp_path / "kept", kept)
    write(tmp_path / "new", spans[3], shards=3)
    with beam.Pipeline(options=PipelineOptions(IN_PROCESS)) as pipeline:
        rows_of = [
            pipeline | name >> ReadKeyed(str(tmp_path / name / "data_tfrecord-*"), SEED)
            for name in ("kept", "new")
        ]
        below_threshold, samples = tuple(rows_of) | SampleBottomK(capacity, by_span, before)
        records = below_threshold | beam.FlatMapTuple(lambda _, records: records.to_pylist())
        assert_that(records | beam.Map(id_of), equal_to(expected_rows), label="rows")
        assert_that(samples, equal_to(list(expected.items())), label="samples")
        counts = rows_of[0] | "Count" >> CountBySpan()
        of_kept = {span: sum(row[0] == span for row in kept) for span in (1, 2)}
        assert_that(counts, equal_to([{span: n for span, n in of_kept.items() if n}]), label="counts")


def test_rows_of_other_spans_are_left_as_they_are():
    rows = np.array([3, 1, 3, 2]), np.array([9, 8, 7, 6], np.uint64), pa.array([b"a", b"b", b"c", b"d"])
    keys, records = leave_out(rows, frozenset({3, 5}))
    assert (keys.tolist(), records.to_pylist()) == ([8, 6], [b"b", b"d"])
    assert leave_out(rows, frozenset({1, 2, 3}))[1].to_pylist() == []


def test_records_are_in_the_order_of_their_keys_however_they_come():
    batches = [
        (np.array([2**64 - 1, 5], np.uint64), pa.array([b"last", b"second"])),
        (np.array([7, 0], np.uint64), pa.array([b"third", b"first"])),
        (np.array([], np.uint64), pa.array([], pa.binary())),
    ]
    for order in itertools.permutations(batches):
        assert in_order(order) == [b"first", b"second", b"third", b"last"]
