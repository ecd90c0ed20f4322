"""A small data set, SavedModels over it, and what the stock Evaluator makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

BEAM = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
SCHEMA = "".join(
    f'feature {{ name: "{name}" type: {kind} }}\n'
    for name, kind in {"fare": "FLOAT", "company": "BYTES", "big": "INT", "span": "INT"}.items()
)
METRICS = ("auc", "pr_auc", "accuracy", "log_loss")
SLICES = [["company"], ["span", "company"]]


@pytest.fixture(scope="session")
def held_out() -> list[dict[str, Any]]:
    """Spans 1 and 2, where `fare` tells something of the label, and 3, where all labels are 1."""
    rng = np.random.default_rng(5)
    labels = [*(int(x) for x in rng.random(600) < 0.4), *[1] * 40]
    return [
        {
            "span": 1 + i // 300,
            "example_id": i,
            "big": label,
            "fare": float(np.float32(rng.normal(label))) if i % 10 else None,
            "company": ("ann", "b/ç", None)[i % 3],
        }
        for i, label in enumerate(labels)
    ]


@pytest.fixture(scope="session")
def examples(held_out, serialize, tmp_path_factory) -> standard_artifacts.Examples:
    import tensorflow as tf

    artifact = standard_artifacts.Examples()
    artifact.uri = str(tmp_path_factory.mktemp("examples"))
    artifact.split_names = '["train", "eval"]'
    path = Path(artifact.uri, "Split-eval", "data_tfrecord-00000-of-00001.gz")
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for record in serialize(held_out):
            writer.write(record)
    return artifact


@pytest.fixture(scope="session")
def save_model(tmp_path_factory) -> Callable[..., standard_artifacts.Model]:
    """Saves sigmoid(weight * fare), 0 where the fare is missing, with both signatures.

    `by_example` and `by_column` change what a signature answers; None leaves it out.
    """
    import tensorflow as tf

    class Scores(tf.Module):
        def __init__(self, weight: float, by_example: Callable, by_column: Callable) -> None:
            super().__init__()
            self.weight = tf.Variable(weight)
            self._by_example, self._by_column = by_example, by_column

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serving_default(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
            spec = {"fare": tf.io.FixedLenFeature([], tf.float32, 0.0)}
            fare = tf.io.parse_example(examples, spec)["fare"]
            return {"predictions": self._by_example(tf.sigmoid(self.weight * fare))}

        @tf.function(
            input_signature=[
                {
                    "fare": tf.TensorSpec([None], tf.float32, name="fare"),
                    "company": tf.TensorSpec([None], tf.string, name="company"),
                }
            ]
        )
        def serving_raw(self, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            fare = tf.where(tf.math.is_nan(columns["fare"]), 0.0, columns["fare"])
            return {"predictions": self._by_column(tf.sigmoid(self.weight * fare))}

    def unchanged(predictions: tf.Tensor) -> tf.Tensor:
        return predictions

    def save(
        weight: float = 1.0,
        by_example: Callable | None = unchanged,
        by_column: Callable | None = unchanged,
    ) -> standard_artifacts.Model:
        model = Scores(weight, by_example or unchanged, by_column or unchanged)
        signatures = {"serving_default": model.serving_default} if by_example else {}
        signatures |= {"serving_raw": model.serving_raw} if by_column else {}
        artifact = standard_artifacts.Model()
        artifact.uri = str(tmp_path_factory.mktemp("model"))
        tf.saved_model.save(model, str(Path(artifact.uri, "Format-Serving")), signatures=signatures)
        return artifact

    return save


@pytest.fixture(scope="session")
def candidate(save_model) -> standard_artifacts.Model:
    return save_model(1.0)


@pytest.fixture(scope="session")
def champion(save_model) -> standard_artifacts.Model:
    """It takes every fare for its opposite."""
    return save_model(-1.0)


@pytest.fixture(scope="session")
def evaluate(examples, tmp_path_factory) -> Callable[..., standard_artifacts.ModelEvaluation]:
    """Runs the stock Evaluator, as `pipeline.graph` sets it up."""
    from tfx.components.evaluator.executor import Executor

    from components.beam_memory import remembered
    from components.evaluate.component import eval_config

    schema = standard_artifacts.Schema()
    schema.uri = str(tmp_path_factory.mktemp("schema"))
    text = text_format.MessageToString(text_format.Parse(SCHEMA, schema_pb2.Schema()))
    Path(schema.uri, "schema.pbtxt").write_text(text)

    def run(models: Sequence[standard_artifacts.Model]) -> standard_artifacts.ModelEvaluation:
        output = standard_artifacts.ModelEvaluation()
        output.uri = str(tmp_path_factory.mktemp("evaluation"))
        inputs = {"examples": [examples], "schema": [schema], "model": [models[0]]}
        inputs |= {"baseline_model": [models[1]]} if len(models) > 1 else {}
        config = eval_config("big", METRICS, SLICES, baseline=len(models) > 1)
        with remembered():
            Executor(Executor.Context(beam_pipeline_args=list(BEAM))).Do(
                inputs,
                {"evaluation": [output]},
                {"eval_config": proto_utils.proto_to_json(config), "example_splits": '["eval"]'},
            )
        return output

    return run


@pytest.fixture(scope="session")
def of_both(evaluate, candidate, champion) -> standard_artifacts.ModelEvaluation:
    return evaluate([candidate, champion])


@pytest.fixture(scope="session")
def of_one(evaluate, candidate) -> standard_artifacts.ModelEvaluation:
    return evaluate([candidate])
