"""What a model says of the buffer's examples, kept in them; and that whoever reads them is not disturbed."""

import shutil

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from tfx.types import standard_artifacts

from components.beam_memory import remembered
from components.names import EXAMPLE_ID, LOGITS
from components.replay.beam import ReadRows, decoded, numbers
from components.replay.component import empty_meta, write_meta
from components.replay.logic import Scheme, sample_keys
from components.replay.logits import Executor, stamped

BEAM = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
SEED = 7


def save_model(folder, factor):
    """A SavedModel whose outputs are the factor times a 1024th of the id, and the factor."""
    module = tf.Module()

    def logits(examples):
        ids = tf.io.parse_example(examples, {EXAMPLE_ID: tf.io.FixedLenFeature([], tf.int64)})[EXAMPLE_ID]
        first = factor * tf.cast(ids, tf.float32) / 1024
        return tf.stack([first, tf.fill(tf.shape(first), float(factor))], axis=1)

    module.logits = tf.function(logits, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(folder / "Format-Serving"))
    model = standard_artifacts.Model()
    model.uri = str(folder)
    return model


def artifact(folder):
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(folder), '["train", "eval"]'
    return examples


def remember(folder, base, model):
    folder.mkdir()
    with remembered():
        Executor(Executor.Context(beam_pipeline_args=list(BEAM))).Do(
            {"buffer": [artifact(base)], "model": [model]}, {"remembered": [artifact(folder)]}, {}
        )
    return folder


def records(folder):
    files = [str(file) for file in folder.glob("data_tfrecord-*")]
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def logits_of(record):
    features = tf.train.Example.FromString(record).features.feature
    return features[EXAMPLE_ID].int64_list.value[0], list(features[LOGITS].float_list.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / str(factor), factor) for factor in (1, -2)]


@pytest.fixture
def buffer(tmp_path, write):
    """600 training examples in the order of a buffer, and held-out ones."""
    rows = sorted(((1, i) for i in range(600)), key=lambda row: sample_keys(np.array([row[1]]), SEED)[0])
    write(tmp_path / "buffer" / "Split-train", rows, more=lambda row: {"miles": row[1] / 2})
    write(tmp_path / "buffer" / "Split-eval", rows[:50])
    write_meta(str(tmp_path / "buffer"), empty_meta(Scheme("reservoir"), SEED))
    return tmp_path / "buffer"


def test_every_training_example_has_the_outputs_of_the_model_and_its_place(tmp_path, buffer, models):
    stamped_once = remember(tmp_path / "out", buffer, models[0])
    before, after = (records(folder / "Split-train") for folder in (buffer, stamped_once))
    ids = [tf.train.Example.FromString(r).features.feature[EXAMPLE_ID].int64_list.value[0] for r in before]
    assert [logits_of(record) for record in after] == [(i, [i / 1024, 1.0]) for i in ids]
    for old, new in zip(before, after, strict=True):  # and all that it had
        example = tf.train.Example.FromString(new)
        del example.features.feature[LOGITS]
        assert example == tf.train.Example.FromString(old)
    assert records(stamped_once / "Split-eval") == records(buffer / "Split-eval")
    assert (stamped_once / "sample.json").read_bytes() == (buffer / "sample.json").read_bytes()


def test_an_example_keeps_the_outputs_of_the_time_when_it_was_learned(tmp_path, buffer, models):
    old = records(buffer / "Split-train")
    mixed = [
        stamped(record, np.array([5.0], np.float32)) if i % 3 else record for i, record in enumerate(old)
    ]
    shutil.rmtree(buffer / "Split-train")
    (buffer / "Split-train").mkdir()
    with tf.io.TFRecordWriter(str(buffer / "Split-train" / "data_tfrecord-0.gz"), "GZIP") as writer:
        for record in mixed:
            writer.write(record)
    after = records(remember(tmp_path / "out", buffer, models[1]) / "Split-train")
    for i, record in enumerate(after):
        if i % 3:
            assert record == mixed[i]  # byte for byte
        else:
            assert logits_of(record)[1][1] == -2.0


def test_the_feature_disturbs_no_reader(tmp_path, buffer, models):
    out = remember(tmp_path / "out", buffer, models[0])
    pattern = str(out / "Split-train" / "data_tfrecord-*")
    with beam.Pipeline(options=PipelineOptions(BEAM[:1])) as pipeline:
        batches = pipeline | ReadRows(pattern, {}, records=True)
        ids = batches | beam.FlatMap(lambda batch: numbers(batch, EXAMPLE_ID).tolist())
        assert_that(ids, equal_to(list(range(600))))
    # As Transform and the trainer read: by the schema, of which it is no part.
    (batch,) = decoded(pattern, {"miles": 3})
    assert set(batch.schema.names) == {"span", EXAMPLE_ID, "miles"}
    assert sorted(batch.column("miles").flatten().to_pylist()) == [i / 2 for i in range(600)]
    assert isinstance(batch, pa.RecordBatch)
