"""Small models over every kind of column that TFLite can take, and a buffer to hold them against."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.features import (
    Bucketized,
    Categorical,
    Feature,
    Identity,
    Numeric,
    Tensor,
    Timestamp,
    raw_columns,
    to_json,
)
from components.label import Label
from components.models import WideAndDeep

COLUMNS = {
    "fare": "FLOAT",
    "miles": "FLOAT",
    "passengers": "INT",
    "company": "BYTES",
    "area": "INT",
    "hour": "INT",
    "when": "INT",
    "pixels": "FLOAT",
    "big": "INT",
    "colour": "BYTES",
    "span": "INT",
    "example_id": "INT",
}
KINDS: list[Feature] = [
    Numeric(name="log_fare", column="fare", log=True),
    Numeric(name="passengers"),
    Bucketized(name="miles", buckets=4),
    Categorical(name="company"),
    Categorical(name="area_code", column="area"),
    Identity(name="hour", min=1, max=4),
    Timestamp(name="when", parts=["hour", "day_of_week", "month"]),
    Tensor(name="pixels", shape=[2, 2, 1]),
]
COLOURS = ["red", "grün", "blue"]
BEGIN = int(datetime.datetime(1965, 3, 1, tzinfo=datetime.UTC).timestamp())  # times before 1970, too


def rows(count: int) -> list[dict[str, Any]]:
    made = []
    for i in range(count):
        fare = None if i % 11 == 0 else (-2.0, 0.0, 3.5, 12.25, 20.0)[i % 5] * (1 + i % 3)
        company = ("ann", None, "çyd", "dan", "ann")[i % 5]
        made.append(
            {
                "fare": fare,
                "miles": None if i % 7 == 0 else i * 37 % 101 / 10 - 3,
                "passengers": None if i % 4 == 0 else i % 6,
                "company": company,
                "area": (7, -8, None, 9)[i % 4],
                "hour": None if i % 9 == 0 else i % 6,
                "when": None if i % 13 == 0 else BEGIN + i * 8_640_123,
                "pixels": [float(i % 7), 0.5, float(i % 3), -1.0][: 4 - i % 2],
                "big": int((fare or 0.0) > 3.0),
                "colour": COLOURS[0 if (fare or 0.0) > 3.0 else 1 + (company == "ann")],
                "span": 1,
                "example_id": i,
            }
        )
    return made


class Trained:
    """A SavedModel, as the trainer exports it, of a model that has learned a little.

    Attributes:
        model: its artifact's folder.
        columns: the raw columns that a request holds.
    """

    def __init__(self, folder: Path, graph: Any, label: Label) -> None:
        import keras
        import numpy as np
        import tensorflow as tf

        from components.train.examples.graph import Graph
        from components.train.export.saved_model import export
        from components.train.model.build import build
        from components.train.model.state import TrainingState

        self.model, self.columns = folder, raw_columns(KINDS)
        multiclass = label.task == "multiclass"
        known = Graph(str(graph.path), KINDS, self.columns, Label(name="big"))
        state = TrainingState(
            features=to_json(KINDS),
            model=WideAndDeep(hidden=[8], embedding_dim=4).model_dump(),
            optimizer="adam",
            vocabularies=known.vocabularies(),
            step=0,
            task=label.task,
            label={**known.label_state().model_dump(), "classes": COLOURS if multiclass else []},
            fit=known.fit(),
        )
        model, _ = build(state, known.own, {"seed": 0, "clipnorm": 1.0})
        parse = known.parser([tensor.name for tensor in model.inputs], None)
        examples = tf.constant(graph.examples)
        inputs, target = parse(examples, tf.zeros_like(examples, tf.bool))
        if multiclass:
            target = np.array([COLOURS.index(row["colour"]) for row in graph.rows])
        loss = (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            if multiclass
            else keras.losses.BinaryCrossentropy(from_logits=True)
        )
        model.compile(keras.optimizers.Adam(0.05), loss)
        model.fit(inputs, target, epochs=8, batch_size=60, verbose=0)
        classes = COLOURS if multiclass else []
        export(model, known.layer, known.kinds, label, classes, {}, str(folder / "Format-Serving"))


@pytest.fixture(scope="session")
def edge_graph(fit: Callable, serialize: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    table, folder = rows(240), tmp_path_factory.mktemp("edge")
    graph = fit({"edge": table}, folder, COLUMNS, KINDS, Label(name="big"))["edge"]
    graph.examples = serialize(table, COLUMNS)
    return graph


@pytest.fixture(scope="session")
def buffer(edge_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `Split-train` and `Split-eval`."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("buffer")
    for split in ("train", "eval"):
        file = folder / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        file.parent.mkdir()
        with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
            for example in edge_graph.examples:
                writer.write(example)
    return folder


@pytest.fixture(scope="session")
def trained(edge_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    known: dict[str, Trained] = {}

    def of(task: str) -> Trained:
        if task not in known:
            label = Label(name={"binary": "big", "multiclass": "colour"}[task], task=task)
            known[task] = Trained(tmp_path_factory.mktemp(task), edge_graph, label)
        return known[task]

    return of
