"""The outputs of a classification and a regression: checked as TF Serving does, and as its messages."""

from __future__ import annotations

import numpy as np
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.errors import Code, RequestError, invalid
from serving.models import Signature, Tensors
from serving.tensors import format_shape

CLASSES, SCORES, OUTPUTS = "classes", "scores", "outputs"


def check_outputs(signature: Signature, classifies: bool) -> None:
    """Checks the names of the outputs of a signature.

    Raises:
      RequestError: INVALID_ARGUMENT for too many, FAILED_PRECONDITION for others than it should have.
    """
    count = len(signature.outputs)
    if not classifies:
        if count != 1:
            raise invalid("Expected one output Tensor.")
        if OUTPUTS not in signature.outputs:
            raise RequestError(
                Code.FAILED_PRECONDITION,
                "No regression outputs found in SignatureDef: "
                f"{signature.name} has {list(signature.outputs)}",
            )
        return
    if count not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {count}")
    if not {CLASSES, SCORES} & signature.outputs.keys():
        raise RequestError(
            Code.FAILED_PRECONDITION,
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {signature.name} with {list(signature.outputs)}',
        )


def classification(outputs: Tensors, examples: int) -> classification_pb2.ClassificationResult:
    """Returns the result of a classification.

    Args:
      outputs: `classes`, text, `scores`, float32, or both; each [examples, classes].
      examples: how many were asked for.

    Raises:
      RequestError: INVALID_ARGUMENT for outputs of another shape or dtype.
    """
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for name, array, dtype, called in (
        (CLASSES, classes, np.object_, "DT_STRING"),
        (SCORES, scores, np.float32, "DT_FLOAT"),
    ):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {format_shape(array.shape)}"
            )
        if array.dtype != dtype:
            raise invalid(f"Expected {name} Tensor of {called}. Got: {array.dtype.name}")
        if len(array) != examples:
            raise invalid(f"Expected {name} output batch size of {examples}. Got: {len(array)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    result = classification_pb2.ClassificationResult()
    width = next(array.shape[1] for array in (classes, scores) if array is not None)
    for row in range(examples):
        entries = result.classifications.add().classes
        for column in range(width):
            entry = entries.add()
            if classes is not None:
                entry.label = _text(classes[row, column])
            if scores is not None:
                entry.score = scores[row, column]
    return result


def regression(outputs: Tensors, examples: int) -> regression_pb2.RegressionResult:
    """Returns the result of a regression.

    Args:
      outputs: `outputs`, float32, [examples] or [examples, 1].
      examples: how many were asked for.

    Raises:
      RequestError: INVALID_ARGUMENT for an output of another shape or dtype.
    """
    values = outputs[OUTPUTS]
    if values.ndim != 1 and (values.ndim != 2 or values.shape[1] != 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{format_shape(values.shape)}"
        )
    if len(values) != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype.name}")
    return regression_pb2.RegressionResult(
        regressions=[regression_pb2.Regression(value=value) for value in values.ravel().tolist()]
    )


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"class {label!r} is not UTF-8, and a label is a text") from error
