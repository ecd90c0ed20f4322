"""The Beam sample over real TFRecords against the pure logic."""

import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from components.replay import logic
from components.replay.beam import CountBySpan, Draw, MergeSketches, ReadRows, in_order
from components.replay.logic import Quota, Scheme, sample_keys

SEED = 3
IN_PROCESS = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]


def ranks_of(rows, scheme):
    spans, ids = np.array(rows).T
    return scheme.ranks(sample_keys(ids, SEED), spans)


def id_of(record):
    example = tf.train.Example.FromString(record)
    return tuple(example.features.feature[name].int64_list.value[0] for name in ("span", "example_id"))


@pytest.mark.parametrize(
    "scheme",
    [Scheme("reservoir"), Scheme("per_span"), Scheme("recency", half_life=1.0)],
    ids=lambda scheme: scheme.name,
)
def test_the_sample_is_that_of_the_logic(tmp_path, rows, write, scheme):
    quota = Quota(650)
    spans = {span: rows(span, count) for span, count in {1: 6000, 2: 200, 3: 5000}.items()}
    everything = [row for of in spans.values() for row in of]
    names, index = scheme.groups(np.array(everything)[:, 0], [])
    ranks = ranks_of(everything, scheme)
    expected = logic.draw(logic.sketch(names, index, ranks, {}, quota), {}, quota)
    kept = logic.keep(names, index, ranks, expected)
    expected_rows = [row for row, keep in zip(everything, kept, strict=True) if keep]
    sizes = [sum(row[0] == span for row in expected_rows) for span in spans]
    assert sum(sizes) == 650 and (sizes == [225, 200, 225]) == (scheme.name == "per_span")

    for span, of in spans.items():
        write(tmp_path / str(span), of, shards=span)
    patterns = [str(tmp_path / str(span) / "data_tfrecord-*") for span in spans]
    draw = Draw(scheme, SEED, quota, {})
    with beam.Pipeline(options=PipelineOptions(IN_PROCESS)) as pipeline:
        parts = [pipeline | pattern >> ReadRows(pattern, {}, records=True) for pattern in patterns]
        batches = parts | beam.Flatten()
        sketches = (
            batches
            | "Sketch" >> beam.Map(draw.sketch)
            | "Merge" >> beam.CombineGlobally(MergeSketches(quota))
        )
        thresholds = sketches | beam.Map(lambda sketch: logic.draw(sketch, {}, quota))
        kept = batches | beam.Map(draw.keep, beam.pvalue.AsSingleton(thresholds))
        records = kept | beam.FlatMapTuple(lambda _, records: records.to_pylist())
        assert_that(records | beam.Map(id_of), equal_to(expected_rows), label="rows")
        assert_that(thresholds, equal_to([expected]), label="thresholds")
        counts = batches | CountBySpan()
        assert_that(counts, equal_to([{1: 6000, 2: 200, 3: 5000}]), label="counts")


def test_records_are_in_the_order_of_their_keys_however_they_come():
    batches = [
        (np.array([2**64 - 1, 5], np.uint64), pa.array([b"last", b"second"])),
        (np.array([7, 0], np.uint64), pa.array([b"third", b"first"])),
        (np.array([], np.uint64), pa.array([], pa.binary())),
    ]
    for order in itertools.permutations(batches):
        assert in_order(order) == [b"first", b"second", b"third", b"last"]
