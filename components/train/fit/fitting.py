"""One training, from where a model starts to where its budget ends, in calls of Keras' `fit`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from components.train.fit.callbacks import (
    Arrays,
    CarryMetrics,
    Count,
    KeepBest,
    Progress,
    StopDiverging,
    WriteSteps,
    assign,
    group,
    values,
)
from components.train.fit.place import variables
from components.train.fit.resume import StepCheckpoints
from components.train.model.blueprint import layer_of
from components.train.model.build import Built


@dataclass(frozen=True)
class Lesson:
    """What one training does.

    Attributes:
        epochs: passes over the new examples.
        steps: of an epoch.
        loss: Keras loss of a batch.
        learning_rate: a schedule over the optimizer's steps.
        stream: how many batches are left out -> batches without end.
        xla: whether a step is compiled.
        frozen: names of the layers that are not trained.
        head_steps: so many first steps train the output layers alone.
        body: names of all other layers.
        max_seconds: of the whole training.
        divergence, chance: as `StopDiverging` takes them.
    """

    epochs: int
    steps: int
    loss: Any
    learning_rate: keras.optimizers.schedules.LearningRateSchedule
    stream: Callable[[int], tf.data.Dataset]
    xla: bool
    frozen: frozenset[str]
    head_steps: int
    body: frozenset[str]
    max_seconds: float | None
    divergence: float
    chance: float


class EarlyStopping(NamedTuple):
    """When a training ends early.

    Attributes:
        patience: epochs without a smaller loss.
        loss: a compiled model -> what gives its loss on held-out rows.
    """

    patience: int
    loss: Callable[[keras.Model], Callable[[], float]]


class Stretch(NamedTuple):
    """Of a training, what one call of `fit` does.

    Attributes:
        first: its first step.
        epoch: that this step belongs to.
        epochs: how many it reaches into.
        steps: of each of them.
        head_only: trains the output layers alone.
    """

    first: int
    epoch: int
    epochs: int
    steps: int
    head_only: bool


def stretches(epochs: int, steps: int, done: int, head_steps: int) -> Iterator[Stretch]:
    """What is left of a training, in parts that are whole epochs or lie in one.

    >>> list(stretches(epochs=3, steps=10, done=0, head_steps=0))
    [Stretch(first=0, epoch=0, epochs=3, steps=10, head_only=False)]
    >>> for stretch in stretches(epochs=3, steps=10, done=4, head_steps=12): print(*stretch)
    4 0 1 6 True
    10 1 1 2 True
    12 1 1 8 False
    20 2 1 10 False
    """
    while done < epochs * steps:
        end = head_steps if done < head_steps else epochs * steps
        epoch, into = divmod(done, steps)
        left = min(end, epochs * steps) - done
        if into or left < steps:
            stretch = Stretch(done, epoch, 1, min(left, steps - into), done < head_steps)
        else:
            stretch = Stretch(done, epoch, left // steps, steps, done < head_steps)
        yield stretch
        done += stretch.epochs * stretch.steps


def train(
    built: Built,
    lesson: Lesson,
    wrap: Callable[[keras.Model], keras.Model] = lambda model: model,
    early_stopping: EarlyStopping | None = None,
    checkpoints: StepCheckpoints | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[Progress, int | None]:
    """Trains a model in place.

    Args:
        built: the model at its start, and its optimizer.
        lesson: what to do.
        wrap: a compiled model -> what is trained in its place, sharing its variables.
        early_stopping: None: there is none.
        checkpoints: of its steps; None: none are written.
        callbacks: further ones.

    Returns:
        How it went, and the step that it was taken up again at; None: it was not.

    Raises:
        RetrainError: the loss diverges.
    """
    model, optimizer = built
    optimizer.learning_rate = lesson.learning_rate
    model.compile(optimizer, loss=lesson.loss, jit_compile=lesson.xla)
    # Before anything is taken up again: what is held back is held to the start.
    trained = wrap(model)
    progress, metrics, best = _take_up(checkpoints, variables(built))
    resumed_at = progress.step or None
    keep = None
    if early_stopping:
        loss = early_stopping.loss(model)
        keep = KeepBest(progress, early_stopping.patience, lesson.steps, loss, variables(built), best)
    watching = [
        Count(progress, lesson.max_seconds),
        StopDiverging(lesson.divergence, lesson.chance, progress),
        *([keep] if keep else []),
        *callbacks,
    ]
    if checkpoints:
        kept = variables(built)
        watching.append(
            WriteSteps(progress, lesson.steps, checkpoints, kept, lambda: keep.best if keep else [])
        )
    _fit(built, trained, lesson, progress, metrics, watching)
    if keep:
        keep.restore()
    return progress, resumed_at


def _fit(
    built: Built,
    trained: keras.Model,
    lesson: Lesson,
    progress: Progress,
    metrics: Arrays,
    watching: Sequence[keras.callbacks.Callback],
) -> None:
    """What is left of a training; `metrics` are those of the epoch that it was taken up again in."""
    model, optimizer = built
    for stretch in stretches(lesson.epochs, lesson.steps, progress.step, lesson.head_steps):
        if progress.stopped != "done":
            return
        with _held(model, lesson.frozen | (lesson.body if stretch.head_only else frozenset())):
            # Compiled for what is trained; with an optimizer that goes on.
            model.compile(optimizer, loss=lesson.loss, jit_compile=lesson.xla)
            if trained is not model:
                trained.compile(optimizer, jit_compile=lesson.xla)
            trained.fit(
                lesson.stream(stretch.first),
                initial_epoch=stretch.epoch,
                epochs=stretch.epoch + stretch.epochs,
                steps_per_epoch=stretch.steps,
                verbose=0,
                callbacks=[CarryMetrics(metrics if stretch.first % lesson.steps else []), *watching],
            )
        metrics = values(trained.metrics_variables)


def _take_up(checkpoints: StepCheckpoints | None, own: Sequence[Any]) -> tuple[Progress, Arrays, Arrays]:
    """Goes on at a killed training's last step checkpoint: its progress, metrics and best values."""
    found = checkpoints.read() if checkpoints else None
    if found is None:
        return Progress(), [], []
    progress, arrays = found
    assign(own, group(arrays, "variable"))
    return Progress(**progress), group(arrays, "metric"), group(arrays, "best")


@contextlib.contextmanager
def _held(model: keras.Model, names: frozenset[str]) -> Iterator[None]:
    """Layers that are not trained for a while, by name; their BatchNorm keeps its averages, too."""
    held: list[Any] = [v for v in model.trainable_variables if layer_of(v.path) in names]
    for layer in model._flatten_layers(include_self=False):
        own = {layer_of(weight.path) for weight in layer.weights}
        if own and own <= names and layer.trainable:
            held.append(layer)
    for part in held:
        part.trainable = False
    try:
        yield
    finally:
        for part in reversed(held):
            part.trainable = True
