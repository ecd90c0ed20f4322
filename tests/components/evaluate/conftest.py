"""A small data set, SavedModels of every task over it, and what the stock Evaluator makes of them."""

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
from tiny_models import MEAN_PRICE, PRICE, TYPES, answer

from components.evaluate.logic import METRICS
from components.label import Label

BEAM = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
SCHEMA = "".join(f'feature {{ name: "{name}" type: {kind} }}\n' for name, kind in TYPES.items())
SLICES = [["company"], ["span", "company"]]


@pytest.fixture(scope="session")
def held_out() -> list[dict[str, Any]]:
    """Spans 1 and 2, where `fare` tells something of the labels, and 3, where all labels are the same."""
    rng = np.random.default_rng(5)
    labels = [*(int(x) for x in rng.random(600) < 0.4), *[1] * 40]
    rows = []
    for i, label in enumerate(labels):
        fare = float(np.float32(rng.normal(label)))
        colour = ("green", "red", "umber", "déjà")[label if i % 5 else 2 + i % 2]
        rows.append(
            {
                "span": 1 + i // 300,
                "example_id": i,
                "big": label,
                "colour": colour if i < 600 else "red",
                "price": float(np.float32(MEAN_PRICE + PRICE * (fare + rng.normal())))
                if i < 600
                else MEAN_PRICE,
                "fare": fare if i % 10 else None,
                "company": ("ann", "b/ç", None)[i % 3],
                "Trip Words": (None, "a", ["a", "b"])[i % 3],
                "weight": (0.0, 0.5, 1.0, 4.0)[i * 7 % 4],
            }
        )
    return rows


@pytest.fixture(scope="session")
def write_examples(serialize, tmp_path_factory) -> Callable[..., standard_artifacts.Examples]:
    def write(rows: Sequence[dict[str, Any]]) -> standard_artifacts.Examples:
        import tensorflow as tf

        artifact = standard_artifacts.Examples()
        artifact.uri = str(tmp_path_factory.mktemp("examples"))
        artifact.split_names = '["train", "eval"]'
        folder = Path(artifact.uri, "Split-eval")
        folder.mkdir()
        # Two files, so that there are several batches to merge.
        for number in range(2):
            path = folder / f"data_tfrecord-{number:05}-of-00002.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for record in serialize(rows[number::2], TYPES):
                    writer.write(record)
        return artifact

    return write


@pytest.fixture(scope="session")
def examples(held_out, write_examples) -> standard_artifacts.Examples:
    return write_examples(held_out)


@pytest.fixture(scope="session")
def save_model(tmp_path_factory) -> Callable[..., standard_artifacts.Model]:
    """Saves a model that answers by the fare, and a little by the number of words."""
    import tensorflow as tf

    def save(task: str = "binary", weight: float = 1.0) -> standard_artifacts.Model:
        module = tf.Module()
        answers = answer(task, weight)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            spec = {
                "fare": tf.io.FixedLenFeature([], tf.float32, float("nan")),
                "Trip Words": tf.io.VarLenFeature(tf.string),
            }
            parsed = tf.io.parse_example(examples, spec)
            fare, words = parsed["fare"], tf.sparse.to_dense(parsed["Trip Words"], "")
            told = tf.reduce_sum(tf.cast(words != "", tf.float32), -1)
            return answers(tf.where(tf.math.is_nan(fare), 0.0, fare) + 1e-3 * (told - 1.0))

        module.by_example = serving_default
        artifact = standard_artifacts.Model()
        artifact.uri = str(tmp_path_factory.mktemp("model"))
        folder = str(Path(artifact.uri, "Format-Serving"))
        tf.saved_model.save(module, folder, signatures={"serving_default": serving_default})
        return artifact

    return save


@pytest.fixture(scope="session")
def candidate(save_model) -> standard_artifacts.Model:
    return save_model()


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory) -> Callable[..., standard_artifacts.ModelEvaluation]:
    """Runs the stock Evaluator, as `pipeline.graph` sets it up, for all metrics of the label's task."""
    from tfx.components.evaluator.executor import Executor

    from components.beam_memory import remembered
    from components.evaluate.component import eval_config

    schema = standard_artifacts.Schema()
    schema.uri = str(tmp_path_factory.mktemp("schema"))
    text = text_format.MessageToString(text_format.Parse(SCHEMA, schema_pb2.Schema()))
    Path(schema.uri, "schema.pbtxt").write_text(text)

    def run(
        examples: standard_artifacts.Examples, label: Label, models: Sequence[standard_artifacts.Model]
    ) -> standard_artifacts.ModelEvaluation:
        output = standard_artifacts.ModelEvaluation()
        output.uri = str(tmp_path_factory.mktemp("evaluation"))
        inputs = {"examples": [examples], "schema": [schema], "model": [models[0]]}
        inputs |= {"baseline_model": [models[1]]} if len(models) > 1 else {}
        metrics = [name for name, metric in METRICS.items() if label.task in metric.tasks]
        config = eval_config(label, metrics, SLICES, baseline=len(models) > 1)
        with remembered():
            Executor(Executor.Context(beam_pipeline_args=list(BEAM))).Do(
                inputs,
                {"evaluation": [output]},
                {"eval_config": proto_utils.proto_to_json(config), "example_splits": '["eval"]'},
            )
        return output

    return run


@pytest.fixture(scope="session")
def of_both(evaluate, examples, save_model, candidate) -> standard_artifacts.ModelEvaluation:
    """Of the binary candidate and a champion that takes every fare for its opposite."""
    return evaluate(examples, Label(name="big"), [candidate, save_model(weight=-1.0)])


@pytest.fixture(scope="session")
def of_one(evaluate, examples, candidate) -> standard_artifacts.ModelEvaluation:
    return evaluate(examples, Label(name="big", example_weight="weight"), [candidate])
