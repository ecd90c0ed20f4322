"""The one preprocessing of training and serving, as TensorFlow Transform analyses and bakes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features as feature_specs
from components.custom import load_module
from components.errors import RetrainError
from components.features import (
    EXAMPLE_WEIGHT,
    LABEL,
    LABEL_MEAN,
    LABEL_SCALE,
    NUMERIC,
    NUMERIC_MEAN,
    NUMERIC_MISSING,
    NUMERIC_SCALE,
    PARTS,
    RESERVED,
    Bucketized,
    Categorical,
    Cross,
    Hashed,
    Identity,
    Numeric,
    Tensor,
    Text,
    Timestamp,
    boundaries_output,
    mean_output,
    scale_output,
)
from components.label import VOCABULARY, Label, LabelState
from components.transform import timestamps

MISSING = "<missing>"  # the vocabulary's term for a value that is not there
_SEPARATOR = "\x1f"  # between the values of a cross, as no text holds it
_NOT_A_WORD = r"[^\pL\pM\pN']+"  # \pM: the vowels of Devanagari, and accents that stand alone


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Turns raw columns into the model's inputs, and the label into what it learns.

    Args:
        inputs: raw columns by name, sparse, of shape [batch, values].
        custom_config: `features`, as `components.features.to_json` gives them; `label`, a
            `components.label.Label` as plain data; `label_state`, what a warm start goes on with (a
            `LabelState` as plain data, or None); `module`, the user's own, or None; `kept`: numeric and
            tensor features whose `mean` and `scale` are given, and not fitted.

    Returns:
        What `components.features` and `Label` describe.

    Raises:
        RetrainError: the module's `preprocessing_fn` gives what it must not.
    """
    features, kept = feature_specs.from_json(custom_config["features"]), custom_config["kept"]
    outputs = _numeric([f for f in features if f.form == "numeric"], inputs, kept)
    for feature in features:
        if feature.form != "numeric":
            columns = [inputs[column] for column in feature.columns]
            if isinstance(feature, Tensor):
                outputs |= _tensor(columns, feature, kept.get(feature.name))
            elif isinstance(feature, Bucketized):
                outputs |= _bucketized(columns, feature)
            else:
                outputs[feature.name] = _MAKERS[type(feature)](columns, feature)
    own = getattr(load_module(custom_config["module"]), "preprocessing_fn", None)
    if custom_config["module"] and own:
        outputs |= _checked(own(dict(inputs)), custom_config["module"], outputs)
    state = custom_config["label_state"]
    read = next(iter(column for feature in features for column in feature.columns), None)
    label = _label(
        Label.model_validate(custom_config["label"]),
        inputs,
        LabelState.model_validate(state) if state else None,
        # Of a column that a request has, too: a request has no label.
        batch=inputs[read].dense_shape[0] if read else tf.shape(next(iter(outputs.values())))[0],
    )
    return outputs | label


def _checked(outputs: Any, module: str, taken: dict[str, Any]) -> dict[str, Any]:
    what = f"model.module: {module}.preprocessing_fn"
    if not isinstance(outputs, dict) or not all(isinstance(name, str) for name in outputs):
        raise RetrainError(f"{what} gave {type(outputs).__name__}, expected a dict of tensors by name")
    clash = sorted(outputs.keys() & (RESERVED | taken.keys()))
    if clash:
        raise RetrainError(f"{what} gave {clash[0]!r}, which is taken, expected other names")
    return outputs


