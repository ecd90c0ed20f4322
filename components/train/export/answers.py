"""What the model of a training answers, before anything of it is saved."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from components.names import CLASSES, PREDICTIONS, SCORES
from components.train.export.requests import Answers
from components.train.material import Material


def of(material: Material, model: keras.Model, rows: Sequence[bytes]) -> Answers:
    """The answers that the SavedModel's `serving_default` must give, from what the model was trained on.

    Through the parser and the layers of the training, and in NumPy behind them: nothing of the serving
    functions is used, so that an error in them, or in what is saved of them, shows. On the processor, in
    float32, as a server computes; an accelerator may round more.

    Args:
        material: of the training.
        model: trained.
        rows: serialized tf.Examples with a label, at least one.
    """
    with tf.device("/CPU:0"):
        batch = tf.constant(list(rows), tf.string)
        inputs, *_ = material.parser(model)(batch, tf.zeros_like(batch, tf.bool))
        output = model(inputs, training=False).numpy().astype(np.float64)
    if material.label.task == "binary":
        return {PREDICTIONS: _float32(1.0 / (1.0 + np.exp(-output[:, 0])))}
    if material.label.task == "regression":
        known = material.graph.label_state()
        value = output[:, 0] * known.scale + known.mean
        return {PREDICTIONS: _float32(np.expm1(value) if known.log else value)}
    likelihood = np.exp(output - output.max(axis=1, keepdims=True))
    names = [name.encode("utf-8", "surrogateescape") for name in material.graph.classes]
    classes = np.array(names, object)
    return {
        PREDICTIONS: classes[output.argmax(axis=1)],
        CLASSES: np.tile(classes, (len(output), 1)),
        SCORES: _float32(likelihood / likelihood.sum(axis=1, keepdims=True)),
    }


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
