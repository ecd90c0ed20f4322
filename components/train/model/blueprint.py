"""What a model is built from: its inputs, and the tables of its features under names that last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from components.errors import RetrainError
from components.features import NUMERIC, NUMERIC_MISSING, RESERVED, Feature, fit_outputs, indexed, outputs

PADDING = -1
"""Stands in a list of indexes for "no value"."""

VALUE, MISSING = "value", "missing"
Key = tuple[str, str | int]
"""What a row of a first layer's kernel is multiplied with: a feature's `VALUE`, that it is `MISSING`, or the
number of an element of its vector, tensor or embedding."""


@dataclass(frozen=True)
class Blueprint:
    """What `build_model` gets.

    Attributes:
        inputs: Keras inputs by the name of the transformed feature; a model need not take all of them.
            float32 [batch, n] of `NUMERIC`, `NUMERIC_MISSING` and vectors, int64 [batch] of an index,
            int64 [batch, values] of indexes, `PADDING` behind the last, float32 [batch, height, width,
            channels] of a tensor; and what the module's `preprocessing_fn` gave.
        features: the configured features.
        rows: feature with an index -> how many rows its tables have.
        outputs: how wide the model's output is: 1, or the number of classes.
    """

    inputs: Mapping[str, Any]
    features: Sequence[Feature]
    rows: Mapping[str, int]
    outputs: int

    def numbers(self) -> list[Any]:
        """The inputs that are numbers already, each float32 [batch, width]."""
        vectors = [feature.name for feature in self.features if feature.form == "vector"]
        return [self.inputs[name] for name in (NUMERIC, NUMERIC_MISSING, *vectors) if name in self.inputs]

    def tensors(self) -> list[Any]:
        """The inputs that are tensors, each float32 [batch, height, width, channels]."""
        return [self.inputs[feature.name] for feature in self.features if feature.form == "tensor"]

    def flat(self) -> list[Any]:
        """The tensors as rows of numbers, each float32 [batch, height * width * channels]."""
        return [
            keras.layers.Flatten(name=f"flat-{feature.name}")(self.inputs[feature.name])
            for feature in self.features
            if feature.form == "tensor"
        ]

    def weights(self) -> list[Any]:
        """A table of one weight an output for each feature with an index, looked up: [batch, outputs]."""
        return [
            self._lookup(wide_table(feature.name), feature.name, self.outputs, "zeros")
            for feature in indexed(self.features)
        ]

    def embeddings(self, dim: int) -> list[Any]:
        """A table of embeddings for each feature with an index, looked up: [batch, dim]."""
        return [
            self._lookup(deep_table(feature.name), feature.name, dim, "uniform")
            for feature in indexed(self.features)
        ]

    def only(self, names: Sequence[str]) -> tuple[Blueprint, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """A part of the model that sees these features alone.

        Returns:
            Its blueprint, with inputs of its own, and what selects them from the whole model's.
        """
        numeric = [feature.name for feature in self.features if feature.form == "numeric"]
        places = [place for place, name in enumerate(numeric) if name in names]
        matrices = {NUMERIC, NUMERIC_MISSING} if places else set()

        def select(inputs: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: ops.take(value, places, axis=1) if name in matrices else value
                for name, value in inputs.items()
                if name in matrices or name in names
            }

        inputs = {
            name: keras.Input(value.shape[1:], dtype=value.dtype, name=name)
            for name, value in select(self.inputs).items()
        }
        features = [feature for feature in self.features if feature.name in names]
        return replace(self, inputs=inputs, features=features), select

    def _lookup(self, layer: str, feature: str, width: int, initializer: str) -> Any:
        table = Lookup(self.rows[feature], width, embeddings_initializer=initializer, name=layer)
        return table(self.inputs[feature])


class Lookup(keras.layers.Embedding):
    """Rows of a table; of several indexes an example their mean.

    Input: int64 [batch], or [batch, values] with `PADDING` behind the last; output: [batch, width].
    """

    def call(self, inputs: Any) -> Any:
        if len(inputs.shape) == 1:
            return self._rows(inputs)
        present = ops.cast(inputs >= 0, self.compute_dtype)
        rows = self._rows(ops.maximum(inputs, 0)) * present[..., None]
        return ops.sum(rows, axis=1) / ops.maximum(ops.sum(present, axis=1, keepdims=True), 1.0)

    def _rows(self, indexes: Any) -> Any:
        # Not as Keras does it: reading the table, and counting negative indexes from its end, are five
        # operations a table more in every prediction.
        return ops.cast(tf.gather(self.embeddings.value, indexes), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.output_dim)


def wide_table(feature: str) -> str:
    """The name of the layer that holds a feature's weight a category. No feature's own name has a `-`."""
    return f"wide-{feature}"


def deep_table(feature: str) -> str:
    """The name of the layer that holds a feature's embedding."""
    return f"embedding-{feature}"


