"""Small literals that the tests of ingest share."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow_metadata.proto.v0 import schema_pb2

from components.ingest.recipe import Source


@pytest.fixture
def schema() -> schema_pb2.Schema:
    """n: INT, x: FLOAT, word: BYTES, and the bookkeeping features."""
    schema = schema_pb2.Schema()
    for name, kind in [("n", schema_pb2.INT), ("x", schema_pb2.FLOAT), ("word", schema_pb2.BYTES)]:
        schema.feature.add(name=name, type=kind)
    for name in ("span", "example_id"):
        schema.feature.add(name=name, type=schema_pb2.INT)
    return schema


@pytest.fixture
def source() -> Source:
    return Source(span=3, path="/data/3/a.csv", name="a.csv", order=0)


def example(**features: list) -> bytes:
    """A serialized tf.Example; an empty list is a feature without a value."""
    made = example_pb2.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kinds = {int: feature.int64_list, float: feature.float_list, bytes: feature.bytes_list}
        if values:
            kinds[type(values[0])].value.extend(values)
    return made.SerializeToString()


def write_records(path: Path, records: list[bytes], compression: str = "") -> Path:
    """A TFRecord file as TensorFlow writes it."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path
