"""Requests to the signatures of a SavedModel, and their answers, as TF Serving logs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog as Log

from components import raw_columns
from components.features import request_names
from components.names import CLASSES, CLASSIFY, PREDICTIONS, REGRESS, SCORES, SERVING_DEFAULT
from components.train.export.serving_model import BINARY_CLASSES

Answers = Mapping[str, np.ndarray]
"""Output of `serving_default` -> its values, [batch, ...]."""


class Requests:
    """Makes requests of serialized tf.Examples, of which only the columns that a request holds are told.

    Args:
        kinds: raw column -> its type, and whether a request may hold a list of its values.
        signatures: name -> the raw columns that it takes; those over tf.Examples take all.
    """

    def __init__(
        self, kinds: Mapping[str, tuple[tf.DType, bool]], signatures: Mapping[str, Sequence[str]]
    ) -> None:
        self._kinds, self._signatures = kinds, signatures
        self._names = request_names(kinds)

    def of(self, signature: str, rows: Sequence[bytes]) -> Log:
        """One request for all of the rows."""
        log = Log()
        if signature in (CLASSIFY, REGRESS):
            request = log.classify_log.request if signature == CLASSIFY else log.regress_log.request
            request.model_spec.signature_name = signature
            request.input.example_list.examples.extend(map(self._columns_of, rows))
            return log
        request = log.predict_log.request
        request.model_spec.signature_name = signature
        if signature == SERVING_DEFAULT:
            _fill(request, {"examples": np.array([self._serialized(row) for row in rows], object)})
        else:
            inputs = {self._names[name]: (name, *self._kinds[name]) for name in self._signatures[signature]}
            _fill(request, raw_columns.of_examples(rows, inputs))
        return log

    def _columns_of(self, row: bytes) -> tf.train.Example:
        known = tf.train.Example.FromString(row).features.feature
        return tf.train.Example(
            features=tf.train.Features(
                feature={name: known[name] for name in sorted(self._kinds) if name in known}
            )
        )

    def _serialized(self, row: bytes) -> bytes:
        return bytes(self._columns_of(row).SerializeToString(deterministic=True))


def _fill(request: predict_pb2.PredictRequest, inputs: Mapping[str, Any]) -> None:
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))


def answered(log: Log, answers: Answers) -> Log:
    """A request with the response that a model's answers make.

    Of a multiclass model the most likely class is left out: where two are as likely, rounding decides.
    """
    kind = log.WhichOneof("log_type")
    if kind == "classify_log":
        classes, scores = answers.get(CLASSES), answers.get(SCORES)
        if scores is None:
            probability = answers[PREDICTIONS]
            scores = np.stack([1.0 - probability, probability], axis=1)
            classes = np.tile(np.array(BINARY_CLASSES, object), (len(scores), 1))
        for names, values in zip(classes, scores, strict=True):  # type: ignore[arg-type]
            row = log.classify_log.response.result.classifications.add()
            for name, value in zip(names, values, strict=True):
                row.classes.add(label=name, score=value)
    elif kind == "regress_log":
        for value in answers[PREDICTIONS]:
            log.regress_log.response.result.regressions.add(value=value)
    else:
        told = {name: values for name, values in answers.items() if name != PREDICTIONS or len(answers) == 1}
        for name, values in told.items():
            log.predict_log.response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
    return log
