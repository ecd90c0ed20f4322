"""What tiny models of every task answer of one number, the fare, and the columns of their examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TYPES = {
    "fare": "FLOAT",
    "company": "BYTES",
    "Trip Words": "BYTES",
    "big": "INT",
    "colour": "BYTES",
    "price": "FLOAT",
    "weight": "FLOAT",
    "span": "INT",
    "example_id": "INT",
}
# Task -> its label. All are of the same examples.
LABELS = {"binary": "big", "multiclass": "colour", "regression": "price"}
# Of a colour the candidate knows more than the champion, and neither knows "umber".
COLOURS = {1.0: [b"red", b"green", b"d\xc3\xa9j\xc3\xa0"], -1.0: [b"green", b"red"]}
MEAN_PRICE, PRICE = 2e6, 3.0  # a mean that float32 sums of squares would not survive


def answer(task: str, weight: float) -> Callable[[Any], dict[str, Any]]:
    """What a model of the task makes of fares, [batch], 0 where one is missing; weight -1: the opposite."""
    import tensorflow as tf

    def binary(fare: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"predictions": tf.sigmoid(weight * fare)}

    def regression(fare: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"predictions": MEAN_PRICE + weight * PRICE * fare}

    def multiclass(fare: tf.Tensor) -> dict[str, tf.Tensor]:
        classes = tf.constant(COLOURS[float(np.sign(weight) or 1.0)])
        logits = [weight * fare, -fare, -0.5 * tf.ones_like(fare)][: classes.shape[0]]
        scores = tf.nn.softmax(tf.stack(logits, -1))
        return {
            "classes": tf.repeat(classes[tf.newaxis], tf.shape(fare)[0], 0),
            "scores": scores,
            "predictions": tf.gather(classes, tf.argmax(scores, -1)),
        }

    return {"binary": binary, "regression": regression, "multiclass": multiclass}[task]
