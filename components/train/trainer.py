"""`run_fn` of the stock TFX Trainer: warm start, fit, checkpoint, SavedModel."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components import features as feature_specs
from components.custom import load_module
from components.errors import RetrainError
from components.label import Label
from components.train import (
    dataset,
    ewc,
    export,
    fitting,
    heldout,
    influence,
    objective,
    regularize,
    resume,
    warm_start,
)
from components.train.build import build
from components.train.callbacks import Arrays, Progress, assign, values
from components.train.graph import Graph
from components.train.model import TwoTowerModel
from components.train.place import Built, Place, variables
from components.train.schedule import RunSchedule
from components.train.state import TrainingState

COST = "training.json"


def run_fn(fn_args: Any) -> None:
    """Trains one version.

    `fn_args.custom_config` holds `features`, `columns`, `label`, `model`, `training`, `warm_start`, `replay`,
    `regularization`, `poisoning` (the sections of the deployment), `new_spans` and `resume_dir`, the folder
    of step checkpoints. `fn_args.base_model`, where there is one, is the champion's SavedModel.

    Raises:
        RetrainError: no new examples, labels that are none, a champion whose weights do not fit, or a
            diverging loss.
    """
    run = Run(fn_args)
    started = warm_start.start(run.state, run.champion, run.build, run.config["warm_start"])
    begin = Begin(
        values(variables((started.model, started.optimizer))) if run.wants_control else [],
        run.importances(started),
    )
    lesson, checkpoints = run.lesson(started), run.step_checkpoints()
    progress, resumed_at = run.train(started, begin, lesson, checkpoints)

    run.save(started, begin)
    run.write(warm_start.REPORT, started.report)
    run.write(COST, run.cost(progress, resumed_at))
    run.export(started.model)
    if run.wants_control:  # after all that is kept of the candidate, so that nothing here can change it
        run.write(influence.INFLUENCE, run.influence(started, begin, lesson))
    checkpoints.remove()


class Begin(NamedTuple):
    """What is remembered of a training's start.

    Attributes:
        values: of all variables; none where there will be no control.
        importances: path of a variable -> how much each number matters; none without EWC.
    """

    values: Arrays
    importances: Mapping[str, np.ndarray]


class Run:
    """One training, from what TFX gives to it.

    Attributes:
        config: `custom_config`.
        champion: its checkpoint, where this version starts from one.
        state: of this version, as it begins.
    """

    def __init__(self, fn_args: Any) -> None:
        self._args, self.config = fn_args, fn_args.custom_config
        self._training, self._label = self.config["training"], Label.model_validate(self.config["label"])
        if self._training["deterministic"]:
            tf.config.experimental.enable_op_determinism()
        self._features = feature_specs.from_json(self.config["features"])
        self._graph = Graph(fn_args.transform_output, self._features, self.config["columns"], self._label)
        self._records = self._read(fn_args.train_files)
        if not self._records.new_rows:
            raise RetrainError(f"train: the spans {self.config['new_spans']} have no training example")
        warm = fn_args.base_model and self.config["warm_start"]["enabled"]
        self.champion = _checkpoint(fn_args.base_model) if warm else None
        self._ratio = self.config["replay"]["ratio"] if fn_args.base_model else 0.0
        self._mix = dataset.plan_mix(
            self._records.new_rows, self._records.old_rows, self._training["batch_size"], self._ratio
        )
        self._place = Place(self._training)
        # Compiled or divided steps want batches of one size.
        self._full = self._training["xla"] or self._training["strategy"] != "default"
        self.state = TrainingState(
            features=self.config["features"],
            model=self.config["model"],
            optimizer=self._training["optimizer"],
            vocabularies=self._graph.vocabularies(),
            step=0,
            task=self._label.task,
            label=self._graph.label_state().model_dump(),
            fit=self._graph.fit(),
        )

    def _read(self, files: Sequence[str]) -> dataset.Records:
        return dataset.read_records(files, self.config["new_spans"], self._training["shuffle_rows"])

    @property
    def wants_control(self) -> bool:
        """Whether the influence of the new examples is measured."""
        return self.config["poisoning"]["max_influence"] is not None and bool(
            self._args.base_model and self._records.old_rows
        )

    def build(self, state: TrainingState, precision: str = "float32") -> Built:
        """The model and the optimizer of a state, built and seeded."""
        return build(state, self._graph.own, self._training, precision)

    def _rebuilt(self) -> Built:
        """The like of what this version trains, where it is trained."""
        return self.build(self.state, self._place.precision)

    def _is_regularized(self, started: warm_start.Started) -> bool:
        return started.carry is not None and regularize.active(self.config["regularization"])

    def importances(self, started: warm_start.Started) -> Mapping[str, np.ndarray]:
        """What EWC holds a warm start to: the champion's importances, or what the buffer tells of them."""
        if started.carry is None or not self.config["regularization"]["ewc"]["strength"]:
            return {}
        found = ewc.load(_checkpoint(self._args.base_model))
        if found is not None:
            return started.carry.importances(found)
        rows = self._records.old.shuffle(self._training["shuffle_rows"], seed=self._training["seed"])
        parse = self._parser(started.model)
        return self._fisher(
            started.model, rows.batch(64).map(lambda rows: parse(rows, tf.zeros_like(rows, tf.bool)))
        )

    def _fisher(self, model: keras.Model, batches: tf.data.Dataset) -> dict[str, np.ndarray]:
        examples = batches.map(lambda inputs, *_: inputs).unbatch()
        examples = examples.take(self.config["regularization"]["ewc"]["examples"]).batch(1)
        return ewc.fisher(model, examples, self._label.task, self._training["seed"])

    def lesson(self, started: warm_start.Started) -> fitting.Lesson:
        """What is done with it."""
        training, settings, records = self._training, self.config["warm_start"], self._records
        warm = started.carry is not None
        new_classes = settings["new_classes"] if warm and _new_classes(started.report) else None
        epochs, steps = dataset.fit_budget(
            self._mix.steps, (settings if warm else training)["epochs"], training["max_steps"]
        )
        peak = settings["learning_rate"] if warm else training["learning_rate"]
        if new_classes and new_classes["learning_rate"]:
            peak = new_classes["learning_rate"]
        parse = self._parser(started.model, self._is_regularized(started))
        return fitting.Lesson(
            epochs=epochs,
            steps=steps,
            loss=objective.LOSSES[self._label.task](),
            learning_rate=self._schedule(peak, warm, int(started.optimizer.iterations), steps * epochs),
            stream=lambda done: self._batches(records.new, records.old, self._mix, parse, done),
            xla=training["xla"],
            frozen=warm_start.frozen(started.model, settings["freeze"]) if warm else frozenset(),
            head_steps=new_classes["freeze_steps"] if new_classes else 0,
            body=started.body,
            max_seconds=training["max_seconds"],
            divergence=training["divergence"],
            chance=objective.chance_loss(self._label, self.state.outputs),
        )

    def _schedule(self, peak: float, warm: bool, first_step: int, steps: int) -> RunSchedule:
        training = self._training
        if warm and self.config["warm_start"]["schedule"] == "continue":
            end = training["learning_rate"] * training["final_learning_rate"]
            return RunSchedule(end, first_step, steps, 0.0, 1.0)
        return RunSchedule(peak, first_step, steps, training["warmup"], training["final_learning_rate"])

    @functools.cached_property
    def _class_weights(self) -> np.ndarray | None:
        label, records = self._label, self._records
        counts = None
        if label.class_weights == "balanced":
            counts = dataset.count_labels(
                [records.new, records.old], label.name, self._graph.spec[label.name]
            )
        return objective.class_weights(label, self._graph.classes, counts)

    def _parser(self, model: keras.Model, regularized: bool = False) -> Callable[..., tuple[Any, ...]]:
        names = [tensor.name for tensor in model.inputs]
        return self._graph.parser(names, self._class_weights, self.state.outputs if regularized else None)

    def _batches(
        self,
        new: tf.data.Dataset,
        old: tf.data.Dataset,
        mix: dataset.Mix,
        parse: Callable[..., Any],
        done: int,
    ) -> tf.data.Dataset:
        rows, seed = self._training["shuffle_rows"], self._training["seed"]
        return dataset.batches(new, old, mix, rows, seed, parse, done, self._full)

    def step_checkpoints(self) -> resume.StepCheckpoints:
        """Those of this very training: of the same configuration, examples, graph, champion and module."""
        inputs = [
            *dataset.files_of([*self._args.train_files, *self._args.eval_files]),
            self._args.transform_output,
        ]
        if self.champion:
            inputs += [self.champion / name for name in warm_start.IDENTITY]
        module = load_module(self.config["model"].get("module"))
        if module:
            inputs.append(module.__file__)
        config = {name: value for name, value in self.config.items() if name != "resume_dir"}
        return resume.StepCheckpoints(
            Path(self.config["resume_dir"]), resume.key(config, inputs), self._training["checkpoint_steps"]
        )

    def train(
        self,
        started: warm_start.Started,
        begin: Begin,
        lesson: fitting.Lesson,
        checkpoints: resume.StepCheckpoints,
    ) -> tuple[Progress, int | None]:
        """Trains the model; how it went, and the step that it was taken up again at."""
        board = keras.callbacks.TensorBoard(self._args.model_run_dir, write_graph=False, update_freq="epoch")
        patience = self._training["early_stopping"]
        with self._place.trained((started.model, started.optimizer), self._rebuilt) as built:
            return fitting.train(
                built,
                lesson,
                functools.partial(self._regularized, started, begin),
                self._held_out_loss if patience else None,
                patience,
                checkpoints,
                [board],
            )

    def _regularized(self, started: warm_start.Started, begin: Begin, model: keras.Model) -> keras.Model:
        """A compiled model at its start -> what is trained in its place."""
        if not self._is_regularized(started):
            return model
        settings, teacher = self.config["regularization"], None
        if settings["distillation"]["weight"]:
            teacher, _ = self._rebuilt()
            assign(teacher.variables, values(model.variables))
        known = self.state.outputs - _new_classes(started.report)
        terms = regularize.terms(settings, model, teacher, begin.importances, self.state.task, known)
        return regularize.Regularized(model, terms)

    def _held_out_loss(self, model: keras.Model) -> Callable[[], float]:
        records = self._read(self._args.eval_files)
        rows = heldout.draw([records.new, records.old])
        if not rows:
            raise RetrainError(
                "training.early_stopping: there is no held-out row to tell when to stop; raise "
                "data.eval_share, or remove early_stopping"
            )
        return functools.partial(heldout.HeldOutLoss(model), heldout.parsed(rows, self._parser(model)))

    def save(self, started: warm_start.Started, begin: Begin) -> None:
        """Writes what the next version starts from."""
        folder, settings = _checkpoint(self._args.serving_model_dir), self.config["regularization"]["ewc"]
        state = replace(self.state, step=int(started.optimizer.iterations))
        warm_start.save(folder, started.model, started.optimizer, state)
        if settings["strength"]:
            records, parse = self._records, self._parser(started.model)
            own = self._fisher(started.model, self._batches(records.new, records.old, self._mix, parse, 0))
            ewc.save(folder, ewc.consolidate(begin.importances, own, settings["decay"]))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a report beside the weights."""
        folder = _checkpoint(self._args.serving_model_dir)
        (folder / name).write_text(json.dumps(content, indent=1))

    def cost(self, progress: Progress, resumed_at: int | None) -> dict[str, Any]:
        """What `training.json` says."""
        return {
            "steps": progress.step,
            "epochs": round(progress.step / self._mix.steps, 3),
            "batch_size": self._training["batch_size"],
            "examples": self._mix.examples(self._records.new_rows, progress.step, self._full),
            "new_rows": self._records.new_rows,
            "replayed_rows": self._records.old_rows,
            "replay_ratio": self._ratio,
            "seconds": round(progress.seconds, 3),
            "stopped": progress.stopped,
            "resumed_at": resumed_at,
            "best_epoch": progress.best_epoch,
            "losses": {"first": progress.first_loss, "last": progress.last_loss},
        }

    def export(self, model: keras.Model) -> None:
        """Writes the SavedModel."""
        towers = {
            side: sorted(
                {c for f in self._features if f.name in self.config["model"][side] for c in f.columns}
            )
            for side in ("user", "item")
            if isinstance(model, TwoTowerModel)
        }
        export.export(
            model,
            self._graph.layer,
            self._graph.kinds,
            self._label,
            self._graph.classes,
            towers,
            self._args.serving_model_dir,
        )

    def influence(self, started: warm_start.Started, begin: Begin, lesson: fitting.Lesson) -> dict[str, Any]:
        """What `influence.json` says: the candidate beside a control that learned from replayed examples.

        Args:
            started: whose model has been trained.
            begin: how it started.
            lesson: the candidate's.
        """
        control, control_optimizer = self.build(self.state)
        assign(variables((control, control_optimizer)), begin.values)
        steps = int(started.optimizer.iterations) - int(control_optimizer.iterations)
        mix = dataset.plan_mix(self._records.old_rows, 0, self._training["batch_size"], 0.0)
        parse = self._parser(control, self._is_regularized(started))

        def replayed(done: int) -> tf.data.Dataset:
            old = self._records.old
            return self._batches(old, old, mix, lambda rows, new: parse(rows, tf.zeros_like(new)), done)

        alone = replace(lesson, epochs=1, steps=steps, stream=replayed, max_seconds=None)
        with self._place.trained((control, control_optimizer), self._rebuilt) as built:
            fitting.train(built, alone, functools.partial(self._regularized, started, begin))
        held_out = self._read(self._args.eval_files)
        rows = influence.slices(
            list(held_out.old.as_numpy_iterator()),
            heldout.draw([held_out.new]),
            self.config["poisoning"]["trusted"],
            self._graph.spec,
        )
        return influence.compare(rows, *(self._loss_on(model) for model in (started.model, control)))

    def _loss_on(self, model: keras.Model) -> Callable[[Sequence[bytes]], float]:
        """Mean loss of a model on rows."""
        model.compile(loss=objective.LOSSES[self._label.task]())
        loss, parse = heldout.HeldOutLoss(model), self._parser(model)
        return lambda rows: loss(heldout.parsed(rows, parse))


def _new_classes(report: Mapping[str, Any]) -> int:
    return report.get("grown", {}).get("label", {}).get("new", 0)


def _checkpoint(saved_model: str) -> Path:
    return Path(saved_model).parent / "checkpoint"
