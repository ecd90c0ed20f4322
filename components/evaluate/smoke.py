"""Does the SavedModel answer? Asked through all of its signatures, before anybody else asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.features import request_names
from components.names import MISSING_INT, PREDICTIONS, SCORES, SERVING_DEFAULT, SERVING_RAW

Answers = Mapping[str, np.ndarray]  # output -> [batch, ...]


def read_some(folder: str, limit: int) -> list[bytes]:
    """Up to `limit` serialized examples of a split's folder."""
    files = sorted(str(path) for path in Path(folder).glob("data_tfrecord-*"))
    return list(tf.data.TFRecordDataset(files, compression_type="GZIP").take(limit).as_numpy_iterator())


def problems(saved_model: str, examples: Sequence[bytes], columns: Iterable[str]) -> list[str]:
    """What is wrong with the answers; empty: nothing.

    Every signature must answer every example, and all numbers must be finite. `SERVING_DEFAULT` and
    `SERVING_RAW` must answer the same: they are two ways to the same graph. The other signatures, such
    as a tower's, take columns, too.

    Args:
        saved_model: its folder.
        examples: serialized tf.Examples.
        columns: the raw columns that a request holds.
    """
    if not examples:
        return ["there is no held-out example to ask the SavedModel"]
    names = request_names(columns)
    try:
        model = tf.saved_model.load(saved_model)
        by_example = _numpy(model.signatures[SERVING_DEFAULT](examples=tf.constant(list(examples))))
        by_column = {
            name: _numpy(signature(**_columns(examples, names, signature.structured_input_signature[1])))
            for name, signature in model.signatures.items()
            if name != SERVING_DEFAULT
        }
        raw = by_column.pop(SERVING_RAW)
    except (OSError, KeyError, TypeError, ValueError, tf.errors.OpError) as error:
        return [f"the SavedModel does not answer: {str(error).splitlines()[0]}"]
    if PREDICTIONS not in by_example or by_example.keys() != raw.keys():
        return [
            f"{SERVING_DEFAULT} answers with {', '.join(sorted(by_example))}, {SERVING_RAW} with "
            f"{', '.join(sorted(raw))}, expected {PREDICTIONS} and the same of both"
        ]
    found = [_wrong(output, answer, len(examples)) for output, answer in by_example.items()]
    found += [_different(output, answer, raw[output]) for output, answer in by_example.items()]
    for name, answers in by_column.items():
        found += [_wrong(f"{name}.{output}", answer, len(examples)) for output, answer in answers.items()]
    return [problem for problem in found if problem]


def _numpy(answers: Mapping[str, tf.Tensor]) -> Answers:
    return {name: answers[name].numpy() for name in sorted(answers)}


def _wrong(output: str, answer: np.ndarray, examples: int) -> str | None:
    if answer.shape[:1] != (examples,):
        return f"{output}: {examples} examples were answered with shape {answer.shape}"
    if answer.dtype == object:  # texts
        return None
    if not np.isfinite(answer).all():
        return f"{output}: {np.count_nonzero(~np.isfinite(answer))} of {answer.size} answers are not finite"
    if output == SCORES and not np.allclose(answer.sum(axis=-1), 1.0, atol=1e-4):
        worst = answer.sum(axis=-1)[np.argmax(np.abs(answer.sum(axis=-1) - 1.0))]
        return f"{output}: the probabilities of an example add up to {worst:.4g}, expected 1"
    return None


def _different(output: str, by_example: np.ndarray, by_column: np.ndarray) -> str | None:
    if by_column.shape != by_example.shape:
        return (
            f"{output}: {SERVING_DEFAULT} answers with shape {by_example.shape}, {SERVING_RAW} with "
            f"{by_column.shape}"
        )
    if by_example.dtype == object:
        differing = np.count_nonzero(by_example != by_column)
        how = f"in {differing} of {by_example.size} texts" if differing else ""
    else:
        # What is no number in both is told once, by `_wrong`.
        alike = np.isclose(by_example, by_column, rtol=1e-4, atol=1e-5, equal_nan=True)
        how = "" if alike.all() else f"by up to {np.abs(by_example - by_column)[~alike].max():.3g}"
    return f"{output}: {SERVING_DEFAULT} and {SERVING_RAW} differ {how}" if how else None


def _columns(
    examples: Sequence[bytes], names: Mapping[str, str], signature: Mapping[str, tf.TensorSpec]
) -> dict[str, tf.Tensor]:
    """Serialized examples -> what a signature takes: [batch], or [batch, n] where it takes lists.

    Args:
        examples: the examples.
        names: raw column -> its name in the signature.
        signature: name -> what it takes.
    """
    column_of = {name: column for column, name in names.items()}
    kinds = {column_of[name]: tensor.dtype for name, tensor in signature.items()}
    parsed = tf.io.parse_example(
        list(examples), {column: tf.io.VarLenFeature(kind) for column, kind in kinds.items()}
    )
    columns = {}
    for column, values in parsed.items():
        missing = {tf.string: b"", tf.float32: float("nan")}.get(values.dtype, MISSING_INT)
        shape = [len(examples), max(int(values.dense_shape[1]), 1)]
        dense = tf.sparse.to_dense(tf.SparseTensor(values.indices, values.values, shape), missing)
        name = names[column]
        columns[name] = dense if signature[name].shape.rank == 2 else dense[:, 0]
    return columns
