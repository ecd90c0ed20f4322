"""What is minimized: the loss of a task, and how much each class counts in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from components.errors import RetrainError
from components.label import Label

LOSSES: Mapping[str, Any] = {
    "binary": functools.partial(keras.losses.BinaryCrossentropy, from_logits=True),
    "multiclass": functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
    "regression": keras.losses.MeanSquaredError,
}


def chance_loss(label: Label, classes: int) -> float:
    """The loss of a model that knows nothing."""
    return 1.0 if label.task == "regression" else math.log(max(classes, 2))


def class_weights(label: Label, classes: list[str], counts: Mapping[str, int] | None) -> np.ndarray | None:
    """How much each class counts, float32 [classes]; None: all alike.

    Balanced weights are n / (classes * examples of the class), as scikit-learn has them.

    Args:
        label: the configured label.
        classes: of a multiclass label, in the order of the model's outputs.
        counts: class -> its examples, of balanced weights.

    Raises:
        RetrainError: a weight is for no class.
    """
    names = classes or ["0", "1"]
    if counts is not None:
        total = sum(counts.values())
        return np.asarray(
            [total / (len(counts) * counts[c]) if counts[c] else 1.0 for c in names], np.float32
        )
    if not isinstance(label.class_weights, dict):
        return None
    unknown = sorted(label.class_weights.keys() - set(names))
    if unknown:
        raise RetrainError(
            f"label.class_weights: got {unknown[0]!r}, which is no class of {label.name!r}, expected some of "
            f"{', '.join(names[:20])}"
        )
    return np.asarray([label.class_weights.get(c, 1.0) for c in names], np.float32)
