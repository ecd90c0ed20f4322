"""A served model on a file of labelled rows, asked as a client asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {"int64": "INT", "float32": "FLOAT", "string": "BYTES"}


def predictions(saved_model: Path, file: Path) -> np.ndarray:
    """What `serving_raw` says of every row: a probability, a class (bytes) or a number; [rows]."""
    import tensorflow as tf

    from pipeline.request_rows import Input, RowsFile

    raw = tf.saved_model.load(str(saved_model)).signatures["serving_raw"]
    specs = raw.structured_input_signature[1]
    inputs = {n: Input(n, _KINDS[s.dtype.name], s.shape.rank == 2) for n, s in specs.items()}
    found = []
    for request in RowsFile(file, list(inputs)).requests(inputs):
        columns = {n: tf.constant(request.inputs[n], s.dtype) for n, s in specs.items()}
        found.append(raw(**columns)["predictions"].numpy())
    return np.concatenate(found)


def binary(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """AUC and accuracy, and the accuracy of saying what the row before was: the last-class baseline."""
    from sklearn.metrics import roc_auc_score

    return {
        "auc": float(roc_auc_score(labels, probabilities)),
        "accuracy": float(np.mean((probabilities > 0.5) == labels)),
        "last_class": float(np.mean(labels[1:] == labels[:-1])),
        "examples": len(labels),
    }


def multiclass(labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """The share of rows whose class is predicted."""
    return {"accuracy": float(np.mean(labels.astype(bytes) == classes)), "examples": len(labels)}
