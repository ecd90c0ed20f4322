"""Tiny SavedModels over one number, and what a training would have recorded of their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FARES = np.array([0.5, -1.0, 2.0, np.nan, 0.0, 3.5, -0.25], np.float32)
CLASSES = np.array([b"red", b"gr\xc3\xbcn", b"blue"], object)
METHODS = {
    "classify": "tensorflow/serving/classify",
    "regress": "tensorflow/serving/regress",
}


def answers(task: str, fares: np.ndarray) -> dict[str, np.ndarray]:
    """What a model of the task answers, in NumPy; a missing fare counts as 0."""
    known = np.where(np.isnan(fares), 0.0, fares)
    if task == "binary":
        return {"predictions": 1 / (1 + np.exp(-known))}
    if task == "regression":
        return {"predictions": 2000.0 + 3.0 * known}
    scores = np.exp(np.stack([known, -known, -0.5 * np.ones_like(known)], axis=1))
    return {
        "classes": np.tile(CLASSES, (len(fares), 1)),
        "scores": scores / scores.sum(axis=1, keepdims=True),
    }


class Exported:
    """A folder as the trainer leaves it.

    Attributes:
        request: as `components.smoke.ask.look` takes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved_model = folder, folder / "Format-Serving"
        self.expected = folder / "checkpoint" / "expected_answers"
        self.request = {
            "saved_model": str(self.saved_model),
            "expected": str(self.expected),
            "max_difference": 1e-5,
        }

    def record(self, *logs: Any, file: Path | None = None) -> None:
        """Writes requests, with or without responses."""
        import tensorflow as tf

        path = file or self.expected
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for log in logs:
                writer.write(log.SerializeToString())


def unchanged(answer: dict[str, Any]) -> dict[str, Any]:
    return answer


def graph_of(task: str) -> Callable[[Any], dict[str, Any]]:
    """`answers` in TensorFlow, with the most likely class."""
    import tensorflow as tf

    def answer(fares: tf.Tensor) -> dict[str, tf.Tensor]:
        known = tf.where(tf.math.is_nan(fares), tf.zeros_like(fares), fares)
        if task == "binary":
            return {"predictions": tf.sigmoid(known)}
        if task == "regression":
            return {"predictions": 2000.0 + 3.0 * known}
        scores = tf.nn.softmax(tf.stack([known, -known, -0.5 * tf.ones_like(known)], 1))
        classes = tf.constant(CLASSES)
        return {
            "classes": tf.tile(classes[None], [tf.shape(scores)[0], 1]),
            "scores": scores,
            "predictions": tf.gather(classes, tf.argmax(scores, 1)),
        }

    return answer


def of_method(name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of `classify` or `regress`, of an answer in NumPy or TensorFlow."""
    import tensorflow as tf

    if name == "regress":
        return {"outputs": answer["predictions"]}
    if "scores" in answer:
        return {"classes": answer["classes"], "scores": answer["scores"]}
    p = answer["predictions"]
    return {
        "classes": tf.tile(tf.constant([[b"0", b"1"]]), [tf.shape(p)[0], 1]),
        "scores": tf.stack([1 - p, p], 1),
    }


def logs_of(task: str) -> list[Any]:
    """The requests to every signature for `FARES`, with the responses."""
    import tensorflow as tf

    from components.train.export.requests import Requests, answered

    rows = [
        tf.train.Example(
            features=tf.train.Features(
                feature={}
                if np.isnan(fare)
                else {"fare": tf.train.Feature(float_list=tf.train.FloatList(value=[fare]))}
            )
        ).SerializeToString()
        for fare in FARES
    ]
    requests = Requests({"fare": (tf.float32, False)}, {"serving_raw": ["fare"]})
    known = {
        name: v if v.dtype == object else v.astype(np.float32) for name, v in answers(task, FARES).items()
    }
    names = {"binary": [*METHODS], "multiclass": ["classify"], "regression": ["regress"]}[task]
    return [answered(requests.of(name, rows), known) for name in ("serving_default", "serving_raw", *names)]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Saves a model that answers as recorded, but for what is changed.

    `by_example` and `by_column` change what a signature answers, None leaves it out; `classify` changes that
    of the signature of this name; `others` are signatures beside: name -> what it answers of a fare, [batch].
    """
    import tensorflow as tf

    def make(
        task: str = "binary",
        by_example: Callable | None = unchanged,
        by_column: Callable | None = unchanged,
        classify: Callable = unchanged,
        others: Mapping[str, Callable] | None = None,
        methods: Mapping[str, str] = METHODS,
    ) -> Exported:
        exported, module = Exported(tmp_path_factory.mktemp("model")), tf.Module()
        answer, logs = graph_of(task), logs_of(task)

        def over_examples(name: str, change: Callable) -> Any:
            spec = {"fare": tf.io.FixedLenFeature([], tf.float32, float("nan"))}
            return tf.function(
                lambda inputs: change(answer(tf.io.parse_example(inputs[name], spec)["fare"])),
                input_signature=[{name: tf.TensorSpec([None], tf.string, name=name)}],
            )

        def over_fares(change: Callable) -> Any:
            return tf.function(change, input_signature=[tf.TensorSpec([None], tf.float32, name="fare")])

        def of(name: str) -> Callable:
            change = classify if name == "classify" else unchanged
            return lambda answered: change(of_method(name, answered))

        signatures = {"serving_default": over_examples("examples", by_example)} if by_example else {}
        if by_column:
            signatures["serving_raw"] = over_fares(lambda fare: by_column(answer(fare)))
        for name in {log.WhichOneof("log_type").removesuffix("_log") for log in logs} - {"predict"}:
            signatures[name] = over_examples("inputs", of(name))
        for name, of_fare in (others or {}).items():
            signatures[name] = over_fares(of_fare)
        module.functions = dict(signatures)
        tf.saved_model.save(module, str(exported.saved_model), signatures=signatures)
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(exported.saved_model))
        for name in methods.keys() & signatures.keys():
            updater.replace_method_name(name, methods[name])
        updater.save()
        exported.record(*logs)
        return exported

    return make
