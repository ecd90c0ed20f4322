"""The one preprocessing of training and serving, as TensorFlow Transform analyses and bakes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features as feature_specs
from components.features import NUMERIC, NUMERIC_MISSING, Feature

MISSING = "<missing>"  # the vocabulary's term for a categorical value that is not there


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Turns raw columns into the model's inputs; passes the label through where there is one.

    Args:
        inputs: raw columns by name, sparse, of shape [batch, values].
        custom_config: `features`, as `components.features.to_json` gives them, and `label`, the
            label's column.

    Returns:
        What `components.features` describes, and the label as float32 of shape [batch].
    """
    features = feature_specs.from_json(custom_config["features"])
    outputs = _numeric([f for f in features if f.kind == "numeric"], inputs)
    for feature in features:
        if feature.kind == "categorical":
            outputs[feature.name] = _categorical(inputs[feature.column], feature)
        elif feature.kind == "identity":
            outputs[feature.name] = _identity(inputs[feature.column], feature)
    label = custom_config["label"]
    outputs[label] = _first_value(tf.cast(inputs[label], tf.float32), 0.0)
    return outputs


def _numeric(features: Sequence[Feature], inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
    """All numeric columns at once: one analyzer and one graph instead of one a column."""
    if not features:
        return {}
    nan = float("nan")
    values = tf.stack([_first_value(tf.cast(inputs[f.column], tf.float32), nan) for f in features], axis=1)
    if any(f.log for f in features):
        logarithms = tf.math.log1p(tf.maximum(values, 0.0))
        # maximum(NaN, 0) is NaN, so what is missing stays missing.
        values = tf.where(tf.constant([[f.log for f in features]]), logarithms, values)
    missing = tf.math.is_nan(values)
    # TFT leaves NaN out of mean and variance, and a column without any value has neither: whatever is
    # in it later is NaN, too. 0 is the mean.
    scaled = tft.scale_to_z_score(values, elementwise=True)
    return {
        NUMERIC: tf.where(tf.math.is_nan(scaled), tf.zeros_like(scaled), scaled),
        NUMERIC_MISSING: tf.cast(missing, tf.float32),
    }


def _categorical(column: tf.SparseTensor, feature: Feature) -> tf.Tensor:
    if column.dtype != tf.string:
        column = tf.SparseTensor(column.indices, tf.strings.as_string(column.values), column.dense_shape)
    return tft.compute_and_apply_vocabulary(
        _first_value(column, MISSING),
        top_k=feature.top_k,
        frequency_threshold=feature.min_count if feature.min_count > 1 else None,
        num_oov_buckets=feature.oov_buckets,
        vocab_filename=feature.vocabulary,
    )


def _identity(column: tf.SparseTensor, feature: Feature) -> tf.Tensor:
    value = _first_value(column, tf.constant(feature.min - 1, column.dtype))
    known = (value >= feature.min) & (value <= feature.max)
    other = feature.max - feature.min + 1
    return tf.where(known, value - feature.min, tf.constant(other, value.dtype))


def _first_value(column: tf.SparseTensor, default: Any) -> tf.Tensor:
    """The first value of every row, shape [batch]; `default` where a row has none."""
    shape = tf.maximum(column.dense_shape, [0, 1])
    dense = tf.sparse.to_dense(tf.SparseTensor(column.indices, column.values, shape), default_value=default)
    return dense[:, 0]
