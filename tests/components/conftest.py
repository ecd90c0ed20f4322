"""Transform graphs really fitted on a small deployment, shared by the rooms that need one."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.features import Feature, to_json

Row = dict[str, Any]  # column -> value; None: missing

LABEL = "big"
TYPES = {
    "fare": "FLOAT",
    "miles": "FLOAT",
    "tolls": "FLOAT",
    "passengers": "INT",
    "company": "BYTES",
    "rare": "BYTES",
    "area": "INT",
    "hour": "INT",
    "big": "INT",
    "span": "INT",
    "example_id": "INT",
}
FEATURES = [
    Feature("log_fare", "fare", "numeric", log=True),
    Feature("company", "company", "categorical", oov_buckets=3),
    Feature("miles", "miles", "numeric"),
    Feature("area_code", "area", "categorical", top_k=3),
    Feature("hour", "hour", "identity", min=1, max=4),
    Feature("passengers", "passengers", "numeric"),
    Feature("tolls", "tolls", "numeric"),
    Feature("rare", "rare", "categorical", min_count=1000),
]
# How often each value is there. "dan" and -8 are gone later; "eve", "fay", "gus", "hal" and 12 are new.
COMPANIES = {"ann": 70, "bob ": 60, None: 40, "çyd": 30, "dan": 25, "d\nd": 15}
AREAS = {7: 90, -8: 60, 9: 50, None: 40}
LATER_COMPANIES = {"eve": 60, "çyd": 50, "bob ": 40, "fay": 30, None: 25, "gus": 15, "ann": 12, "hal": 8}
LATER_AREAS = {12: 80, 9: 70, 7: 60, None: 30}


def make_rows(span: int, companies: Mapping[Any, int], areas: Mapping[Any, int]) -> list[Row]:
    """240 rows whose numbers are always the same, and whose categories are as often there as told."""
    company, area = ([v for v, n in counts.items() for _ in range(n)] for counts in (companies, areas))
    random.Random(1).shuffle(company)
    random.Random(2).shuffle(area)
    return [
        {
            "fare": None if i % 7 == 0 else (-2.0, 0.0, 3.5, 12.25, 80.0)[i % 5] * (1 + i % 3),
            "miles": None if i < 100 or i % 11 == 0 else i * 37 % 101 / 10 - 3,
            "tolls": None,
            "passengers": None if i % 4 == 0 else i % 6,
            "company": company[i],
            "rare": None if i % 2 else "q",
            "area": area[i],
            "hour": None if i % 9 == 0 else i % 6,
            "big": int(company[i] in ("ann", "çyd", "eve")),
            "span": span,
            "example_id": span * 1000 + i,
        }
        for i in range(240)
    ]


class Graph:
    """A transform graph as TFX leaves it, with what it was fitted on."""

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        import tensorflow_transform as tft

        self.path, self.rows = path, rows
        self.output = tft.TFTransformOutput(str(path))
        self.layer = self.output.transform_features_layer()

    def terms(self, feature: str) -> list[str]:
        return [term.decode() for term in self.output.vocabulary_by_name(f"{feature}_vocabulary")]

    def columns(self, *more: str) -> dict[str, Any]:
        """The specs of the columns that the features read."""
        spec = self.output.raw_feature_spec()
        return {name: spec[name] for name in sorted({f.column for f in FEATURES} | {*more})}

    def __call__(self, rows: Sequence[Row], label: bool = False) -> dict[str, Any]:
        """Raw rows through the graph: name -> array."""
        import tensorflow as tf

        raw = tf.io.parse_example(serialize(rows), self.columns(*([LABEL] if label else [])))
        return {name: tensor.numpy() for name, tensor in self.layer(raw).items()}


def serialize(rows: Sequence[Row]) -> list[bytes]:
    """Rows as tf.Examples."""
    import tensorflow as tf

    def feature(name: str, value: Any) -> tf.train.Feature:
        if TYPES[name] == "BYTES":
            value = value.encode() if isinstance(value, str) else value
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if TYPES[name] == "INT":
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={name: feature(name, v) for name, v in row.items() if v is not None}
            )
        ).SerializeToString()
        for row in rows
    ]


def fit(tables: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, Graph]:
    """Fits the project's preprocessing on each table, in batches of 50."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata

    from components.beam_memory import remembered
    from components.transform.preprocessing import preprocessing_fn

    schema = schema_pb2.Schema()
    for name, kind in TYPES.items():
        column = schema.feature.add(name=name, type=schema_pb2.FeatureType.Value(kind))
        column.value_count.min = column.value_count.max = 1
    metadata = DatasetMetadata(schema)
    config = {"features": to_json(FEATURES), "label": LABEL}
    options = PipelineOptions(
        ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner", "--sdk_container_image=unused"]
    )
    with remembered(), beam.Pipeline(options=options) as pipeline:
        for name, rows in tables.items():
            instances = [{column: [] if v is None else [v] for column, v in row.items()} for row in rows]
            # A vocabulary lies under its name in the temporary folder, so each fit has one of its own.
            with tft_beam.Context(temp_dir=str(folder / name / "temp"), desired_batch_size=50):
                data = pipeline | f"Read {name}" >> beam.Create(instances, reshuffle=False)
                graph = (data, metadata) | f"Analyze {name}" >> tft_beam.AnalyzeDataset(
                    functools.partial(preprocessing_fn, custom_config=config)
                )
                _ = graph | f"Write {name}" >> tft_beam.WriteTransformFn(str(folder / name))
            _ = metadata | f"Describe {name}" >> tft_beam.WriteMetadata(
                str(folder / name / "metadata"), pipeline
            )
    return {name: Graph(folder / name, rows) for name, rows in tables.items()}


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """Fitted on span 1, and refitted on span 2: the same numbers, other terms in another order."""
    tables = {
        "before": make_rows(1, COMPANIES, AREAS),
        "after": make_rows(2, LATER_COMPANIES, LATER_AREAS),
    }
    return fit(tables, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="session")
def before(graphs: dict[str, Graph]) -> Graph:
    return graphs["before"]


@pytest.fixture(scope="session")
def after(graphs: dict[str, Graph]) -> Graph:
    return graphs["after"]


@pytest.fixture(scope="session")
def graph_features() -> list[Feature]:
    return FEATURES


@pytest.fixture(scope="session", name="serialize")
def serialize_fixture() -> Any:
    return serialize
