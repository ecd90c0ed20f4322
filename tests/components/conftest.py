"""Transform graphs really fitted on a small deployment, shared by the rooms that need one."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.features import Categorical, Feature, Identity, Numeric, to_json
from components.label import Label

Row = dict[str, Any]  # column -> value; None: missing

Types = Mapping[str, str]  # column -> INT, FLOAT or BYTES

LABEL = Label(name="big")
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
FEATURES: list[Feature] = [
    Numeric(name="log_fare", column="fare", log=True),
    Categorical(name="company", oov_buckets=3),
    Numeric(name="miles"),
    Categorical(name="area_code", column="area", top_k=3),
    Identity(name="hour", min=1, max=4),
    Numeric(name="passengers"),
    Numeric(name="tolls"),
    Categorical(name="rare", min_count=1000),
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

    def __init__(self, path: Path, rows: Sequence[Row], types: Types) -> None:
        import tensorflow_transform as tft

        self.path, self.rows, self.types = path, rows, types
        self.output = tft.TFTransformOutput(str(path))
        self.layer = self.output.transform_features_layer()

    def terms(self, feature: str) -> list[str]:
        terms = self.output.vocabulary_by_name(f"{feature}_vocabulary")
        return [term.decode("utf-8", "surrogateescape") for term in terms]

    def __call__(self, rows: Sequence[Row], without: Sequence[str] = ()) -> dict[str, Any]:
        """Raw rows through the graph, but for some columns: name -> array, or lists of a sparse one."""
        import tensorflow as tf

        spec = {k: v for k, v in self.output.raw_feature_spec().items() if k not in without}
        examples = tf.constant(serialize(rows, self.types), tf.string)
        transformed = self.layer(tf.io.parse_example(examples, spec))
        return {name: as_numpy(tensor) for name, tensor in transformed.items()}


def as_numpy(tensor: Any) -> Any:
    import tensorflow as tf

    if isinstance(tensor, tf.SparseTensor):
        return tf.RaggedTensor.from_sparse(tensor).to_list()
    return tensor.numpy()


def serialize(rows: Sequence[Row], types: Types = TYPES) -> list[bytes]:
    """Rows as tf.Examples; a value may be a list."""
    import tensorflow as tf

    def feature(name: str, value: Any) -> tf.train.Feature:
        values = value if isinstance(value, list) else [value]
        if types[name] == "BYTES":
            values = [v.encode() if isinstance(v, str) else v for v in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if types[name] == "INT":
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={name: feature(name, v) for name, v in row.items() if v is not None}
            )
        ).SerializeToString()
        for row in rows
    ]


def fit(
    tables: Mapping[str, Sequence[Row]],
    folder: Path,
    types: Types = TYPES,
    features: Sequence[Feature] = FEATURES,
    label: Label = LABEL,
    **config: Any,
) -> dict[str, Graph]:
    """Fits the project's preprocessing on each table, in batches of 50; `config` goes to it, too."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
    from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

    from components.beam_memory import remembered
    from components.transform.preprocessing import preprocessing_fn

    schema = schema_pb2.Schema()
    for name, kind in types.items():
        column = schema.feature.add(name=name, type=schema_pb2.FeatureType.Value(kind))
        column.value_count.min = 0
    metadata = DatasetMetadata(schema)
    config = {
        "features": to_json(features),
        "label": label.model_dump(),
        "label_state": None,
        "module": None,
        "kept": {},
        **config,
    }
    decoder = ExamplesToRecordBatchDecoder(schema.SerializeToString())
    adapter = TensorAdapterConfig(decoder.ArrowSchema(), InferTensorRepresentationsFromSchema(schema))
    options = PipelineOptions(
        ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner", "--sdk_container_image=unused"]
    )
    with remembered(), beam.Pipeline(options=options) as pipeline:
        for name, rows in tables.items():
            records = serialize(rows, types)
            batches = [decoder.DecodeBatch(records[i : i + 50]) for i in range(0, len(records), 50)]
            # A vocabulary lies under its name in the temporary folder, so each fit has one of its own.
            with tft_beam.Context(temp_dir=str(folder / name / "temp")):
                data = pipeline | f"Read {name}" >> beam.Create(batches, reshuffle=False)
                graph = (data, adapter) | f"Analyze {name}" >> tft_beam.AnalyzeDataset(
                    functools.partial(preprocessing_fn, custom_config=config)
                )
                _ = graph | f"Write {name}" >> tft_beam.WriteTransformFn(str(folder / name))
            _ = metadata | f"Describe {name}" >> tft_beam.WriteMetadata(
                str(folder / name / "metadata"), pipeline
            )
    return {name: Graph(folder / name, rows, types) for name, rows in tables.items()}


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


@pytest.fixture(scope="session", name="fit")
def fit_fixture() -> Any:
    return fit


@pytest.fixture(scope="session", name="serialize")
def serialize_fixture() -> Any:
    return serialize
