"""The SavedModel of a version, as TensorFlow Serving wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

# Not in the public API: who changes a SavedModel has to know its fingerprint again.
from tensorflow.python.saved_model import fingerprinting_utils

from components.label import Label
from components.names import CLASSIFY, EMBEDDING, REGRESS
from components.train.export.serving_model import ServingModel
from components.train.model.networks import TwoTowerModel

METHODS = {
    CLASSIFY: tf.saved_model.CLASSIFY_METHOD_NAME,
    REGRESS: tf.saved_model.REGRESS_METHOD_NAME,
}
"""Signature -> the method that TF Serving answers through it; all others are for Predict."""


def export(
    model: keras.Model,
    transform: Any,
    columns: Mapping[str, tuple[tf.DType, bool]],
    label: Label,
    classes: Sequence[str],
    towers: Mapping[str, Sequence[str]],
    folder: str,
) -> None:
    """Writes the SavedModel of a model and the transform graph that it was trained with.

    Args:
        model, transform, columns, label, classes: as `ServingModel` takes them.
        towers: of a two-tower model, side -> its raw columns.
        folder: where it goes.
    """
    serving = ServingModel(model, transform, columns, label, classes)
    signatures = serving.signatures()
    if isinstance(model, TwoTowerModel):
        signatures |= {
            f"{side}_{EMBEDDING}": serving.tower_signature(model, side, names)
            for side, names in towers.items()
        }
    tf.saved_model.save(serving, folder, signatures=signatures)
    _name_methods(folder, METHODS.keys() & signatures.keys())


def _name_methods(folder: str, signatures: set[str]) -> None:
    """Gives signatures their method: TF2 saves all of them as Predict's, and TF Serving refuses those."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(folder)
    for name in sorted(signatures):
        updater.replace_method_name(name, METHODS[name])
    updater.save()
    fingerprinting_utils.write_fingerprint(folder)
