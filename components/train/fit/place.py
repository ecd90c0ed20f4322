"""Where, and in what precision, a model is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from components.errors import RetrainError
from components.train.fit.callbacks import assign, values
from components.train.model.build import Built


class Place:
    """What `training.strategy` and `training.precision` ask for.

    A model that is kept and served is float32 and on one device whatever trains it: elsewhere, or in
    another precision, a copy is trained, and its variables, float32 too, go back.
    """

    def __init__(self, training: Mapping[str, Any]) -> None:
        self.precision, self._strategy = training["precision"], None
        if training["strategy"] == "mirrored":
            self._strategy = tf.distribute.MirroredStrategy()
            if training["batch_size"] < self._strategy.num_replicas_in_sync:
                raise RetrainError(
                    f"training.batch_size: got {training['batch_size']}, expected at least "
                    f"{self._strategy.num_replicas_in_sync}, one example for each of the machine's devices "
                    "(training.strategy: mirrored)"
                )

    @contextlib.contextmanager
    def trained(self, kept: Built, build: Callable[[], Built]) -> Iterator[Built]:
        """What is to be trained in place of a model and its optimizer: themselves, or a copy.

        Args:
            kept: get the values that the training ends with; not if it fails.
            build: makes the like of them, in this precision.
        """
        if self._strategy is None and self.precision == "float32":
            yield kept
            return
        with self._strategy.scope() if self._strategy else contextlib.nullcontext():
            trained = build()
            assign(variables(trained), values(variables(kept)))
            yield trained
            found = values(variables(trained))
        assign(variables(kept), found)


def variables(built: Built) -> list[Any]:
    """All that a training changes: weights, the seeds of dropout, slots and step."""
    model, optimizer = built
    return [*model.variables, *optimizer.variables]
