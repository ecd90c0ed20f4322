"""What a training is made of: the configuration, the transform graph, and the examples, ready for a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components import features as feature_specs
from components.custom import load_module
from components.errors import RetrainError
from components.label import Label
from components.train.carryover import checkpoint
from components.train.examples import dataset, heldout
from components.train.examples.graph import Graph
from components.train.fit import resume
from components.train.model.build import Built, build
from components.train.model.state import TrainingState
from components.train.objective import losses


class Material:
    """Read from what TFX gives to `run_fn`; nothing of it changes.

    Attributes:
        config: `custom_config`: sections of the deployment by name, and more; see `run_fn`.
        label, features: as configured.
        graph: the transform graph.
        records: new and replayed examples.
        champion: the checkpoint of the version before; None: there is none.
        ratio: the share of a batch that is replayed, where there is something to replay.
        mix: of a batch.
        full: every batch has the same size.
        state: of this version, before its first step.

    Raises:
        RetrainError: no new examples, or labels that are none.
    """

    def __init__(self, fn_args: Any) -> None:
        self.config, self._args = fn_args.custom_config, fn_args
        training = self.config["training"]
        self.label = Label.model_validate(self.config["label"])
        self.features = feature_specs.from_json(self.config["features"])
        self.graph = Graph(fn_args.transform_output, self.features, self.config["columns"], self.label)
        self.records = self._read(fn_args.train_files)
        if not self.records.new_rows:
            raise RetrainError(f"train: the spans {self.config['new_spans']} have no training example")
        self.champion = checkpoint_of(fn_args.base_model) if fn_args.base_model else None
        self.ratio = self.config["replay"]["ratio"] if self.champion else 0.0
        self.mix = dataset.plan_mix(
            self.records.new_rows, self.records.old_rows, training["batch_size"], self.ratio
        )
        # Compiled or divided steps want it.
        self.full = training["xla"] or training["strategy"] != "default"
        self.state = TrainingState(
            features=self.config["features"],
            model=self.config["model"],
            optimizer=training["optimizer"],
            vocabularies=self.graph.vocabularies(),
            step=0,
            task=self.label.task,
            label=self.graph.label_state().model_dump(),
            fit=self.graph.fit(),
        )

    def _read(self, files: Sequence[str]) -> dataset.Records:
        return dataset.read_records(files, self.config["new_spans"], self.config["training"]["shuffle_rows"])

    def held_out(self) -> dataset.Records:
        """Held-out examples, of the new spans and of the buffer."""
        return self._read(self._args.eval_files)

    def build(self, state: TrainingState, precision: str = "float32") -> Built:
        """The model and the optimizer of a state, built and seeded."""
        return build(state, self.graph.own, self.config["training"], precision)

    @functools.cached_property
    def _class_weights(self) -> np.ndarray | None:
        label, counts = self.label, None
        if label.class_weights == "balanced":
            records = [self.records.new, self.records.old]
            counts = dataset.count_labels(records, label.name, self.graph.spec[label.name])
        return losses.class_weights(label, self.graph.classes, counts)

    def parser(self, model: keras.Model, regularized: bool = False) -> heldout.Parse:
        """Serialized examples, and which are new -> what a model is trained on; `regularized`, and more."""
        names = [tensor.name for tensor in model.inputs]
        return self.graph.parser(names, self._class_weights, self.state.outputs if regularized else None)

    def batches(self, parse: heldout.Parse, done: int = 0) -> tf.data.Dataset:
        """Batches of new examples and replayed ones, without end, less the first `done`."""
        return self._batches(self.records.new, self.records.old, self.mix, parse, done)

    def replayed_batches(self, parse: heldout.Parse, done: int = 0) -> tf.data.Dataset:
        """Batches of replayed examples alone."""
        old, size = self.records.old, self.config["training"]["batch_size"]
        mix = dataset.plan_mix(self.records.old_rows, 0, size, 0.0)
        return self._batches(old, old, mix, lambda rows, new: parse(rows, tf.zeros_like(new)), done)

    def _batches(
        self,
        new: tf.data.Dataset,
        old: tf.data.Dataset,
        mix: dataset.Mix,
        parse: Callable[..., Any],
        done: int,
    ) -> tf.data.Dataset:
        training = self.config["training"]
        return dataset.batches(
            new, old, mix, training["shuffle_rows"], training["seed"], parse, done, self.full
        )


def step_checkpoints(fn_args: Any) -> resume.StepCheckpoints:
    """Those of this very training: of this configuration, these examples, graph, champion and module."""
    config = {name: value for name, value in fn_args.custom_config.items() if name != "resume_dir"}
    inputs: list[Any] = dataset.files_of([*fn_args.train_files, *fn_args.eval_files])
    inputs.append(fn_args.transform_output)
    if fn_args.base_model:
        inputs += [checkpoint_of(fn_args.base_model) / name for name in checkpoint.IDENTITY]
    module = load_module(config["model"].get("module"))
    if module:
        inputs.append(module.__file__)
    return resume.StepCheckpoints(
        Path(fn_args.custom_config["resume_dir"]),
        resume.key(config, inputs),
        config["training"]["checkpoint_steps"],
    )


def checkpoint_of(saved_model: str) -> Path:
    """The checkpoint beside a SavedModel."""
    return Path(saved_model).parent / "checkpoint"
