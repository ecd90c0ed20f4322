"""What holds a warm start close to the champion, beside replay: terms added to the loss of a batch.

A term is a function of a batch, its rows and the model's outputs on them; any number of them add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.errors import RetrainError
from components.train.examples.graph import IS_NEW, WHEN_LEARNED


@dataclass(frozen=True)
class Batch:
    """What a term sees.

    Attributes:
        inputs: of the model.
        outputs: of the model on them, float32 [batch, outputs].
        is_new: bool [batch]; the others are replayed.
        when_learned: what the outputs were when the row was learned, float32 [batch, outputs]; NaN where
            there was none.
    """

    inputs: Mapping[str, tf.Tensor]
    outputs: tf.Tensor
    is_new: tf.Tensor
    when_learned: tf.Tensor


Term = Callable[[Batch], tf.Tensor]


def active(settings: Mapping[str, Any]) -> bool:
    """Whether the section `regularization` asks for anything."""
    weights = (settings["l2_sp"], settings["ewc"]["strength"], settings["distillation"]["weight"])
    return any((*weights, settings["dark_experience"]))


def terms(
    settings: Mapping[str, Any],
    model: keras.Model,
    teacher: keras.Model | None,
    importances: Mapping[str, np.ndarray],
    task: str,
    known: int,
) -> list[Term]:
    """The terms that the section `regularization` asks for.

    Args:
        settings: the section.
        model: at its start, which is what it is held to.
        teacher: the same, a copy; only needed for distillation.
        importances: path of a variable -> of each of its numbers, of `model`'s shapes.
        task: `binary`, `multiclass` or `regression`.
        known: how many of the outputs the champion had.
    """
    found: list[Term] = []
    if settings["l2_sp"]:
        ones = {variable.path: np.ones(()) for variable in model.trainable_variables}
        found.append(anchor(settings["l2_sp"], model, ones))
    if settings["ewc"]["strength"]:
        found.append(anchor(settings["ewc"]["strength"], model, importances))
    if settings["distillation"]["weight"]:
        found.append(distillation(settings["distillation"], teacher, task, known))
    if settings["dark_experience"]:
        found.append(dark_experience(settings["dark_experience"]))
    return found


def anchor(strength: float, model: keras.Model, importances: Mapping[str, np.ndarray]) -> Term:
    """Half the squared distance to where the weights are now, times what each weight matters.

    With importances of 1 this is L2-SP (Li, Grandvalet and Davoine, 2018, arXiv:1802.01483, eq. 2): a row or
    a class that is new is held to its initial value, as theirs is to 0. With the Fisher information's
    diagonal it is EWC (Kirkpatrick et al., 2017, arXiv:1612.00796, eq. 3), see `ewc`.

    Args:
        strength: of the term, alpha or lambda.
        model: of whose variables those with an importance are held.
        importances: path of a variable -> array of its shape, or a number.
    """
    held = [
        (variable, tf.constant(variable.numpy()), tf.constant(importances[variable.path], tf.float32))
        for variable in model.trainable_variables
        if variable.path in importances
    ]

    def term(batch: Batch) -> tf.Tensor:
        parts = [tf.reduce_sum(weight * tf.square(v.value - start)) for v, start, weight in held]
        return 0.5 * strength * tf.add_n(parts) if parts else tf.zeros([])

    return term


def distillation(settings: Mapping[str, Any], teacher: keras.Model, task: str, known: int) -> Term:
    """Learning without forgetting (Li and Hoiem, 2016, arXiv:1606.09282): the champion's outputs as targets.

    The Kullback-Leibler divergence of the softened probabilities, times the squared temperature, so that
    its gradients keep their size (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531), over the classes
    that the champion knew; of a regression half the squared difference. Its mean over the rows that it
    is measured on.

    Args:
        settings: the section `regularization.distillation`.
        teacher: frozen.
        task, known: as for `terms`.
    """
    temperature, on = settings["temperature"], settings["on"]

    def difference(taught: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        if task == "regression":
            return 0.5 * tf.square(taught - outputs)[:, 0]
        if task == "binary":  # two classes, one of them with the logit 0
            taught, outputs = (tf.concat([tf.zeros_like(x), x], axis=1) for x in (taught, outputs))
        else:
            taught, outputs = taught[:, :known], outputs[:, :known]
        before, now = (tf.nn.log_softmax(x / temperature) for x in (taught, outputs))
        return temperature**2 * tf.reduce_sum(tf.exp(before) * (before - now), axis=1)

    def term(batch: Batch) -> tf.Tensor:
        taught = tf.stop_gradient(tf.cast(teacher(batch.inputs, training=False), tf.float32))
        rows = {"all": tf.ones_like(batch.is_new), "new": batch.is_new, "replayed": ~batch.is_new}[on]
        return settings["weight"] * _mean(difference(taught, batch.outputs), rows)

    return term


def dark_experience(weight: float) -> Term:
    """DER++ (Buzzega et al., 2020, arXiv:2004.07211, eq. 6): outputs stay what they were when learned.

    The mean squared difference to the outputs stored with a replayed row, over the rows that have some,
    beside the loss of their labels. An output that came later is held to nothing.
    """

    def term(batch: Batch) -> tf.Tensor:
        stored = ~tf.math.is_nan(batch.when_learned)
        # Zeros before the square: a NaN times 0 would be a NaN in the gradient.
        difference = tf.where(stored, batch.outputs - tf.where(stored, batch.when_learned, 0.0), 0.0)
        outputs = tf.reduce_sum(tf.cast(stored, tf.float32), axis=1)
        of_row = tf.math.divide_no_nan(tf.reduce_sum(tf.square(difference), axis=1), outputs)
        return weight * _mean(of_row, (outputs > 0) & ~batch.is_new)

    return term


def _mean(values: tf.Tensor, of: tf.Tensor) -> tf.Tensor:
    """Over some of the rows; 0 where there are none."""
    chosen = tf.cast(of, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * chosen), tf.reduce_sum(chosen))


class Regularized(keras.Model):
    """A model with terms added to its own loss; trained in its place, on inputs that say more of a row.

    It shares the model's variables; the model may have a `compute_loss` of its own.

    Args:
        model: compiled.
        added: what is added to its loss.

    Raises:
        RetrainError: the model has a `train_step` of its own, which would not be called.
    """

    def __init__(self, model: keras.Model, added: Sequence[Term]) -> None:
        if type(model).train_step is not keras.Model.train_step:
            raise RetrainError(
                f"regularization: the model is a {type(model).__name__} with a train_step of its own, which "
                "knows of no further terms; write a compute_loss instead, or remove `regularization`"
            )
        super().__init__(name="regularized")
        self.model, self._added = model, tuple(added)
        self._names = [tensor.name for tensor in model.inputs]

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        return self.model(self._own(inputs), training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of one batch, as Keras asks for it."""
        own = self._own(x)
        loss = self.model.compute_loss(own, y, y_pred, sample_weight, training)
        batch = Batch(own, tf.cast(y_pred, tf.float32), tf.cast(x[IS_NEW], tf.bool), x[WHEN_LEARNED])
        # Of a batch divided among replicas, the losses of its parts are added up.
        parts = tf.distribute.get_strategy().num_replicas_in_sync
        return loss + tf.add_n([term(batch) for term in self._added]) / parts

    def _own(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: inputs[name] for name in self._names}
