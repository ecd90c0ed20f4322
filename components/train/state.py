"""What a version's checkpoint knows beside its weights, and whether a next version can start from it.

Read before a run begins, so nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.label import STATE_FILE

WHAT_TO_DO = "Undo the change of the configuration, or start afresh with `warm_start: {enabled: false}`"


@dataclass(frozen=True)
class TrainingState:
    """What rebuilds the model of a checkpoint, beside its weights.

    Attributes:
        features: the configured features, as plain data.
        model: the model's configuration.
        optimizer: the optimizer's name.
        vocabularies: categorical feature -> its terms in the order of their rows.
        step: optimizer steps taken since the cold start.
        task: `binary`, `multiclass` or `regression`.
        label: a `components.label.LabelState` as plain data.
    """

    features: list[dict[str, Any]]
    model: dict[str, Any]
    optimizer: str
    vocabularies: dict[str, list[str]]
    step: int
    task: str
    label: dict[str, Any]

    @property
    def outputs(self) -> int:
        """How wide the model's output is."""
        return len(self.label["classes"]) or 1


def check_compatible(old: TrainingState, new: TrainingState) -> None:
    """Refuses a warm start between models of other features or other layers.

    Raises:
        RetrainError: naming the features or the settings that changed.
    """
    if old.task != new.task:
        raise RetrainError(f"warm start: label.task was {old.task}, is {new.task}. {WHAT_TO_DO}")
    if old.label["log"] != new.label["log"]:
        raise RetrainError(
            f"warm start: label.log was {old.label['log']}, is {new.label['log']}; the champion's outputs "
            f"are on the other scale. {WHAT_TO_DO}"
        )
    features = _changes(old.features, new.features)
    if features:
        raise RetrainError(f"warm start: the features changed: {'; '.join(features)}. {WHAT_TO_DO}")
    changed = [
        f"{key} was {old.model.get(key)!r}, is {value!r}"
        for key, value in new.model.items()
        if key != "dropout" and old.model.get(key) != value
    ]
    if old.optimizer != new.optimizer:
        changed.append(f"optimizer was {old.optimizer!r}, is {new.optimizer!r}")
    if changed:
        raise RetrainError(f"warm start: the model changed: {'; '.join(changed)}. {WHAT_TO_DO}")


def _changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """What changed between features, apart from the size of their vocabularies."""
    before, now = ({feature["name"]: feature for feature in features} for features in (old, new))
    changes = [f"{name} is gone" for name in before if name not in now]
    changes += [f"{name} is new" for name in now if name not in before]
    changes += [
        f"{name}.{key} was {before[name].get(key)!r}, is {value!r}"
        for name in now
        if name in before
        for key, value in now[name].items()
        if key not in ("top_k", "min_count", "oov_buckets") and before[name].get(key) != value
    ]
    if not changes and list(before) != list(now):  # numeric features are columns, told apart by order
        changes = [f"their order was {', '.join(before)}, is {', '.join(now)}"]
    return changes


def load_state(folder: Path) -> TrainingState:
    """Reads what `save` wrote beside the weights.

    Raises:
        RetrainError: there is no checkpoint in the folder.
    """
    try:
        return TrainingState(**json.loads((folder / STATE_FILE).read_text()))
    except FileNotFoundError:
        raise RetrainError(
            f"warm start: the champion has no checkpoint in {folder}. Serve a version that has one "
            "(`retrain history`), or start afresh with `warm_start: {enabled: false}`"
        ) from None
