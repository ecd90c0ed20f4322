"""Elastic weight consolidation: how much each weight matters to what has been learned.

The diagonal of the Fisher information (Kirkpatrick et al., 2017, arXiv:1612.00796), decayed from version to
version (online EWC: Schwarz et al., 2018, arXiv:1805.06370, section 4), so that one array a variable is all
there is however many spans were learned. What it does to the loss is `regularize.anchor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

FISHER = "fisher.npz"


def fisher(model: keras.Model, examples: tf.data.Dataset, task: str, seed: int) -> dict[str, np.ndarray]:
    """Mean squared gradient of the log-likelihood of one example, by the path of the variable.

    Labels are drawn from the model's own predictions: with the true ones it would be the "empirical"
    Fisher, which vanishes where the model fits (Kunstner et al., 2019, arXiv:1905.12558). A regression is
    a normal distribution of variance 1 around the z-score.

    Args:
        model: float32; its trainable variables count.
        examples: inputs, each in a batch of its own; at least one.
        task: `binary`, `multiclass` or `regression`.
        seed: of the labels.
    """
    variables = model.trainable_variables
    sums = [tf.Variable(tf.zeros(variable.shape)) for variable in variables]

    @tf.function(autograph=False, reduce_retracing=True)
    def add(inputs: Mapping[str, tf.Tensor], number: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            output = model(inputs, training=False)
            loss = _LOSSES[task](output, tf.stack([seed, number]))
        for total, gradient in zip(sums, tape.gradient(loss, variables), strict=True):
            if gradient is not None:  # of a variable that the output does not depend on
                total.assign_add(tf.square(tf.convert_to_tensor(gradient)))

    count = 0
    for inputs in examples:
        add(inputs, tf.constant(count))
        count += 1
    return {v.path: total.numpy() / count for v, total in zip(variables, sums, strict=True)}


def _binary(output: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = tf.random.stateless_uniform(tf.shape(output), seed) < tf.sigmoid(output)
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(drawn, tf.float32), output)


def _multiclass(output: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = tf.random.stateless_categorical(output, 1, seed)[:, 0]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(drawn, output)


def _regression(output: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = tf.stop_gradient(output) + tf.random.stateless_normal(tf.shape(output), seed)
    return 0.5 * tf.square(output - drawn)


_LOSSES: Mapping[str, Any] = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}


def consolidate(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], decay: float
) -> dict[str, np.ndarray]:
    """Importances of a version: its own, and what is left of those that it started with.

    >>> consolidate({"w": np.array([1.0, 2.0])}, {"w": np.array([4.0, 0.0]), "v": np.array([3.0])}, 0.5)
    {'w': array([4.5, 1. ]), 'v': array([3.])}
    """
    return {path: value + decay * old[path] if path in old else value for path, value in new.items()}


def save(checkpoint: Path, importances: Mapping[str, np.ndarray]) -> None:
    """Writes them beside the weights."""
    np.savez(checkpoint / FISHER, **importances)  # type: ignore[arg-type]


def load(checkpoint: Path) -> dict[str, np.ndarray] | None:
    """What `save` wrote; None: that version was trained without."""
    file = checkpoint / FISHER
    if not file.exists():
        return None
    with np.load(file) as arrays:
        return dict(arrays)
