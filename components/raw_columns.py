"""Serialized tf.Examples as what a signature over raw columns takes: one array a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.names import MISSING_INT


def of_examples(examples: Sequence[bytes], inputs: Mapping[str, tuple[str, Any, bool]]) -> dict[str, Any]:
    """The columns of examples, by the name of the input that takes them.

    Args:
        examples: serialized.
        inputs: name -> the raw column, its TensorFlow type, and whether it takes lists.

    Returns:
        Arrays [batch], or [batch, values] where an input takes lists, filled up with what stands for a
        missing value; texts as bytes, of dtype object.
    """
    import tensorflow as tf

    parsed = tf.io.parse_example(
        tf.constant(list(examples), tf.string),
        {column: tf.io.VarLenFeature(kind) for column, kind, _ in inputs.values()},
    )
    arrays = {}
    for name, (column, kind, many) in inputs.items():
        values = parsed[column]
        missing = {tf.string: b"", tf.float32: np.nan}.get(kind, MISSING_INT)
        shape = [len(examples), max(int(values.dense_shape[1]), 1)]
        dense = tf.sparse.to_dense(tf.SparseTensor(values.indices, values.values, shape), missing).numpy()
        arrays[name] = dense if many else dense[:, 0]
    return arrays
