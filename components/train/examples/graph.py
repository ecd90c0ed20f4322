"""What a run reads of its transform graph: terms, classes, fit constants, and rows made inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components.errors import RetrainError
from components.features import (
    EXAMPLE_WEIGHT,
    LABEL,
    LABEL_MEAN,
    LABEL_SCALE,
    NUMERIC_MEAN,
    NUMERIC_SCALE,
    Feature,
    boundaries_output,
    mean_output,
    scale_output,
)
from components.label import VOCABULARY, Label, LabelState
from components.names import LOGITS
from components.train.model.blueprint import densify, own_outputs

IS_NEW, WHEN_LEARNED = "is-new", "logits-when-learned"
"""Inputs for what trains the model, not for the model; no feature has a name with a `-`."""


class Graph:
    """A transform graph of a deployment.

    Attributes:
        layer: raw columns, sparse -> transformed ones.
        spec: raw column -> how it is parsed.
        kinds: column of a request -> its type, and whether it may hold a list.
        own: what the user's `preprocessing_fn` gave, by name, as TensorFlow's parsing specifications.
    """

    def __init__(
        self, folder: str, features: Sequence[Feature], columns: Mapping[str, bool], label: Label
    ) -> None:
        self._output, self._features, self._label = tft.TFTransformOutput(folder), features, label
        self.layer, self.spec = self._output.transform_features_layer(), self._output.raw_feature_spec()
        self.kinds = {name: (self.spec[name].dtype, many) for name, many in columns.items()}
        self.own = own_outputs(self._output.transformed_feature_spec(), features)

    def vocabularies(self) -> dict[str, list[str]]:
        """Feature with a vocabulary -> its terms in the order of their rows."""
        return {f.name: _terms(self._output, f.vocabulary) for f in self._features if f.has_vocabulary}

    @cached_property
    def classes(self) -> list[str]:
        """Of a multiclass label, in the order of the outputs.

        Raises:
            RetrainError: too many, or fewer than two.
        """
        return classes(self._output, self._label)

    def label_state(self) -> LabelState:
        """What the next version goes on with; the scale of a regression is a constant of the graph."""
        if self._label.task != "regression":
            return LabelState(classes=self.classes)
        return LabelState(
            mean=float(self._constants[LABEL_MEAN]),
            scale=float(self._constants[LABEL_SCALE]),
            log=self._label.log,
        )

    def fit(self) -> dict[str, Any]:
        """How the graph scales numbers, by feature: `components.train.model.state.TrainingState.fit`."""
        constants = self._constants
        numeric = [f.name for f in self._features if f.form == "numeric"]
        scales = zip(constants[NUMERIC_MEAN], constants[NUMERIC_SCALE], strict=True) if numeric else ()
        return {
            "numeric": {
                name: {"mean": float(mean), "scale": float(scale)}
                for name, (mean, scale) in zip(numeric, scales, strict=True)
            },
            "buckets": {
                f.name: constants[boundaries_output(f.name)].tolist()
                for f in self._features
                if f.type == "bucketized"
            },
            "tensor": {
                f.name: {
                    "mean": constants[mean_output(f.name)].tolist(),
                    "scale": constants[scale_output(f.name)].tolist(),
                }
                for f in self._features
                if f.form == "tensor"
            },
        }

    @cached_property
    def _constants(self) -> dict[str, np.ndarray]:
        """What the graph gives for one row without anything in it."""
        columns = {name: self.spec[name] for name in self.kinds}
        row = self.layer(tf.io.parse_example([tf.train.Example().SerializeToString()], columns))
        return {
            name: value.numpy()[0] for name, value in row.items() if not isinstance(value, tf.SparseTensor)
        }

    def parser(
        self, names: Sequence[str], class_weights: np.ndarray | None, outputs: int | None = None
    ) -> Callable[[tf.Tensor, tf.Tensor], tuple[Any, ...]]:
        """Serialized examples, and which are new -> inputs, label and, where rows count unlike, weight.

        Args:
            names: the model's inputs.
            class_weights: as `losses.class_weights` gives them.
            outputs: give `IS_NEW`, float32 [batch], 1 or 0, and `WHEN_LEARNED`, float32 [batch, outputs],
                too: the outputs that an example had when it was learned, NaN where it had none.
        """
        label = self._label
        weighted = [label.example_weight] if label.example_weight else []
        columns = {name: self.spec[name] for name in (*self.kinds, label.name, *weighted)}
        learned = {LOGITS: tf.io.RaggedFeature(tf.float32)} if outputs else {}

        def parse(serialized: tf.Tensor, is_new: tf.Tensor) -> tuple[Any, ...]:
            parsed = tf.io.parse_example(serialized, columns | learned)
            raw = {name: parsed[name] for name in columns}
            inputs, target, *weight = rows(self.layer(raw), names, label, class_weights)
            if outputs:
                inputs[IS_NEW] = tf.cast(is_new, tf.float32)  # tf.distribute divides no bool
                inputs[WHEN_LEARNED] = parsed[LOGITS].to_tensor(float("nan"), shape=[None, outputs])
            return inputs, target, *weight

        return parse


def rows(
    transformed: Mapping[str, Any], names: Sequence[str], label: Label, class_weights: np.ndarray | None
) -> tuple[Any, ...]:
    """Transformed columns -> inputs, label and, where rows count unlike, weight."""
    learned = transformed[LABEL]
    weight = tf.ones_like(learned, tf.float32)
    if label.example_weight:
        weight *= transformed[EXAMPLE_WEIGHT]
    if class_weights is not None:
        weight *= tf.gather(class_weights, tf.cast(learned, tf.int64))
    target = learned if label.task == "multiclass" else learned[:, tf.newaxis]
    weighted = (weight,) if label.example_weight or class_weights is not None else ()
    return densify(transformed, names), target, *weighted


def classes(transform: tft.TFTransformOutput, label: Label) -> list[str]:
    """The classes of a multiclass label; none of another.

    Raises:
        RetrainError: too many, or fewer than two.
    """
    if label.task != "multiclass":
        return []
    found = _terms(transform, VOCABULARY)
    if not 2 <= len(found) <= label.max_classes:
        raise RetrainError(
            f"train: the label {label.name!r} has {len(found)} classes ({', '.join(found[:3])}, ...), "
            f"expected 2 to {label.max_classes} (label.max_classes). Is it an id, or a number, for "
            "label.task: regression?"
        )
    return found


def _terms(transform: tft.TFTransformOutput, vocabulary: str) -> list[str]:
    return [term.decode("utf-8", "surrogateescape") for term in transform.vocabulary_by_name(vocabulary)]
