"""What a version's checkpoint knows beside its weights, and whether a next version can start from it.

Read before a run begins, so nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.label import STATE_FILE

WHAT_TO_DO = "Undo the change of the configuration, or start afresh with `warm_start: {enabled: false}`"

_SIZES = ("top_k", "min_count", "oov_buckets")
_KEYED = {
    "categorical": ("separator", "multivalent"),
    "hashed": ("separator", "multivalent"),
    "text": ("ngrams",),
    "bucketized": ("buckets",),
    "identity": ("min", "max"),
}
"""Kind of feature -> its settings whose change leaves a row's key what it was."""


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
        fit: the constants of the transform graph: `numeric`, feature -> `mean` and `scale`; `buckets`,
            feature -> its boundaries; `tensor`, feature -> `mean` and `scale` of each element.
    """

    features: list[dict[str, Any]]
    model: dict[str, Any]
    optimizer: str
    vocabularies: dict[str, list[str]]
    step: int
    task: str
    label: dict[str, Any]
    fit: dict[str, dict[str, Any]]

    @property
    def outputs(self) -> int:
        """How wide the model's output is."""
        return len(self.label["classes"]) or 1


def check_compatible(old: TrainingState, new: TrainingState, changed_model: str = "refuse") -> list[str]:
    """Whether a model can start from a champion of other features or other layers.

    Args:
        old, new: what the champion and the new model know.
        changed_model: of the section `warm_start`; `refuse` allows no change.

    Returns:
        What changed, a sentence each.

    Raises:
        RetrainError: naming what changed, where it is refused; another task, or a label on another scale,
            always is: the champion's answers are to another question.
    """
    if old.task != new.task:
        raise RetrainError(f"warm start: label.task was {old.task}, is {new.task}. {WHAT_TO_DO}")
    if old.label["log"] != new.label["log"]:
        raise RetrainError(
            f"warm start: label.log was {old.label['log']}, is {new.label['log']}; the champion's outputs "
            f"are on the other scale. {WHAT_TO_DO}"
        )
    features, model = feature_changes(old.features, new.features), _model_changes(old, new)
    changes = [f"the features changed: {'; '.join(features)}"] if features else []
    changes += [f"the model changed: {'; '.join(model)}"] if model else []
    if changes and changed_model == "refuse":
        raise RetrainError(f"warm start: {'; '.join(changes)}. {WHAT_TO_DO}")
    return changes


def _model_changes(old: TrainingState, new: TrainingState) -> list[str]:
    if old.model["type"] != new.model["type"]:
        changed = [f"type was {old.model['type']!r}, is {new.model['type']!r}"]
    else:
        changed = [
            f"{key} was {old.model.get(key)!r}, is {value!r}"
            for key, value in new.model.items()
            if key != "dropout" and old.model.get(key) != value
        ]
    if old.optimizer != new.optimizer:
        changed.append(f"optimizer was {old.optimizer!r}, is {new.optimizer!r}")
    return changed


def feature_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """What changed between features, apart from the size of their vocabularies."""
    before, now = ({feature["name"]: feature for feature in features} for features in (old, new))
    changes = [f"{name} is gone" for name in before if name not in now]
    changes += [f"{name} is new" for name in now if name not in before]
    changes += [
        f"{name}.{key} was {before[name].get(key)!r}, is {value!r}"
        for name in now
        if name in before
        for key, value in now[name].items()
        if key not in _SIZES and before[name].get(key) != value
    ]
    if not changes and list(before) != list(now):  # numeric features are columns, told apart by order
        changes = [f"their order was {', '.join(before)}, is {', '.join(now)}"]
    return changes


def redefined(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> set[str]:
    """The features that both know by name, and that are something else now."""
    before = {feature["name"]: feature for feature in old}
    return {
        feature["name"]
        for feature in new
        if feature["name"] in before and _meaning(feature) != _meaning(before[feature["name"]])
    }


def _meaning(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature without what changes which rows its tables have, or which of them an example finds."""
    free = {*_SIZES, *_KEYED.get(feature["type"], ())}
    return {key: value for key, value in feature.items() if key not in free}


def load_state(folder: Path) -> TrainingState:
    """Reads what `save` wrote beside the weights.

    Raises:
        RetrainError: there is no checkpoint in the folder, or one of another layout.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text())
    except FileNotFoundError:
        raise RetrainError(
            f"warm start: the champion has no checkpoint in {folder}. Serve a version that has one "
            "(`retrain history`), or start afresh with `warm_start: {enabled: false}`"
        ) from None
    names = {field.name for field in fields(TrainingState)}
    if content.keys() != names:
        raise RetrainError(
            f"warm start: {folder / STATE_FILE} is of another version of retrain: it "
            f"{_difference(names, content.keys())}. Train the champion's spans anew with `warm_start: "
            "{enabled: false}`, or go on with the retrain that wrote it"
        )
    return TrainingState(**content)


def _difference(wanted: Set[str], seen: Set[str]) -> str:
    lacks, has = ", ".join(sorted(wanted - seen)), ", ".join(sorted(seen - wanted))
    return " and ".join(
        part for part in (f"lacks {lacks}" if lacks else "", f"has {has}, too" if has else "") if part
    )
