"""`run_fn` of the stock TFX Trainer: warm start, fit, checkpoint, SavedModel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components import features as feature_specs
from components import models
from components.errors import RetrainError
from components.features import EXAMPLE_WEIGHT, LABEL, LABEL_MEAN, LABEL_SCALE
from components.label import VOCABULARY, Label, LabelState
from components.train import dataset, export, warm_start
from components.train.blueprint import Blueprint, densify, make_inputs, own_outputs
from components.train.model import TwoTowerModel, build_model
from components.train.schedule import RunSchedule
from components.train.state import TrainingState, check_compatible, load_state


def run_fn(fn_args: Any) -> None:
    """Trains one version.

    `fn_args.custom_config` holds `features`, `columns`, `label`, `model`, `training`, `warm_start`, `replay`
    (the sections of the deployment) and `new_spans`. `fn_args.base_model`, where there is one, is the
    champion's SavedModel.

    Raises:
        RetrainError: no new examples, labels that are none, a champion whose weights do not fit, or a
            diverging loss.
    """
    config = fn_args.custom_config
    transform = tft.TFTransformOutput(fn_args.transform_output)
    features, label = feature_specs.from_json(config["features"]), Label.model_validate(config["label"])
    training = config["training"]

    new, old = dataset.read_records(fn_args.train_files, config["new_spans"])
    new_rows, old_rows = dataset.count(new), dataset.count(old)
    if not new_rows:
        raise RetrainError(f"train: the spans {config['new_spans']} have no training example")

    warm = bool(fn_args.base_model) and config["warm_start"]["enabled"]
    ratio = config["replay"]["ratio"] if fn_args.base_model else 0.0
    mix = dataset.plan_mix(new_rows, old_rows, training["batch_size"], ratio)
    epochs, steps = dataset.fit_budget(
        mix.steps, (config["warm_start"] if warm else training)["epochs"], training["max_steps"]
    )
    peak = config["warm_start"]["learning_rate"] if warm else training["learning_rate"]

    spec, graph = transform.raw_feature_spec(), transform.transform_features_layer()
    classes = _classes(transform, label)
    own = own_outputs(transform.transformed_feature_spec(), features)
    state = TrainingState(
        features=config["features"],
        model=config["model"],
        optimizer=training["optimizer"],
        vocabularies={f.name: _terms(transform, f.vocabulary) for f in features if f.has_vocabulary},
        step=0,
        task=label.task,
        label=LabelState(classes=classes, log=label.log).model_dump(),
    )
    build = functools.partial(_build, own=own, training=training)
    model, optimizer = _start(state, _checkpoint(fn_args.base_model) if warm else None, build)
    first_step = int(optimizer.iterations)
    optimizer.learning_rate = RunSchedule(
        peak, first_step, steps * epochs, training["warmup"], training["final_learning_rate"]
    )
    # XLA would compile for seconds what runs for seconds.
    model.compile(optimizer, loss=_LOSSES[label.task](), jit_compile=False)
    kinds = {name: (spec[name].dtype, many) for name, many in config["columns"].items()}
    counts = (
        dataset.count_labels([new, old], label.name, spec[label.name])
        if label.class_weights == "balanced"
        else None
    )
    read = [*kinds, label.name, *([label.example_weight] if label.example_weight else [])]
    parse = _parser(
        graph,
        {name: spec[name] for name in read},
        [tensor.name for tensor in model.inputs],
        label,
        _class_weights(label, classes, counts),
    )
    model.fit(
        # Repeated, because making an iterator optimizes the transform graph anew.
        dataset.batches(new, old, mix, training["shuffle_rows"], training["seed"], parse).repeat(),
        epochs=epochs,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[
            StopDiverging(training["divergence"], _chance_loss(label, len(classes))),
            keras.callbacks.TensorBoard(fn_args.model_run_dir, write_graph=False, update_freq="epoch"),
        ],
    )
    state = replace(
        state,
        step=int(optimizer.iterations),
        label=_label_state(graph, {name: spec[name] for name in kinds}, label, classes).model_dump(),
    )
    warm_start.save(_checkpoint(fn_args.serving_model_dir), model, optimizer, state)
    towers = {
        side: sorted({c for f in features if f.name in config["model"][side] for c in f.columns})
        for side in ("user", "item")
        if isinstance(model, TwoTowerModel)
    }
    export.export(model, graph, kinds, label, classes, towers, fn_args.serving_model_dir)


_LOSSES: Mapping[str, Any] = {
    "binary": functools.partial(keras.losses.BinaryCrossentropy, from_logits=True),
    "multiclass": functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
    "regression": keras.losses.MeanSquaredError,
}


def _checkpoint(saved_model: str) -> Path:
    return Path(saved_model).parent / "checkpoint"


def _terms(transform: tft.TFTransformOutput, vocabulary: str) -> list[str]:
    return [term.decode("utf-8", "surrogateescape") for term in transform.vocabulary_by_name(vocabulary)]


def _classes(transform: tft.TFTransformOutput, label: Label) -> list[str]:
    if label.task != "multiclass":
        return []
    classes = _terms(transform, VOCABULARY)
    if not 2 <= len(classes) <= label.max_classes:
        raise RetrainError(
            f"train: the label {label.name!r} has {len(classes)} classes ({', '.join(classes[:3])}, ...), "
            f"expected 2 to {label.max_classes} (label.max_classes). Is it an id, or a number, for "
            "label.task: regression?"
        )
    return classes


def _label_state(graph: Any, columns: Mapping[str, Any], label: Label, classes: list[str]) -> LabelState:
    """What the next version goes on with; the scale of a regression is a constant of the graph."""
    if label.task != "regression":
        return LabelState(classes=classes)
    # One row without anything in it.
    constants = graph(tf.io.parse_example([tf.train.Example().SerializeToString()], columns))
    return LabelState(
        mean=float(constants[LABEL_MEAN][0]), scale=float(constants[LABEL_SCALE][0]), log=label.log
    )


def _class_weights(label: Label, classes: list[str], counts: Mapping[str, int] | None) -> np.ndarray | None:
    """How much each class counts, float32 [classes]; None: all alike.

    Balanced weights are n / (classes * examples of the class), as scikit-learn has them.

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