def number_keys(features: Sequence[Feature], tensors: bool = True) -> list[Key]:
    """What the columns of `Blueprint.numbers`, and of `flat` behind them, are, in their order."""
    numeric = [feature.name for feature in features if feature.form == "numeric"]
    keys: list[Key] = [(name, what) for what in (VALUE, MISSING) for name in numeric]
    for form in ("vector", "tensor") if tensors else ("vector",):
        for feature in features:
            if feature.form == form:
                keys += [(feature.name, i) for i in range(math.prod(_shape(feature)))]  # type: ignore[arg-type]
    return keys


def embedding_keys(features: Sequence[Feature], dim: int) -> list[Key]:
    """What the columns of `Blueprint.embeddings` are, in their order."""
    return [(feature.name, i) for feature in indexed(features) for i in range(dim)]


def make_inputs(features: Sequence[Feature], own: Mapping[str, Any]) -> dict[str, Any]:
    """Keras inputs by name.

    Args:
        features: the configured features.
        own: what the user's `preprocessing_fn` gave, by name, as TensorFlow's parsing specifications.

    Raises:
        RetrainError: `own` holds text, which no model takes.
    """
    numeric = sum(feature.form == "numeric" for feature in features)
    inputs = {
        name: keras.Input((numeric,), dtype="float32", name=name)
        for name in (NUMERIC, NUMERIC_MISSING)
        if numeric
    }
    for feature in features:
        if feature.form != "numeric":
            dtype = "float32" if feature.form in ("vector", "tensor") else "int64"
            inputs[feature.name] = keras.Input(_shape(feature), dtype=dtype, name=feature.name)
    for name, spec in own.items():
        if spec.dtype == tf.string:
            raise RetrainError(
                f"model.module: preprocessing_fn gave text as {name!r}, which no model takes; make numbers "
                "or indexes of it, as tft.compute_and_apply_vocabulary does"
            )
        shape = (None,) if isinstance(spec, tf.io.VarLenFeature) else tuple(spec.shape)
        inputs[name] = keras.Input(shape, dtype=spec.dtype.name, name=name)
    return inputs


def _shape(feature: Any) -> tuple[int | None, ...]:
    """Of one example, transformed."""
    if feature.form == "vector":  # sine and cosine of each part of a time, and whether it is missing
        return (2 * len(feature.parts) + 1,)
    if feature.form == "tensor":
        return tuple(feature.shape)
    return () if feature.form == "index" else (None,)


def own_outputs(spec: Mapping[str, Any], features: Sequence[Feature]) -> dict[str, Any]:
    """Of a transform graph's outputs, by name, those that the user's `preprocessing_fn` gave."""
    ours = {*outputs(features), *fit_outputs(features), *RESERVED}
    return {name: feature for name, feature in spec.items() if name not in ours}


def densify(transformed: Mapping[str, Any], names: Sequence[str]) -> dict[str, tf.Tensor]:
    """Transformed features as the model takes them: lists padded with `PADDING`, numbers' with 0."""
    dense = {}
    for name in names:
        value = transformed[name]
        if isinstance(value, tf.SparseTensor):
            value = tf.sparse.to_dense(value, default_value=PADDING if value.dtype.is_integer else 0)
        dense[name] = value
    return dense


def layer_of(path: str) -> str:
    """The name of the layer that holds a variable."""
    return path.rpartition("/")[0].rpartition("/")[2]
