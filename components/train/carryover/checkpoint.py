"""The checkpoint of a version: the weights, slots and step that the next one starts from, by their paths."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.errors import RetrainError
from components.label import STATE_FILE
from components.train.model.state import TrainingState

CHECKPOINT = "weights"
IDENTITY = (STATE_FILE, f"{CHECKPOINT}.index")
"""The files of a checkpoint that no two have alike: the index has a checksum of every array."""

_MODEL, _OPTIMIZER = "model/", "optimizer/"

# Keras numbers variables without a name through the whole process; Nadam has one.
_NUMBER = re.compile(r"(?<=^variable)_\d+$")


def named(variables: Sequence[Any]) -> dict[str, Any]:
    """Variables by path; of several with one path, which a user's own model may have, by their order."""
    found: dict[str, Any] = {}
    for variable in variables:
        path = free = _NUMBER.sub("", variable.path)
        number = 2
        while free in found:
            free, number = f"{path}#{number}", number + 1
        found[free] = variable
    return found


def save(
    folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, state: TrainingState
) -> None:
    """Writes the checkpoint that the next version starts from: weights, slots, step and `state`.

    Variables are named by their paths, so that it can be read without the model that wrote it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {_MODEL: model.weights, _OPTIMIZER: optimizer.variables}
    saved = {f"{part}{path}": v for part, found in parts.items() for path, v in named(found).items()}
    tf.raw_ops.SaveV2(
        prefix=str(folder / CHECKPOINT),
        tensor_names=list(saved),
        shape_and_slices=[""] * len(saved),
        tensors=[np.asarray(variable) for variable in saved.values()],
    )
    (folder / STATE_FILE).write_text(json.dumps(asdict(state)))


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The weights, BatchNorm statistics too, and the optimizer's slots and step, by path.

    Raises:
        RetrainError: there is no checkpoint, or it is not whole.
    """
    found: dict[str, dict[str, np.ndarray]] = {_MODEL: {}, _OPTIMIZER: {}}
    try:
        reader = tf.train.load_checkpoint(str(folder / CHECKPOINT))
        for name in reader.get_variable_to_shape_map():
            part = _MODEL if name.startswith(_MODEL) else _OPTIMIZER
            found[part][name.removeprefix(part)] = reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise RetrainError(
            f"warm start: the champion's checkpoint in {folder} is not whole: "
            f"{str(error).strip().splitlines()[0][:200]}. Restore it, serve another version "
            "(`retrain promote VERSION`), or start afresh with `warm_start: {enabled: false}`"
        ) from error
    return found[_MODEL], found[_OPTIMIZER]


def arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of variables, by path."""
    return {path: np.asarray(variable) for path, variable in variables.items()}
