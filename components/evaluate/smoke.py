"""Does the SavedModel answer? Asked through both signatures, before anybody else asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.names import MISSING_INT, PREDICTIONS, SERVING_DEFAULT, SERVING_RAW


def read_some(folder: str, limit: int) -> list[bytes]:
    """Up to `limit` serialized examples of a split's folder."""
    files = sorted(str(path) for path in Path(folder).glob("data_tfrecord-*"))
    return list(tf.data.TFRecordDataset(files, compression_type="GZIP").take(limit).as_numpy_iterator())


def problems(saved_model: str, examples: Sequence[bytes]) -> list[str]:
    """What is wrong with the answers; empty: nothing.

    Both signatures must answer every example with a finite number, and with the same one: they are
    two ways to the same graph.
    """
    if not examples:
        return ["there is no held-out example to ask the SavedModel"]
    try:
        model = tf.saved_model.load(saved_model)
        by_example = model.signatures[SERVING_DEFAULT](examples=tf.constant(list(examples)))[
            PREDICTIONS
        ].numpy()
        raw = model.signatures[SERVING_RAW]
        columns = raw.structured_input_signature[1]
        by_column = raw(**_columns(examples, columns))[PREDICTIONS].numpy()
    except (OSError, KeyError, TypeError, ValueError, tf.errors.OpError) as error:
        return [f"the SavedModel does not answer: {str(error).splitlines()[0]}"]
    found = []
    if by_example.shape[:1] != (len(examples),):
        found.append(f"{len(examples)} examples were answered with shape {by_example.shape}")
    elif not np.isfinite(by_example).all():
        found.append(
            f"{np.count_nonzero(~np.isfinite(by_example))} of {by_example.size} answers are not finite"
        )
    elif by_column.shape != by_example.shape:
        found.append(
            f"{SERVING_DEFAULT} answers with shape {by_example.shape}, {SERVING_RAW} with {by_column.shape}"
        )
    elif not np.allclose(by_example, by_column, rtol=1e-4, atol=1e-5):
        worst = float(np.abs(by_example - by_column).max())
        found.append(f"{SERVING_DEFAULT} and {SERVING_RAW} differ by up to {worst:.3g}")
    return found


def _columns(examples: Sequence[bytes], signature: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """Serialized examples -> what the raw signature takes: tensors of shape [batch]."""
    spec = {name: tf.io.VarLenFeature(tensor.dtype) for name, tensor in signature.items()}
    columns = {}
    for name, column in tf.io.parse_example(list(examples), spec).items():
        missing = {tf.string: b"", tf.float32: float("nan")}.get(column.dtype, MISSING_INT)
        shape = [len(examples), max(int(column.dense_shape[1]), 1)]
        columns[name] = tf.sparse.to_dense(tf.SparseTensor(column.indices, column.values, shape), missing)[
            :, 0
        ]
    return columns
