"""A SavedModel as TensorFlow Serving runs it: loaded into a session, asked by the signatures' tensor names.

Not through `tf.saved_model.load`: that one rebuilds Python objects, and restores what TF Serving's loader
leaves empty, such as the variables of a tracked Keras model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog as Log

Arrays = Mapping[str, np.ndarray]

_INITIALIZER = "__saved_model_init_op"
_METHODS = {
    "predict_log": tf.saved_model.PREDICT_METHOD_NAME,
    "classify_log": tf.saved_model.CLASSIFY_METHOD_NAME,
    "regress_log": tf.saved_model.REGRESS_METHOD_NAME,
}


class Served:
    """Loads a SavedModel.

    Args:
        folder: of the SavedModel.
    """

    def __init__(self, folder: str) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], folder)
        self._signatures = {
            name: signature for name, signature in loaded.signature_def.items() if name != _INITIALIZER
        }
        self._calls: dict[str, Callable[..., list[np.ndarray]]] = {}

    @property
    def signatures(self) -> set[str]:
        """The names of what can be asked."""
        return set(self._signatures)

    def ask(self, log: Log) -> Arrays:
        """The answer to a logged request: output -> values.

        Raises:
            LookupError: there is no such signature, it is of another method, or takes something else.
            tf.errors.OpError, ValueError, TypeError: it does not compute.
        """
        name, inputs = signature_of(log), inputs_of(log)
        signature = self._signatures.get(name)
        if signature is None:
            raise LookupError(f"there is no signature {name}")
        wanted = _METHODS[str(log.WhichOneof("log_type"))]
        if signature.method_name != wanted:
            raise LookupError(f"the method of {name} is {signature.method_name}, expected {wanted}")
        if signature.inputs.keys() != inputs.keys():
            raise LookupError(
                f"{name} takes {', '.join(sorted(signature.inputs))}, but a request has "
                f"{', '.join(sorted(inputs))}"
            )
        return self.run(name, inputs)

    def run(self, name: str, inputs: Arrays) -> Arrays:
        """Runs one signature on inputs that are its own."""
        outputs = sorted(self._signatures[name].outputs)
        values = self._call(name)(*(inputs[key] for key in sorted(inputs)))
        return dict(zip(outputs, values, strict=True))

    def _call(self, name: str) -> Callable[..., list[np.ndarray]]:
        if name not in self._calls:
            signature, tensor = self._signatures[name], self._session.graph.get_tensor_by_name
            self._calls[name] = self._session.make_callable(
                [tensor(signature.outputs[key].name) for key in sorted(signature.outputs)],
                [tensor(signature.inputs[key].name) for key in sorted(signature.inputs)],
            )
        return self._calls[name]


def read_logs(file: str) -> list[Log]:
    """The requests of a TFRecord file."""
    return [Log.FromString(record) for record in tf.data.TFRecordDataset(file).as_numpy_iterator()]


def signature_of(log: Log) -> str:
    """The signature that a logged request is for."""
    return str(getattr(log, log.WhichOneof("log_type")).request.model_spec.signature_name)


def inputs_of(log: Log) -> dict[str, np.ndarray]:
    """The inputs of a logged request by name, [batch, ...]."""
    kind = str(log.WhichOneof("log_type"))
    if kind == "predict_log":
        return {name: tf.make_ndarray(value) for name, value in log.predict_log.request.inputs.items()}
    examples = getattr(log, kind).request.input.example_list.examples
    rows = np.array([example.SerializeToString() for example in examples], object)
    return {tf.saved_model.CLASSIFY_INPUTS: rows}


def expected_of(log: Log) -> dict[str, np.ndarray]:
    """The outputs of a logged response by name, [batch, ...]; none where there is none."""
    kind = str(log.WhichOneof("log_type"))
    if kind == "predict_log":
        return {name: tf.make_ndarray(value) for name, value in log.predict_log.response.outputs.items()}
    if kind == "regress_log":
        values = [row.value for row in log.regress_log.response.result.regressions]
        return {tf.saved_model.REGRESS_OUTPUTS: np.array(values, np.float32)} if values else {}
    rows = [row.classes for row in log.classify_log.response.result.classifications]
    if not rows:
        return {}
    return {
        tf.saved_model.CLASSIFY_OUTPUT_CLASSES: np.array(
            [[c.label.encode() for c in row] for row in rows], object
        ),
        tf.saved_model.CLASSIFY_OUTPUT_SCORES: np.array([[c.score for c in row] for row in rows], np.float32),
    }
