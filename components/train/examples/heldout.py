"""Losses on held-out rows, which tell how a training goes on, and what new data does to what was known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

MOST_ROWS = 5000
"""New rows, or rows that are looked at after every epoch: more would cost more than they tell."""
_BATCH = 512

Parse = Callable[[tf.Tensor, tf.Tensor], tuple[Any, ...]]
"""Serialized examples of shape [batch], and which are new, bool [batch] -> inputs, label and maybe weight."""


def draw(records: Sequence[tf.data.Dataset], most: int = MOST_ROWS) -> list[bytes]:
    """As many of the records, chosen and ordered by a hash: the same ones in whatever order they come."""
    hashes, rows = np.zeros(0, np.int64), np.zeros(0, object)
    for dataset in records:
        for batch in dataset.batch(4096):
            found = tf.strings.to_hash_bucket_fast(batch, 2**63 - 1).numpy()
            hashes, rows = np.concatenate([hashes, found]), np.concatenate([rows, batch.numpy()])
            kept = np.argsort(hashes, kind="stable")[:most]
            hashes, rows = hashes[kept], rows[kept]
    return rows.tolist()


def parsed(rows: Sequence[bytes], parse: Parse) -> tf.data.Dataset:
    """Batches of held-out rows, made inputs once.

    Args:
        rows: serialized examples.
        parse: as `components.train.examples.graph.Graph.parser` gives it.
    """
    serialized = tf.data.Dataset.from_tensor_slices(tf.constant(rows, tf.string)).batch(_BATCH)
    return serialized.map(lambda batch: parse(batch, tf.zeros_like(batch, tf.bool))).cache()


class HeldOutLoss:
    """The mean loss of a compiled model on held-out rows, as its training would compute it."""

    def __init__(self, model: keras.Model) -> None:
        @tf.function(autograph=False, reduce_retracing=True)
        def loss(inputs: Any, target: Any, weight: Any) -> tf.Tensor:
            outputs = model(inputs, training=False)
            return model.compute_loss(inputs, target, outputs, weight, training=False)

        self._loss = loss

    def __call__(self, batches: tf.data.Dataset) -> float:
        total, rows = 0.0, 0
        for inputs, target, *weight in batches:
            total += float(self._loss(inputs, target, *weight or [None])) * len(target)
            rows += len(target)
        return total / rows
