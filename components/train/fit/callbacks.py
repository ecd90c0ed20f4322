"""What watches a training: its progress, its time, its loss on held-out rows, its step checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from components.errors import RetrainError
from components.train.fit.resume import StepCheckpoints

Arrays = list[np.ndarray]


@dataclass
class Progress:
    """How far a training is; plain data, which a step checkpoint keeps.

    Attributes:
        step: steps done.
        seconds: spent, also before a kill.
        first_loss: mean of the first ten steps, or of the first epoch.
        last_loss: mean of the newest epoch, or of what there was of it.
        best_loss, best_epoch: the smallest loss on held-out rows, and after how many epochs.
        waited: epochs since then.
        stopped: `done`, `max_seconds` or `early_stopping`.
    """

    step: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    stopped: str = "done"


class Count(keras.callbacks.Callback):
    """Keeps the progress, and ends the training at the first step after its time is over."""

    def __init__(self, progress: Progress, max_seconds: float | None) -> None:
        super().__init__()
        self._progress, self._max_seconds = progress, max_seconds
        self._began = time.monotonic() - progress.seconds

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._progress.step += 1
        self._progress.seconds = time.monotonic() - self._began
        if self._max_seconds is not None and self._progress.seconds >= self._max_seconds:
            self._progress.stopped = "max_seconds"
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._progress.last_loss = float((logs or {})["loss"])


class StopDiverging(keras.callbacks.Callback):
    """Fails the run when the loss is not a number, or has grown well beyond where it began.

    Args:
        limit: the largest mean loss of an epoch, in multiples of that of the first ten steps.
        chance: the loss of a model that knows nothing; below it nothing has diverged.
        progress: whose first loss it sets.

    Raises:
        RetrainError: during fit.
    """

    def __init__(self, limit: float, chance: float, progress: Progress) -> None:
        super().__init__()
        self.limit, self.chance, self._progress = limit, chance, progress

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise RetrainError(
                f"train: the loss became {loss} at step {int(self.model.optimizer.iterations)}. Lower "
                "training.learning_rate (and warm_start.learning_rate), or look for extreme values in "
                "the numeric columns; nothing was registered"
            )
        if self._progress.first_loss is None and batch >= 9:
            self._progress.first_loss = loss

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        first = self._progress.first_loss
        if first is None:
            first = self._progress.first_loss = loss
        if loss > max(self.limit * first, self.chance):
            raise RetrainError(
                f"train: the loss diverged: it began at {first:.4g} and epoch {epoch + 1} ended at "
                f"{loss:.4g}, more than training.divergence = {self.limit:g} times that. Lower the "
                "learning rate, or look at the new data; nothing was registered"
            )


class KeepBest(keras.callbacks.Callback):
    """Early stopping: ends the training when held-out rows are served no better, and goes back to the best.

    Weights, slots and step go back together, so that the next version starts from one point in time.

    Args:
        progress: whose best it keeps.
        patience: epochs without a smaller loss before it stops.
        steps: of an epoch.
        loss: of the model on held-out rows.
        variables: that go back.
        best: their values after the best epoch so far; a step checkpoint keeps them.
    """

    def __init__(
        self,
        progress: Progress,
        patience: int,
        steps: int,
        loss: Callable[[], float],
        variables: Sequence[Any],
        best: Arrays,
    ) -> None:
        super().__init__()
        self._progress, self._patience, self._steps = progress, patience, steps
        self._loss, self._variables, self.best = loss, variables, best

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        progress = self._progress
        if progress.step % self._steps and not self.model.stop_training:
            return  # a part of an epoch
        loss = self._loss()
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_epoch, progress.waited = loss, epoch + 1, 0
            self.best = values(self._variables)
            return
        progress.waited += 1
        if progress.waited >= self._patience and not self.model.stop_training:
            progress.stopped = "early_stopping"
            self.model.stop_training = True

    def restore(self) -> None:
        """Gives the variables the values after the best epoch."""
        assign(self._variables, self.best)


class WriteSteps(keras.callbacks.Callback):
    """Writes step checkpoints.

    Args:
        progress: up to date, so this comes last among the callbacks.
        steps: of an epoch.
        checkpoints: where they go.
        variables: of the training.
        best: what `KeepBest` has kept.
    """

    def __init__(
        self,
        progress: Progress,
        steps: int,
        checkpoints: StepCheckpoints,
        variables: Sequence[Any],
        best: Callable[[], Arrays],
    ) -> None:
        super().__init__()
        self._progress, self._steps, self._checkpoints = progress, steps, checkpoints
        self._variables, self._best = variables, best

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._progress.step % self._steps:  # else the epoch's end has a say in it first
            self._write()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._progress.step % self._steps == 0:
            self._write()

    def _write(self) -> None:
        if self._progress.step % self._checkpoints.every:
            return
        groups = {
            "variable": values(self._variables),
            "metric": values(self.model.metrics_variables),
            "best": self._best(),
        }
        arrays = {f"{kind}-{i}": array for kind, group in groups.items() for i, array in enumerate(group)}
        self._checkpoints.write(self._progress.step, asdict(self._progress), arrays)


class CarryMetrics(keras.callbacks.Callback):
    """The means of an epoch that was begun by another `fit` go on; Keras begins them anew."""

    def __init__(self, metrics: Arrays) -> None:
        super().__init__()
        self._metrics = metrics

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._metrics:
            assign(self.model.metrics_variables, self._metrics)
            self._metrics = []


def group(arrays: Mapping[str, np.ndarray], kind: str) -> Arrays:
    """Of a step checkpoint's arrays, those of one kind: `variable`, `metric` or `best`, in order."""
    return [arrays[f"{kind}-{i}"] for i in range(sum(name.startswith(f"{kind}-") for name in arrays))]


def values(variables: Sequence[Any]) -> Arrays:
    """Copies of what variables hold."""
    return [np.array(variable) for variable in variables]


def assign(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    """The other direction of `values`."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
