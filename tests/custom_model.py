"""A model of one's own: a factorization machine and dense layers (Guo et al., 2017, arXiv:1703.04247).

In a deployment's YAML:

    preprocessing:
      columns: [trip_miles, trip_seconds]  # what `preprocessing_fn` reads, beside the features' columns
    model:
      type: custom
      module: tests.custom_model
      params: {dim: 8, hidden: 32}
"""

import keras
import tensorflow as tf
import tensorflow_transform as tft
from keras import ops


def preprocessing_fn(inputs):
    """Features that no configuration can name; what is computed here, is computed in serving, too.

    Args:
        inputs: raw columns by name, sparse, of shape [batch, values].

    Returns:
        `speed`: in miles an hour, as a z-score; float32 [batch, 1].
    """
    miles, seconds = _number(inputs["trip_miles"]), _number(inputs["trip_seconds"])
    speed = tf.minimum(tf.math.divide_no_nan(miles, seconds / 3600), 100.0)
    return {"speed": tft.scale_to_z_score(speed)[:, tf.newaxis]}


def build_model(blueprint, params):
    """The sum of a linear part, of the products of all pairs of embeddings, and of dense layers.

    Args:
        blueprint: a `components.train.model.blueprint.Blueprint`.
        params: `model.params` of the configuration.

    Returns:
        keras.Model: a dict of `blueprint.inputs` in; float32 [batch, blueprint.outputs] out, without an
        activation.
    """
    embeddings = ops.stack(blueprint.embeddings(params["dim"]), axis=1)  # [batch, features, dim]
    # The sum over all pairs: (sum squared - sum of squares) / 2.
    pairs = ops.square(ops.sum(embeddings, axis=1)) - ops.sum(ops.square(embeddings), axis=1)
    hidden = keras.layers.Concatenate()(
        [*blueprint.numbers(), blueprint.inputs["speed"], pairs / 2, keras.layers.Flatten()(embeddings)]
    )
    hidden = keras.layers.Dense(params["hidden"], activation="relu")(hidden)
    output = keras.layers.Dense(blueprint.outputs)(hidden)
    return keras.Model(dict(blueprint.inputs), keras.layers.Add()([output, *blueprint.weights()]))


def _number(column):
    """The first number of every row, float32 [batch]; 0 where it is missing."""
    shape = tf.maximum(column.dense_shape, [0, 1])  # a batch may have no value at all
    column = tf.SparseTensor(column.indices, tf.cast(column.values, tf.float32), shape)
    return tf.sparse.to_dense(column)[:, 0]
