"""Starting from the champion: its weights, optimizer slots and step, each where it belongs now.

From run to run a vocabulary is refitted, moments and boundaries move, a class comes, a feature is added. So
row 7 of an embedding may be another term's than it was, and a z-score of 1 another number. What means the
same goes where it stands now (`keys` for one axis, `carry` for a whole model), so that before its first step
the new model answers as the champion does on what the champion knew:

- a term, a class, an identity's value starts from its own row, wherever that stood; a term new to the
  champion as `warm_start.new_terms` says, by default from the out-of-vocabulary row that it was served from;
- a bucket starts from the old ones by the share of its examples that they held;
- other means and scales are folded into the layer that takes the numbers;
- a feature that came has no say yet; neither has a class, beyond about 1 %.

Two things no weight can make up for: the elements missing of a tensor, and the numbers of a model whose
first layer is unknown or sees neighbours. The transform graph keeps the champion's scale for the latter.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras

from components import features as feature_specs
from components.errors import RetrainError
from components.train.carryover.carry import Arrays, Carry
from components.train.carryover.checkpoint import arrays, named, read
from components.train.carryover.plan import plan
from components.train.model.blueprint import layer_of
from components.train.model.state import TrainingState, check_compatible, feature_changes, load_state

REPORT = "warm_start.json"

Build = Callable[[TrainingState], tuple[keras.Model, keras.optimizers.Optimizer]]


class Started(NamedTuple):
    """Where a training begins.

    Attributes:
        model, optimizer: built; of a warm start with the champion's weights, slots and step.
        report: what `checkpoint/warm_start.json` says of the start.
        carry: of a warm start, moves what else belongs to the champion's variables, such as importances:
            `carry.importances({path: array}) -> {path: array}`; None where nothing was carried.
        body: where a class is new, the names of all layers but those that it made wider.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    report: dict[str, Any]
    carry: Carry | None = None
    body: frozenset[str] = frozenset()


def start(state: TrainingState, champion: Path | None, build: Build, settings: Mapping[str, Any]) -> Started:
    """A fresh model, or one that starts where the champion's checkpoint ends.

    Args:
        state: what the new model knows: features, terms, classes, fit constants.
        champion: the champion's checkpoint; None: a cold start.
        build: makes the model and the optimizer of a state, built and seeded.
        settings: the section `warm_start`.

    Raises:
        RetrainError: there is no whole checkpoint, or what changed does not allow a warm start.
    """
    if champion is None:
        reason = "there is no champion" if settings["enabled"] else "warm_start.enabled is false"
        return Started(*build(state), {"start": "cold", "reason": reason})
    before = load_state(champion)
    changes = check_compatible(before, state, settings["changed_model"])
    if changes and settings["changed_model"] == "scratch":
        return Started(*build(state), {"start": "scratch", "reason": "; ".join(changes)})
    if _untold(before, state):
        reason = f"{'; '.join(changes)}; which weights of your own model take what, nothing tells"
        return Started(*build(state), {"start": "scratch", "reason": reason})
    return _carry_over(before, state, read(champion), build, settings["new_terms"], "; ".join(changes))


def _carry_over(
    before: TrainingState,
    state: TrainingState,
    champion: tuple[Arrays, Arrays],
    build: Build,
    new_terms: str,
    reason: str,
) -> Started:
    """A model that starts with the champion's weights and slots, which `champion` holds."""
    grown = before.label["classes"] != state.label["classes"]
    heads = output_variables(state, build) if grown else []
    model, optimizer = build(state)
    old, old_slots = champion
    weights, slots = named(model.weights), named(optimizer.variables)
    carry = plan(
        before,
        state,
        {path: array.shape for path, array in old.items()},
        {path: tuple(weight.shape) for path, weight in weights.items()},
        heads,
        new_terms,
    )
    for path, array in carry.weights(old, arrays(weights)).items():
        weights[path].assign(array)
    same_optimizer = before.optimizer == state.optimizer
    if same_optimizer:
        for name, array in carry.slots(old_slots, arrays(slots)).items():
            slots[name].assign(array)
    report = {
        "start": "warm",
        "reason": reason,
        "carried": len(carry.moves),
        "grown": _grown(before, state),
        **_scales(before, state, carry),
        "fresh": sorted(weights.keys() - carry.moves.keys()),
        "dropped": sorted(old.keys() - carry.moves.keys()),
        "slots": "carried" if same_optimizer else "fresh",
    }
    body = frozenset(_layers(model)) - {layer_of(path) for path in heads} if heads else frozenset()
    return Started(model, optimizer, report, carry, body)


def _untold(before: TrainingState, state: TrainingState) -> bool:
    """Whether a model of the user's own takes other features: which row is whose, only it knows."""
    own = before.model["type"] == state.model["type"] == "custom"
    return own and bool(feature_changes(before.features, state.features))


def _grown(before: TrainingState, state: TrainingState) -> dict[str, dict[str, int]]:
    """Of each vocabulary, and of the label's classes: how many terms were kept, came and went."""
    old = {**before.vocabularies, "label": before.label["classes"]}
    new = {**state.vocabularies, "label": state.label["classes"]}
    return {
        name: {
            "kept": len(known := set(old[name]) & set(new[name])),
            "new": len(new[name]) - len(known),
            "dropped": len(old[name]) - len(known),
        }
        for name in new
        if name in old and (new[name] or old[name])
    }


def _scales(before: TrainingState, state: TrainingState, carry: Carry) -> dict[str, list[str]]:
    """The features whose moments were folded into weights, and those whose champion's moments were kept."""
    numbers = [f.name for f in feature_specs.from_json(state.features) if f.form in ("numeric", "tensor")]
    folded = {name for fold in carry.folds.values() for name in fold.features}
    alike = [name for name in numbers if _moments(before, name) == _moments(state, name)]
    return {
        "rescaled": [name for name in numbers if name in folded and name not in alike],
        "kept_scale": [name for name in numbers if name not in folded and name in alike],
    }


def _moments(state: TrainingState, name: str) -> Any:
    return state.fit["numeric"].get(name) or state.fit["tensor"].get(name)


def output_variables(state: TrainingState, build: Build) -> list[str]:
    """The paths of the variables with an axis of classes: those that one class more makes wider.

    Args:
        state: of a multiclass label.
        build: as of `start`.
    """
    more = replace(state, label={**state.label, "classes": [*state.label["classes"], "one more"]})
    one, wider = (
        {path: tuple(weight.shape) for path, weight in named(build(s)[0].weights).items()}
        for s in (state, more)
    )
    return [path for path, shape in wider.items() if shape != one[path]]


def frozen(model: keras.Model, patterns: Iterable[str]) -> frozenset[str]:
    """The layers that patterns name.

    Args:
        model: whose layers they are.
        patterns: layer names; * stands for anything.

    Raises:
        RetrainError: a pattern names none.
    """
    names, found = _layers(model), set()
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise RetrainError(
                f"warm_start.freeze: {pattern!r} names no layer of the model, expected some of "
                f"{', '.join(names)}"
            )
        found.update(matching)
    return frozenset(found)


def _layers(model: keras.Model) -> list[str]:
    """Of the layers that have weights, in their order."""
    return list(dict.fromkeys(layer_of(weight.path) for weight in model.weights))
