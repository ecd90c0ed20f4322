"""TF Serving's four ways to ask a model, and what it answers to each, in its words.

(tensorflow_serving/servables/tensorflow: predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    predict_pb2,
    regression_pb2,
)

from serving import results
from serving.errors import Code, RequestError, invalid
from serving.models import DEFAULT_SIGNATURE, LoadedModel, Signature, Tensors
from serving.protos import fill_proto, to_array

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
_INPUTS = "inputs"  # The one input of a classification or a regression.
_KINDS = {CLASSIFY: "classification", REGRESS: "regression"}


@dataclass(frozen=True)
class Run:
    """One run of a signature: with what, to what end, and how long it took in TensorFlow."""

    signature: str
    inputs: Tensors
    outputs: Tensors
    seconds: float


def run(signature: Signature, inputs: Tensors, output_filter: Sequence[str] = ()) -> Run:
    """Runs a signature.

    Raises:
      RequestError: see `Signature.run`.
    """
    begin = time.perf_counter()
    outputs = signature.run(inputs, output_filter)
    return Run(signature.name, inputs, outputs, time.perf_counter() - begin)


def predict(
    model: LoadedModel, request: predict_pb2.PredictRequest
) -> tuple[predict_pb2.PredictResponse, Run]:
    """Answers a Predict request with a model that the caller has acquired.

    Raises:
      RequestError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for wrong inputs, else
        what TensorFlow says.
    """
    signature = model.signature(request.model_spec.signature_name)
    if signature is None:
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        raise RequestError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    signature.check_names(list(request.inputs))
    inputs = {name: to_array(request.inputs[name], signature.inputs[name]) for name in sorted(request.inputs)}
    ran = run(signature, inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, model, signature.name)
    for name, array in ran.outputs.items():
        fill_proto(response.outputs[name], array)
    return response, ran


def classify(
    model: LoadedModel, request: classification_pb2.ClassificationRequest
) -> tuple[classification_pb2.ClassificationResponse, Run]:
    """Answers a Classify request with a model that the caller has acquired.

    Raises:
      RequestError: INVALID_ARGUMENT for another signature or input than of a classification, else what
        TensorFlow says.
    """
    ran = _run_examples(model, request.model_spec.signature_name, CLASSIFY, request.input)
    response = classification_pb2.ClassificationResponse(result=_classified(ran))
    _fill_spec(response.model_spec, model, request.model_spec.signature_name)
    return response, ran


def regress(
    model: LoadedModel, request: regression_pb2.RegressionRequest
) -> tuple[regression_pb2.RegressionResponse, Run]:
    """Answers a Regress request with a model that the caller has acquired.

    Raises:
      RequestError: as `classify`.
    """
    ran = _run_examples(model, request.model_spec.signature_name, REGRESS, request.input)
    response = regression_pb2.RegressionResponse(result=_regressed(ran))
    _fill_spec(response.model_spec, model, request.model_spec.signature_name)
    return response, ran


def multi_inference(
    model: LoadedModel, request: inference_pb2.MultiInferenceRequest
) -> tuple[inference_pb2.MultiInferenceResponse, list[Run]]:
    """Answers a MultiInference request: several classifications and regressions of the same examples.

    Unlike TF Serving's, the signatures may have inputs of their own, as those of TensorFlow 2 have.

    Raises:
      RequestError: as `classify`, also for two models, the same signature twice or another method.
    """
    tasks = [
        (task.model_spec.signature_name or DEFAULT_SIGNATURE, task.method_name) for task in request.tasks
    ]
    for index, (task, (name, method)) in enumerate(zip(request.tasks, tasks, strict=True)):
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if name in [earlier for earlier, _ in tasks[:index]]:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        if model.signature(name) is None:
            raise invalid(f"Requested signature not found in model graph: {name}")
        if method not in _KINDS:
            raise RequestError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")
        _example_signature(model, name, method)
    response, runs = inference_pb2.MultiInferenceResponse(), []
    for task, (name, method) in zip(request.tasks, tasks, strict=True):
        ran = _run_examples(model, name, method, request.input)
        result = response.results.add()
        if method == CLASSIFY:
            result.classification_result.CopyFrom(_classified(ran))
        else:
            result.regression_result.CopyFrom(_regressed(ran))
        _fill_spec(result.model_spec, model, task.model_spec.signature_name)
        runs.append(ran)
    return response, runs


def _run_examples(model: LoadedModel, name: str, method: str, request: input_pb2.Input) -> Run:
    signature = _example_signature(model, name, method)
    return run(signature, {_INPUTS: _examples(request)})


def _example_signature(model: LoadedModel, name: str, method: str) -> Signature:
    """The signature of that name, if it is one of examples for that method."""
    signature = model.signature(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    if signature.method != method:
        raise invalid(
            f"Expected {_KINDS[method]} signature method_name to be {method}. Was: {signature.method}"
        )
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if _INPUTS not in signature.inputs:
        raise RequestError(
            Code.FAILED_PRECONDITION,
            f"No {_KINDS[method]} inputs found in SignatureDef: {name} has {list(signature.inputs)}",
        )
    results.check_outputs(signature, classifies=method == CLASSIFY)
    return signature


def _examples(request: input_pb2.Input) -> np.ndarray:
    """The serialized tf.Examples of a request, each behind what they have in common: [batch]."""
    kind = request.WhichOneof("kind")
    if kind is None or not (examples := getattr(request, kind).examples):
        raise invalid("Input is empty.")
    # Of two features with one name the later one holds: that of the example.
    context = request.example_list_with_context.context.SerializeToString() if "context" in kind else b""
    return np.array([context + example.SerializeToString() for example in examples], np.object_)


def _classified(ran: Run) -> classification_pb2.ClassificationResult:
    return results.classification(ran.outputs, len(ran.inputs[_INPUTS]))


def _regressed(ran: Run) -> regression_pb2.RegressionResult:
    return results.regression(ran.outputs, len(ran.inputs[_INPUTS]))


def _fill_spec(spec: Any, model: LoadedModel, signature: str) -> None:
    spec.name = model.name
    spec.version.value = model.version
    spec.signature_name = signature or DEFAULT_SIGNATURE
