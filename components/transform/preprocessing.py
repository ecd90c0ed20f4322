"""The one preprocessing of training and serving, as TensorFlow Transform analyses and bakes it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features as feature_specs
from components.features import Feature

MISSING = "<missing>"  # the vocabulary's term for a categorical value that is not there


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Turns raw columns into the model's inputs; passes the label through where there is one.

    Args:
        inputs: raw columns by name, sparse, of shape [batch, values].
        custom_config: `features`, as `components.features.to_json` gives them, and `label`, the
            label's column.

    Returns:
        Dense tensors of shape [batch], named as `Feature.outputs` says, and the label as float32.
    """
    outputs: dict[str, Any] = {}
    for feature in feature_specs.from_json(custom_config["features"]):
        make = {"numeric": _numeric, "categorical": _categorical, "identity": _identity}[feature.kind]
        outputs |= make(inputs[feature.column], feature)
    label = custom_config["label"]
    outputs[label] = _first_value(tf.cast(inputs[label], tf.float32), 0.0)
    return outputs


def _numeric(column: tf.SparseTensor, feature: Feature) -> dict[str, tf.Tensor]:
    values = tf.cast(column, tf.float32)
    if feature.log:
        values = tf.SparseTensor(
            values.indices, tf.math.log1p(tf.maximum(values.values, 0.0)), values.dense_shape
        )
    scaled = tft.scale_to_z_score(values)  # over the values that are there; 0 is then their mean
    missing = _first_value(tf.SparseTensor(values.indices, tf.zeros_like(values.values), values.dense_shape), 1.0)
    return {feature.name: _first_value(scaled, 0.0), f"{feature.name}_missing": missing}


def _categorical(column: tf.SparseTensor, feature: Feature) -> dict[str, tf.Tensor]:
    if column.dtype != tf.string:
        column = tf.SparseTensor(column.indices, tf.strings.as_string(column.values), column.dense_shape)
    index = tft.compute_and_apply_vocabulary(
        _first_value(column, MISSING),
        top_k=feature.top_k,
        frequency_threshold=feature.min_count,
        num_oov_buckets=feature.oov_buckets,
        vocab_filename=feature.vocabulary,
    )
    return {feature.name: index}


def _identity(column: tf.SparseTensor, feature: Feature) -> dict[str, tf.Tensor]:
    value = _first_value(column, tf.constant(feature.min - 1, column.dtype))
    known = (value >= feature.min) & (value <= feature.max)
    other = feature.max - feature.min + 1
    return {feature.name: tf.where(known, value - feature.min, tf.constant(other, value.dtype))}


def _first_value(column: tf.SparseTensor, default: Any) -> tf.Tensor:
    """The first value of every row, shape [batch]; `default` where a row has none."""
    shape = tf.stack([column.dense_shape[0], tf.maximum(column.dense_shape[1], 1)])
    dense = tf.sparse.to_dense(
        tf.SparseTensor(column.indices, column.values, shape), default_value=default
    )
    return dense[:, 0]