def _numeric(
    features: Sequence[Numeric], inputs: dict[str, Any], kept: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """All numeric columns at once: one pass of analysis and one graph instead of one a column."""
    if not features:
        return {}
    values = tf.stack([_number(inputs[f.column]) for f in features], axis=1)
    if any(f.log for f in features):
        logarithms = tf.math.log1p(tf.maximum(values, 0.0))
        # maximum(NaN, 0) is NaN, so what is missing stays missing.
        values = tf.where(tf.constant([[f.log for f in features]]), logarithms, values)
    # Kept or fitted, column by column; 0 stands for fitted.
    given = [kept.get(f.name, {"mean": 0.0, "scale": 0.0}) for f in features]
    mean, scale = _moments(values)
    known = tf.constant([fit["scale"] > 0 for fit in given])
    mean = tf.where(known, tf.constant([fit["mean"] for fit in given]), mean)
    scale = tf.where(known, tf.constant([fit["scale"] for fit in given]), scale)
    return {
        NUMERIC: _standardized(values, mean, scale),
        NUMERIC_MISSING: tf.cast(tf.math.is_nan(values), tf.float32),
        NUMERIC_MEAN: _repeated(mean, values),
        NUMERIC_SCALE: _repeated(scale, values),
    }


def _moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and scale of each column, as `components.features.NUMERIC_SCALE` has them; float32 [columns]."""
    there = tf.cast(tf.math.is_finite(values), tf.float32)
    # TFT leaves what is not finite out of mean and variance, and gives NaN or 0 where nothing else is
    # there. How much is there is a mean, too: of one more column a column.
    mean, share = tf.split(tft.mean(tf.concat([values, there], axis=1), reduce_instance_dims=False), 2)
    known = share > 0
    return tf.where(known, mean, tf.zeros_like(mean)), _deviation(values)


def _deviation(values: tf.Tensor) -> tf.Tensor:
    """The standard deviation of each column; exactly 0 where it has one value, or none: float32 [columns].

    What float32 makes of a constant's variance is some millionths of the constant, and the first value that
    differs would be a million of them away. So whether there is more than one value is asked for itself.
    """
    there = tf.math.is_finite(values)
    ends = tf.concat([tf.where(there, sign * values, -math.inf) for sign in (1.0, -1.0)], axis=1)
    high, minus_low = tf.split(tft.max(ends, reduce_instance_dims=False), 2)
    deviation = tf.sqrt(tft.var(values, reduce_instance_dims=False))
    return tf.where(high > -minus_low, deviation, tf.zeros_like(deviation))


def _standardized(values: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """z-scores; 0, which is the mean, where a value is missing, or where the column had none, or only one."""
    nothing = tf.math.is_nan(values) | tf.equal(scale, 0.0)
    return tf.where(nothing, tf.zeros_like(values), (values - mean) / scale)


def _repeated(constant: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """[width] -> [batch, width]: a transform graph's outputs all have a batch."""
    return tf.tile(constant[tf.newaxis], [tf.shape(values)[0], 1])


def _bucketized(columns: list[Any], feature: Bucketized) -> dict[str, tf.Tensor]:
    value = _number(columns[0])
    missing = tf.math.is_nan(value)
    boundaries = tft.quantiles(tf.boolean_mask(value, ~missing), feature.buckets, epsilon=0.01)
    bucket = tft.apply_buckets(tf.where(missing, tf.zeros_like(value), value), boundaries)
    return {
        feature.name: tf.where(missing, tf.constant(feature.buckets, tf.int64), bucket),
        boundaries_output(feature.name): _repeated(boundaries[0], value),
    }


def _categorical(columns: list[Any], feature: Categorical) -> Any:
    terms = _text(columns[0])
    return tft.compute_and_apply_vocabulary(
        _lists(terms, feature, MISSING) if feature.form == "indexes" else _first_value(terms, MISSING),
        top_k=feature.top_k,
        frequency_threshold=feature.min_count if feature.min_count > 1 else None,
        num_oov_buckets=feature.oov_buckets,
        vocab_filename=feature.vocabulary,
    )


def _hashed(columns: list[Any], feature: Hashed) -> Any:
    def index(terms: tf.Tensor) -> tf.Tensor:
        return tf.where(
            tf.equal(terms, ""), tf.zeros([], tf.int64), tft.hash_strings(terms, feature.buckets) + 1
        )

    terms = _text(columns[0])
    if feature.form == "index":
        return index(_first_value(terms, ""))
    lists = _lists(terms, feature, "")
    return tf.SparseTensor(lists.indices, index(lists.values), lists.dense_shape)


def _identity(columns: list[Any], feature: Identity) -> tf.Tensor:
    value = _first_value(columns[0], tf.constant(feature.min - 1, columns[0].dtype))
    known = (value >= feature.min) & (value <= feature.max)
    other = feature.max - feature.min + 1
    return tf.where(known, value - feature.min, tf.constant(other, value.dtype))


def _cross(columns: list[Any], feature: Cross) -> tf.Tensor:
    values = [_first_value(_text(column), "") for column in columns]
    return tft.hash_strings(tf.strings.join(values, separator=_SEPARATOR), feature.buckets)


def _timestamp(columns: list[Any], feature: Timestamp) -> Any:
    column = columns[0]
    present = _first_value(
        tf.SparseTensor(column.indices, tf.ones_like(column.values, tf.bool), column.dense_shape), False
    )
    times, readable = timestamps.seconds(_first_value(column, "" if column.dtype == tf.string else 0))
    known = (present & readable)[:, tf.newaxis]
    values = tf.stack(timestamps.parts(times, feature.parts), axis=1)
    first = tf.constant([[PARTS[part][0] for part in feature.parts]], tf.int64)
    counts = [PARTS[part][1] for part in feature.parts]
    if feature.encoding == "category":
        offsets = tf.constant([[sum(counts[:i]) for i in range(len(counts))]], tf.int64)
        return _sparse(tf.where(known, values - first + offsets, tf.constant(sum(counts), tf.int64)))
    angle = 2 * math.pi * tf.cast(values - first, tf.float32) / tf.constant([counts], tf.float32)
    circle = tf.concat([tf.sin(angle), tf.cos(angle)], axis=1)
    shown = tf.where(known, circle, tf.zeros_like(circle))
    return tf.concat([shown, tf.cast(~known, tf.float32)], axis=1)


def _words(columns: list[Any], feature: Text) -> Any:
    return tft.compute_and_apply_vocabulary(
        _or_missing(_runs(columns, feature).to_sparse(), MISSING),
        top_k=feature.top_k,
        frequency_threshold=feature.min_count if feature.min_count > 1 else None,
        num_oov_buckets=feature.oov_buckets,
        vocab_filename=feature.vocabulary,
    )


def _runs(columns: list[Any], feature: Text) -> tf.RaggedTensor:
    """Words, and runs of them, of every row."""
    text = tf.strings.lower(_first_value(columns[0], ""), encoding="utf-8")
    words = tf.strings.split(tf.strings.strip(tf.strings.regex_replace(text, _NOT_A_WORD, " ")))
    return tf.strings.ngrams(words, tuple(range(1, feature.ngrams + 1)), separator=" ")


def _tensor(columns: list[Any], feature: Tensor, kept: Mapping[str, Any] | None) -> dict[str, tf.Tensor]:
    if feature.of:
        values = tf.stack([_number(column) for column in columns], axis=1)
    else:
        column = tf.sparse.retain(columns[0], columns[0].indices[:, 1] < feature.size)
        shape = tf.stack([columns[0].dense_shape[0], tf.constant(feature.size, tf.int64)])
        numbers = tf.SparseTensor(column.indices, tf.cast(column.values, tf.float32), shape)
        values = tf.sparse.to_dense(numbers, default_value=math.nan)
    values = tf.reshape(values, [-1, feature.size])
    if kept and all(kept["scale"]):
        mean, scale = tf.constant(kept["mean"], tf.float32), tf.constant(kept["scale"], tf.float32)
    else:
        # As one column: all its numbers are scaled alike.
        mean, scale = (tf.tile(one, [feature.size]) for one in _moments(tf.reshape(values, [-1, 1])))
    return {
        feature.name: tf.reshape(_standardized(values, mean, scale), [-1, *feature.shape]),
        mean_output(feature.name): _repeated(mean, values),
        scale_output(feature.name): _repeated(scale, values),
    }


_MAKERS: dict[type, Callable[[list[Any], Any], Any]] = {
    Categorical: _categorical,
    Hashed: _hashed,
    Identity: _identity,
    Cross: _cross,
    Timestamp: _timestamp,
    Text: _words,
}


def _label(
    label: Label, inputs: dict[str, Any], state: LabelState | None, batch: tf.Tensor
) -> dict[str, tf.Tensor]:
    outputs = {}
    if label.example_weight:
        outputs[EXAMPLE_WEIGHT] = _first_value(tf.cast(inputs[label.example_weight], tf.float32), 1.0)
    column = inputs[label.name]
    if label.task == "multiclass":
        # What the champion knows comes first and in its order, so that its outputs keep their meaning.
        known = [name.encode("utf-8", "surrogateescape") for name in state.classes] if state else None
        outputs[LABEL] = tft.compute_and_apply_vocabulary(
            _first_value(column, MISSING),
            default_value=-1,
            vocab_filename=VOCABULARY,
            reserved_tokens=known or None,
        )
        return outputs
    value = _first_value(tf.cast(column, tf.float32), 0.0)
    if label.task == "binary":
        return outputs | {LABEL: value}
    if label.log:
        value = tf.math.log1p(tf.maximum(value, -1 + 1e-6))
    # The champion's scale is kept: its output layer speaks in it.
    mean = tf.constant(state.mean, tf.float32) if state else tft.mean(value)
    scale = tf.constant(state.scale, tf.float32) if state else _deviation(value[:, tf.newaxis])[0]
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    return outputs | {
        LABEL: (value - mean) / scale,
        LABEL_MEAN: tf.fill([batch], mean),
        LABEL_SCALE: tf.fill([batch], scale),
    }


def _number(column: tf.SparseTensor) -> tf.Tensor:
    """The first number of every row, float32 [batch], NaN where it is missing."""
    return _first_value(tf.cast(column, tf.float32), math.nan)


def _text(column: tf.SparseTensor) -> tf.SparseTensor:
    if column.dtype == tf.string:
        return column
    return tf.SparseTensor(column.indices, tf.strings.as_string(column.values), column.dense_shape)


def _lists(column: tf.SparseTensor, feature: Any, missing: str) -> tf.SparseTensor:
    """Every value of every row, or those that a separator keeps apart; `missing` where a row has none."""
    if feature.separator:
        texts = (
            tf.RaggedTensor.from_sparse(column) if feature.multivalent else _first_value(column, "")[:, None]
        )
        parts = tf.strings.strip(tf.strings.split(texts, feature.separator).merge_dims(1, 2))
        column = tf.ragged.boolean_mask(parts, tf.not_equal(parts, "")).to_sparse()
    return _or_missing(column, missing)


def _or_missing(column: tf.SparseTensor, missing: str) -> tf.SparseTensor:
    shape = tf.maximum(column.dense_shape, [0, 1])
    return tf.sparse.fill_empty_rows(tf.SparseTensor(column.indices, column.values, shape), missing)[0]


def _sparse(dense: tf.Tensor) -> tf.SparseTensor:
    """All values of [batch, values], zeros too."""
    indices = tf.where(tf.ones_like(dense, tf.bool))
    return tf.SparseTensor(indices, tf.reshape(dense, [-1]), tf.shape(dense, tf.int64))


def _first_value(column: tf.SparseTensor, default: Any) -> tf.Tensor:
    """The first value of every row, shape [batch]; `default` where a row has none."""
    shape = tf.maximum(column.dense_shape, [0, 1])
    dense = tf.sparse.to_dense(tf.SparseTensor(column.indices, column.values, shape), default_value=default)
    return dense[:, 0]