def _chance_loss(label: Label, classes: int) -> float:
    """The loss of a model that knows nothing."""
    return 1.0 if label.task == "regression" else math.log(max(classes, 2))


def _build(
    state: TrainingState, own: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    # Keras numbers layers without a name, such as a user's, through the whole process: the champion's
    # and its successor's must have the same ones.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(training["seed"])
    features = feature_specs.from_json(state.features)
    blueprint = Blueprint(
        inputs=make_inputs(features, own),
        features=features,
        rows={
            f.name: f.rows(len(state.vocabularies.get(f.name, []))) for f in feature_specs.indexed(features)
        },
        outputs=state.outputs,
    )
    model = build_model(blueprint, models.from_json(state.model))
    # A schedule from the start: with a plain number the optimizer would hold one variable more.
    optimizer = keras.optimizers.get(
        {
            "class_name": state.optimizer,
            "config": {
                "name": "optimizer",
                "clipnorm": training["clipnorm"],
                "learning_rate": RunSchedule(0.0, 0, 1, 0.0, 1.0),
            },
        }
    )
    optimizer.build(model.trainable_variables)
    return model, optimizer


def _start(
    state: TrainingState, champion: Path | None, build: Callable[[TrainingState], tuple[Any, Any]]
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """A fresh model, or one that starts where the champion's checkpoint ends."""
    model, optimizer = build(state)
    if champion is None:
        return model, optimizer
    before = load_state(champion)
    check_compatible(before, state)
    old_model, old_optimizer = build(before)
    warm_start.restore(champion, old_model, old_optimizer)
    sources = warm_start.table_sources(before, state.features, state.vocabularies)
    warm_start.carry_over(
        old_model, old_optimizer, model, optimizer, sources, (before.outputs, state.outputs)
    )
    return model, optimizer


def _parser(
    graph: Any,
    columns: Mapping[str, Any],
    names: Sequence[str],
    label: Label,
    class_weights: np.ndarray | None,
) -> Any:
    """Serialized examples -> (inputs, label, weight), through the transform graph."""

    def parse(serialized: tf.Tensor) -> tuple[Any, ...]:
        transformed = graph(tf.io.parse_example(serialized, columns))
        learned = transformed[LABEL]
        weight = tf.ones_like(learned, tf.float32)
        if label.example_weight:
            weight *= transformed[EXAMPLE_WEIGHT]
        if class_weights is not None:
            weight *= tf.gather(class_weights, tf.cast(learned, tf.int64))
        target = learned if label.task == "multiclass" else learned[:, tf.newaxis]
        weighted = (weight,) if label.example_weight or class_weights is not None else ()
        return densify(transformed, names), target, *weighted

    return parse


class StopDiverging(keras.callbacks.Callback):
    """Fails the run when the loss is not a number, or has grown well beyond where it began.

    Args:
        limit: the largest mean loss of an epoch, in multiples of that of the first ten steps.
        chance: the loss of a model that knows nothing; below it nothing has diverged.

    Raises:
        RetrainError: during fit.
    """

    def __init__(self, limit: float, chance: float) -> None:
        super().__init__()
        self.limit, self.chance = limit, chance
        self.first: float | None = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise RetrainError(
                f"train: the loss became {loss} at step {int(self.model.optimizer.iterations)}. Lower "
                "training.learning_rate (and warm_start.learning_rate), or look for extreme values in "
                "the numeric columns; nothing was registered"
            )
        if self.first is None and batch >= 9:
            self.first = loss

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self.first = loss if self.first is None else self.first
        if loss > max(self.limit * self.first, self.chance):
            raise RetrainError(
                f"train: the loss diverged: it began at {self.first:.4g} and epoch {epoch + 1} ended at "
                f"{loss:.4g}, more than training.divergence = {self.limit:g} times that. Lower the "
                "learning rate, or look at the new data; nothing was registered"
            )
