"""The SavedModel: the transform graph and the model behind two signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from components.names import MISSING_INT, PREDICTIONS, SERVING_DEFAULT, SERVING_RAW


class ServingModel(tf.Module):
    """Raw columns in, predictions out, through the transform graph that the model was trained with."""

    def __init__(self, model: keras.Model, transform: Any, columns: Mapping[str, Any]) -> None:
        super().__init__()
        # The same layers without the optimizer, whose slots nobody serves.
        self.model = keras.Model(model.inputs, model.output)
        self.transform = transform
        self._columns = columns

        # Traced once; both signatures call it.
        self._predict = tf.function(
            self._answer,
            autograph=False,
            input_signature=[
                {name: tf.SparseTensorSpec([None, None], s.dtype) for name, s in self._columns.items()}
            ],
        )

    def _answer(self, raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
        inputs = self.transform(dict(raw))
        names = {tensor.name for tensor in self.model.inputs}
        probability = self.model({name: inputs[name] for name in names}, training=False)
        return {PREDICTIONS: probability[:, 0]}

    def signatures(self) -> dict[str, Any]:
        """`serving_default`: serialized tf.Examples; `serving_raw`: one tensor of [batch] a column."""

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._predict(tf.io.parse_example(examples, dict(self._columns)))

        @tf.function(
            autograph=False,
            input_signature=[
                {name: tf.TensorSpec([None], spec.dtype, name=name) for name, spec in self._columns.items()}
            ],
        )
        def serving_raw(columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return self._predict({name: _drop_missing(value) for name, value in columns.items()})

        return {SERVING_DEFAULT: serving_default, SERVING_RAW: serving_raw}


def _drop_missing(values: tf.Tensor) -> tf.SparseTensor:
    """[batch] -> sparse [batch, 1] without the values that stand for a missing one."""
    if values.dtype == tf.string:
        present = tf.not_equal(values, "")
    elif values.dtype.is_floating:
        present = tf.logical_not(tf.math.is_nan(values))
    else:
        present = tf.not_equal(values, tf.cast(MISSING_INT, values.dtype))
    rows = tf.where(present)
    indices = tf.concat([rows, tf.zeros_like(rows)], axis=1)
    shape = tf.stack([tf.size(values, tf.int64), tf.constant(1, tf.int64)])
    return tf.SparseTensor(indices, tf.boolean_mask(values, present), shape)


def export(model: keras.Model, transform: Any, columns: Mapping[str, Any], folder: str) -> None:
    """Writes the SavedModel of a model and the transform graph that it was trained with.

    Args:
        model: takes what `transform` gives.
        transform: the transform graph, as a layer over raw columns.
        columns: the raw columns that the features read, with their parsing specs.
        folder: where it goes.
    """
    serving = ServingModel(model, transform, columns)
    tf.saved_model.save(serving, folder, signatures=serving.signatures())
