"""The models that the suite asks: `python -m tests.serving.conformance.calc_models FOLDER [SEEN_AT]`.

`calc` has versions 1, 2 and 3, which answer differently; FOLDER/models.config serves 1 and 2 of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serving.model_config import write_model_config

MODEL = "calc"
SERVED = {"previous": 1, "stable": 2}
"""Label -> version."""
CLASSES = ["low", "high"]


def write(folder: Path, seen_at: str | None = None) -> Path:
    """Writes the SavedModels and the model config file, whose path is returned.

    Args:
        folder: of it all.
        seen_at: the folder as the server sees it, where that has it mounted elsewhere.
    """
    for version in (1, 2, 3):
        _export(folder / MODEL / str(version), version)
    config = folder / "models.config"
    write_model_config(config, MODEL, f"{seen_at or folder.resolve()}/{MODEL}", SERVED.values(), SERVED)
    return config


def _export(folder: Path, version: int) -> None:
    """A SavedModel that multiplies by its version.

    Signatures: `serving_default` of two columns, `one` of one, `lists`, `texts` of bytes; over tf.Examples
    `classify`, `scores` (no classes), `regress` and `both` (a classification of other outputs).
    """
    import tensorflow as tf

    class Calc(tf.Module):
        def __init__(self) -> None:
            self.factor = tf.Variable(float(version))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, name="x"),
                tf.TensorSpec([None], tf.int64, name="n"),
            ]
        )
        def columns(self, x: Any, n: Any) -> Any:
            return {"product": x * self.factor, "count": n + version}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def one(self, x: Any) -> Any:
            return {"product": x * self.factor}

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64, name="x")])
        def lists(self, x: Any) -> Any:
            return {"sums": tf.reduce_sum(x, axis=1) * tf.cast(self.factor, tf.float64), "lists": x}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, name="text"),
                tf.TensorSpec([None], tf.bool, name="flag"),
            ]
        )
        def texts(self, text: Any, flag: Any) -> Any:
            return {"text": text, "raw_bytes": text, "flag": tf.logical_not(flag)}

        def _x(self, examples: Any) -> Any:
            features = {
                "x": tf.io.FixedLenFeature([], tf.float32),
                "plus": tf.io.FixedLenFeature([], tf.int64, default_value=0),
                "name": tf.io.FixedLenFeature([], tf.string, default_value=""),
            }
            parsed = tf.io.parse_example(examples, features)
            length = tf.strings.length(parsed["name"])
            more = parsed["plus"] + tf.cast(length, tf.int64)
            return parsed["x"] * self.factor + tf.cast(more, tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs: Any) -> Any:
            x = self._x(inputs)
            names = tf.tile(tf.constant([CLASSES]), [tf.size(x), 1])
            return {"classes": names, "scores": tf.stack([-x, x], axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def scores(self, inputs: Any) -> Any:
            return {"scores": self._x(inputs)[:, tf.newaxis]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs: Any) -> Any:
            return {"outputs": self._x(inputs)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def other(self, inputs: Any) -> Any:
            return {"wrong": self._x(inputs)}

    model = Calc()
    signatures = {
        "serving_default": model.columns,
        "one": model.one,
        "lists": model.lists,
        "texts": model.texts,
        "classify": model.classify,
        "scores": model.scores,
        "regress": model.regress,
        "other": model.other,
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)
    # TensorFlow 2 names each method "predict".
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name in ("classify", "scores", "other"):
        updater.replace_method_name(name, "tensorflow/serving/classify", tags="serve")
    updater.replace_method_name("regress", "tensorflow/serving/regress", tags="serve")
    updater.save()


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), *sys.argv[2:3]))
