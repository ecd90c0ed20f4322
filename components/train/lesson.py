"""What one training does, as the configuration says: its steps, and what holds it back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.errors import RetrainError
from components.train.carryover import warm_start
from components.train.carryover.warm_start import Started
from components.train.examples import heldout
from components.train.examples.dataset import fit_budget
from components.train.fit import fitting
from components.train.fit.callbacks import Progress, assign, values
from components.train.fit.place import Place
from components.train.material import Material
from components.train.model.build import Built
from components.train.model.schedule import RunSchedule
from components.train.objective import ewc, losses, regularize

Importances = Mapping[str, np.ndarray]
"""Path of a variable -> how much each of its numbers matters to what was known."""


def plan(material: Material, started: Started) -> fitting.Lesson:
    """What is done with a model that starts."""
    training, settings = material.config["training"], material.config["warm_start"]
    warm = started.carry is not None
    epochs, steps = fit_budget(
        material.mix.steps, (settings if warm else training)["epochs"], training["max_steps"]
    )
    parse = material.parser(started.model, is_regularized(material, started))
    return fitting.Lesson(
        epochs=epochs,
        steps=steps,
        loss=losses.LOSSES[material.label.task](),
        learning_rate=_schedule(material, started, steps * epochs),
        stream=functools.partial(material.batches, parse),
        xla=training["xla"],
        frozen=warm_start.frozen(started.model, settings["freeze"]) if warm else frozenset(),
        head_steps=settings["new_classes"]["freeze_steps"] if _new_classes(started) else 0,
        body=started.body,
        max_seconds=training["max_seconds"],
        divergence=training["divergence"],
        chance=losses.chance_loss(material.label, material.state.outputs),
    )


def _schedule(material: Material, started: Started, steps: int) -> RunSchedule:
    training, settings = material.config["training"], material.config["warm_start"]
    first_step, end = int(started.optimizer.iterations), training["final_learning_rate"]
    if started.carry is None:
        return RunSchedule(training["learning_rate"], first_step, steps, training["warmup"], end)
    if settings["schedule"] == "continue":
        return RunSchedule(training["learning_rate"] * end, first_step, steps, 0.0, 1.0)
    of_new_classes = settings["new_classes"]["learning_rate"] if _new_classes(started) else None
    return RunSchedule(
        of_new_classes or settings["learning_rate"], first_step, steps, training["warmup"], end
    )


def fit(
    material: Material,
    started: Started,
    held: Importances,
    built: Built,
    lesson: fitting.Lesson,
    **more: Any,
) -> tuple[Progress, int | None]:
    """Trains a model where, and held back as, the configuration says; see `fitting.train`.

    Args:
        material: what it is trained on.
        started: how the candidate started; a control starts alike.
        held: as `importances` gives them.
        built: the model and its optimizer.
        lesson: what is done.
        more: of `fitting.train`.
    """
    place = Place(material.config["training"])
    rebuild = functools.partial(material.build, material.state, place.precision)

    def wrap(model: keras.Model) -> keras.Model:
        return _regularized(material, started, held, rebuild, model)

    with place.trained(built, rebuild) as trained:
        return fitting.train(trained, lesson, wrap, **more)


def early_stopping(material: Material) -> fitting.EarlyStopping | None:
    """On held-out rows of new and of past spans.

    Raises:
        RetrainError: during the training: there is no such row.
    """
    patience = material.config["training"]["early_stopping"]
    if patience is None:
        return None

    def loss(model: keras.Model) -> Callable[[], float]:
        records = material.held_out()
        rows = heldout.draw([records.new, records.old])
        if not rows:
            raise RetrainError(
                "training.early_stopping: there is no held-out row to tell when to stop; raise "
                "data.eval_share, or remove early_stopping"
            )
        return functools.partial(heldout.HeldOutLoss(model), heldout.parsed(rows, material.parser(model)))

    return fitting.EarlyStopping(patience, loss)


def is_regularized(material: Material, started: Started) -> bool:
    """Whether there is a champion to be held to, and something holds."""
    return started.carry is not None and regularize.active(material.config["regularization"])


def _regularized(
    material: Material,
    started: Started,
    held: Importances,
    rebuild: Callable[[], Built],
    model: keras.Model,
) -> keras.Model:
    """A compiled model at its start -> what is trained in its place."""
    if not is_regularized(material, started):
        return model
    settings, teacher = material.config["regularization"], None
    if settings["distillation"]["weight"]:
        teacher, _ = rebuild()
        assign(teacher.variables, values(model.variables))
    known = material.state.outputs - _new_classes(started)
    terms = regularize.terms(settings, model, teacher, held, material.label.task, known)
    return regularize.Regularized(model, terms)


def importances(material: Material, started: Started) -> Importances:
    """What EWC holds a warm start to: the champion's importances, or what the buffer tells of them.

    Returns:
        Path of a variable -> an array of its shape; none at a cold start, and without EWC.
    """
    strength = material.config["regularization"]["ewc"]["strength"]
    if not strength or started.carry is None or material.champion is None:
        return {}
    found = ewc.load(material.champion)
    if found is not None:
        return started.carry.importances(found)
    if not material.records.old_rows:
        return {}
    parse = material.parser(started.model)
    return fisher(material, started.model, material.replayed_batches(parse))


def fisher(material: Material, model: keras.Model, batches: tf.data.Dataset) -> Importances:
    """The importances that a model's own training gives it, on examples of some batches."""
    examples = batches.map(lambda inputs, *_: inputs).unbatch()
    examples = examples.take(material.config["regularization"]["ewc"]["examples"]).batch(1)
    return ewc.fisher(model, examples, material.label.task, material.config["training"]["seed"])


def _new_classes(started: Started) -> int:
    """How many classes the champion did not know."""
    return int(started.report.get("grown", {}).get("label", {}).get("new", 0))
