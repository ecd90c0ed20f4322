"""Small literals that the tests of ingest share."""

from __future__ import annotations

import pytest
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
