"""`run_fn` of the stock TFX Trainer: warm start, fit, checkpoint, SavedModel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components import features as feature_specs
from components.errors import RetrainError
from components.features import Feature
from components.train import dataset, export, warm_start
from components.train.model import build_model
from components.train.schedule import RunSchedule
from components.train.warm_start import TrainingState


def run_fn(fn_args: Any) -> None:
    """Trains one version.

    `fn_args.custom_config` holds `features`, `label`, `model`, `training`, `warm_start`, `replay`
    (the sections of the deployment), `watermark` (the last span that the champion has learned) and
    `seed`. `fn_args.base_model`, where there is one, is the champion's SavedModel.

    Raises:
        RetrainError: no new examples, a champion whose weights do not fit, or a diverging loss.
    """
    config = fn_args.custom_config
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(config["seed"])
    transform = tft.TFTransformOutput(fn_args.transform_output)
    features = feature_specs.from_json(config["features"])
    training = config["training"]

    new, old = dataset.read_records(fn_args.train_files, config["watermark"])
    new_rows, old_rows = dataset.count(new), dataset.count(old)
    if not new_rows:
        raise RetrainError(f"train: no training example is newer than span {config['watermark']}")

    warm = bool(fn_args.base_model) and config["warm_start"]["enabled"]
    ratio = config["replay"]["ratio"] if fn_args.base_model else 0.0
    mix = dataset.plan_mix(new_rows, old_rows, training["batch_size"], ratio)
    epochs = config["warm_start"]["epochs"] if warm else training["epochs"]
    peak = config["warm_start"]["learning_rate"] if warm else training["learning_rate"]

    state = TrainingState(
        features=config["features"],
        model=config["model"],
        optimizer=training["optimizer"],
        vocabularies={f.name: _terms(transform, f) for f in features if f.kind == "categorical"},
        step=0,
    )
    model, optimizer = _start(state, _checkpoint(fn_args.base_model) if warm else None, training)
    first_step = int(optimizer.iterations)
    optimizer.learning_rate = RunSchedule(
        peak, first_step, mix.steps * epochs, training["warmup"], training["final_learning_rate"]
    )
    # XLA would compile for seconds what runs for seconds.
    model.compile(optimizer, loss="binary_crossentropy", jit_compile=False)
    spec, graph = transform.raw_feature_spec(), transform.transform_features_layer()
    columns = {name: spec[name] for name in sorted({f.column for f in features})}
    parse = _parser(graph, columns | {config["label"]: spec[config["label"]]}, features, config["label"])
    model.fit(
        # Repeated, because making an iterator optimizes the transform graph anew.
        dataset.batches(new, old, mix, training["shuffle_rows"], config["seed"], parse).repeat(),
        epochs=epochs,
        steps_per_epoch=mix.steps,
        verbose=0,
        callbacks=[
            StopDiverging(training["divergence"]),
            keras.callbacks.TensorBoard(fn_args.model_run_dir, write_graph=False, update_freq="epoch"),
        ],
    )
    state = replace(state, step=int(optimizer.iterations))
    warm_start.save(_checkpoint(fn_args.serving_model_dir), model, optimizer, state)
    export.export(model, graph, columns, fn_args.serving_model_dir)


def _checkpoint(saved_model: str) -> Path:
    return Path(saved_model).parent / "checkpoint"


def _terms(transform: tft.TFTransformOutput, feature: Feature) -> list[str]:
    return [t.decode("utf-8", "surrogateescape") for t in transform.vocabulary_by_name(feature.vocabulary)]


def _build(
    state: TrainingState, training: Mapping[str, Any]
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    features = feature_specs.from_json(state.features)
    rows = {f.name: f.rows(len(state.vocabularies.get(f.name, []))) for f in features}
    model = build_model(features, rows, state.model)
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
    state: TrainingState, champion: Path | None, training: Mapping[str, Any]
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """A fresh model, or one that starts where the champion's checkpoint ends."""
    model, optimizer = _build(state, training)
    if champion is None:
        return model, optimizer
    before = warm_start.load_state(champion)
    warm_start.check_compatible(before, state)
    old_model, old_optimizer = _build(before, training)
    warm_start.restore(champion, old_model, old_optimizer)
    sources = warm_start.table_sources(before, state.features, state.vocabularies)
    warm_start.carry_over(old_model, old_optimizer, model, optimizer, sources)
    return model, optimizer


def _parser(graph: Any, columns: Mapping[str, Any], features: list[Feature], label: str) -> Any:
    """Serialized examples -> (inputs, label), through the transform graph."""
    names = feature_specs.outputs(features)

    def parse(serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        transformed = graph(tf.io.parse_example(serialized, columns))
        return {name: transformed[name] for name in names}, transformed[label]

    return parse


class StopDiverging(keras.callbacks.Callback):
    """Fails the run when the loss is not a number, or has grown well beyond where it began.

    Args:
        limit: the largest mean loss of an epoch, in multiples of that of the first ten steps.

    Raises:
        RetrainError: during fit.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
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
        if loss > self.limit * self.first:
            raise RetrainError(
                f"train: the loss diverged: it began at {self.first:.4g} and epoch {epoch + 1} ended at "
                f"{loss:.4g}, more than training.divergence = {self.limit:g} times that. Lower the "
                "learning rate, or look at the new data; nothing was registered"
            )
