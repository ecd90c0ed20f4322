"""What a SavedModel computes: the transform graph and the model behind their signatures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from components.features import LABEL_MEAN, LABEL_SCALE, request_names
from components.label import Label
from components.names import (
    CLASSES,
    CLASSIFY,
    EMBEDDING,
    MISSING_INT,
    PREDICTIONS,
    REGRESS,
    SCORES,
    SERVING_DEFAULT,
    SERVING_RAW,
)
from components.train.model.blueprint import densify
from components.train.model.networks import TwoTowerModel

BINARY_CLASSES = (b"0", b"1")
_MISSING = {tf.string: "", tf.float32: float("nan"), tf.int64: MISSING_INT}


class ServingModel(tf.Module):
    """Raw columns in, predictions out, through the transform graph that the model was trained with.

    Args:
        model: takes what `transform` gives.
        transform: the transform graph, as a layer over raw columns.
        columns: raw column -> its type and whether a request may hold a list of its values.
        label: the configured label.
        classes: of a multiclass label, in the order of the model's outputs.
    """

    def __init__(
        self,
        model: keras.Model,
        transform: Any,
        columns: Mapping[str, tuple[tf.DType, bool]],
        label: Label,
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        # The same layers without the optimizer, whose slots nobody serves.
        layers = keras.Model(model.inputs, model.output)
        self._layers = functools.partial(layers, training=False)  # which TensorFlow does not track
        self._inputs_of_layers = [tensor.name for tensor in model.inputs]
        # TensorFlow's own variables, which the signatures read. Of a tracked Keras model only Keras' are
        # restored by TF Serving's loader, and it answers nothing.
        self.weights = [variable.value for variable in layers.weights]
        self.transform = transform
        self._columns, self._label = dict(columns), label
        self._names = request_names(columns)
        self._classes = tf.constant([name.encode("utf-8", "surrogateescape") for name in classes], tf.string)
        sparse = [
            {name: tf.SparseTensorSpec([None, None], kind) for name, (kind, _) in self._columns.items()}
        ]
        # Traced once; all that is served calls them.
        self._compute = tf.function(self._outputs, autograph=False, input_signature=sparse)
        self._predict = tf.function(self._answer, autograph=False, input_signature=sparse)
        examples = [tf.TensorSpec([None], tf.string, name="examples")]
        self.logits = tf.function(self._logits, autograph=False, input_signature=examples)

    def _outputs(self, raw: Mapping[str, tf.SparseTensor]) -> tuple[tf.Tensor, ...]:
        """The model's outputs, and of a regression the scale and the mean of the label."""
        transformed = self.transform(dict(raw))
        output = self._layers(self._inputs(transformed))
        unit = (LABEL_SCALE, LABEL_MEAN) if self._label.task == "regression" else ()
        return output, *(transformed[name] for name in unit)

    def _logits(self, examples: tf.Tensor) -> tf.Tensor:
        """Of serialized tf.Examples, the model's outputs as its loss takes them: float32 [batch, outputs].

        For the replay buffer, which keeps them; no signature, so nobody serves them.
        """
        return self._compute(tf.io.parse_example(examples, self._spec))[0]

    @property
    def _spec(self) -> dict[str, tf.io.VarLenFeature]:
        return {name: tf.io.VarLenFeature(kind) for name, (kind, _) in self._columns.items()}

    def _answer(self, raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
        output, *unit = self._compute(raw)
        if self._label.task == "binary":
            return {PREDICTIONS: tf.sigmoid(output[:, 0])}
        if self._label.task == "regression":
            scale, mean = unit
            value = output[:, 0] * scale + mean
            return {PREDICTIONS: tf.math.expm1(value) if self._label.log else value}
        scores = tf.nn.softmax(output)
        return {
            PREDICTIONS: tf.gather(self._classes, tf.argmax(scores, axis=1)),
            CLASSES: tf.tile(self._classes[tf.newaxis], [tf.shape(scores)[0], 1]),
            SCORES: scores,
        }

    def _inputs(self, transformed: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        return densify(transformed, self._inputs_of_layers)

    def signatures(self) -> dict[str, Any]:
        """`serving_default`: serialized tf.Examples; `serving_raw`: one tensor a column; and, by task,
        `classify` and `regress`, as TF Serving's methods of these names want them."""
        made = {
            SERVING_DEFAULT: self._over_examples("examples", self._predict),
            SERVING_RAW: self._over_columns(self._columns, self._predict),
        }
        if self._label.task != "regression":
            made[CLASSIFY] = self._over_examples(tf.saved_model.CLASSIFY_INPUTS, self._classified)
        if self._label.task != "multiclass":
            made[REGRESS] = self._over_examples(
                tf.saved_model.REGRESS_INPUTS,
                lambda raw: {tf.saved_model.REGRESS_OUTPUTS: self._predict(raw)[PREDICTIONS]},
            )
        return made

    def _classified(self, raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
        """All classes and their probabilities, both [batch, classes]."""
        answer = self._predict(raw)
        if self._label.task == "multiclass":
            classes, scores = answer[CLASSES], answer[SCORES]
        else:
            probability = answer[PREDICTIONS]
            scores = tf.stack([1.0 - probability, probability], axis=1)
            classes = tf.tile(tf.constant([BINARY_CLASSES]), [tf.shape(scores)[0], 1])
        return {
            tf.saved_model.CLASSIFY_OUTPUT_CLASSES: classes,
            tf.saved_model.CLASSIFY_OUTPUT_SCORES: scores,
        }

    def _over_examples(
        self, name: str, answer: Callable[[Mapping[str, tf.SparseTensor]], dict[str, tf.Tensor]]
    ) -> Any:
        """A function of serialized tf.Examples, [batch], under this name."""

        @tf.function(autograph=False, input_signature=[{name: tf.TensorSpec([None], tf.string, name=name)}])
        def of_examples(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return answer(tf.io.parse_example(inputs[name], self._spec))

        return of_examples

    def tower_signature(self, model: TwoTowerModel, side: str, columns: Sequence[str]) -> Any:
        """The tower of one side alone.

        Args:
            model: whose tower it is.
            side: `user` or `item`.
            columns: the raw columns that the tower sees.
        """

        def embed(raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
            rows = next(iter(raw.values())).dense_shape[0]
            # The transform graph takes all columns; the tower does not see what is made of the others.
            others = {
                name: tf.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0], kind), tf.stack([rows, 1]))
                for name, (kind, _) in self._columns.items()
                if name not in raw
            }
            return {EMBEDDING: model.embed(side, self._inputs(self.transform({**raw, **others})))}

        return self._over_columns({name: self._columns[name] for name in columns}, embed)

    def _over_columns(
        self,
        columns: Mapping[str, tuple[tf.DType, bool]],
        answer: Callable[[Mapping[str, tf.SparseTensor]], dict[str, tf.Tensor]],
    ) -> Any:
        """A function of one tensor a column, [batch] or [batch, values], by its name in a request."""
        specs = {
            self._names[name]: tf.TensorSpec([None, None] if many else [None], kind, name=self._names[name])
            for name, (kind, many) in columns.items()
        }

        @tf.function(autograph=False, input_signature=[specs])
        def of_columns(requested: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return answer({name: _drop_missing(requested[self._names[name]]) for name in columns})

        return of_columns


def _drop_missing(values: tf.Tensor) -> tf.SparseTensor:
    """[batch] or [batch, values] -> sparse [batch, values] without what stands for a missing value."""
    rows = values[:, tf.newaxis] if values.shape.rank == 1 else values
    missing = _MISSING[values.dtype]
    present = ~tf.math.is_nan(rows) if values.dtype.is_floating else tf.not_equal(rows, missing)
    found = tf.where(present)
    if values.shape.rank == 1:
        # Not `tf.boolean_mask`, which is ten small operations a column, and a request has many columns.
        return tf.SparseTensor(found, tf.gather_nd(rows, found), tf.shape(rows, tf.int64))
    # Moved to the left, in operations that TFLite has, too.
    places = tf.cumsum(tf.cast(present, tf.int64), axis=1)
    columns = tf.gather_nd(places, found) - 1
    longest = tf.reduce_max(tf.concat([tf.zeros([1], tf.int64), columns + 1], axis=0))
    return tf.SparseTensor(
        tf.stack([found[:, 0], columns], axis=1),
        tf.gather_nd(rows, found),
        tf.stack([tf.shape(rows, tf.int64)[0], longest]),
    )
