"""Requests to `calc`, and the refusals that come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import input_pb2, predict_pb2

from tests.serving.conformance.calc_models import MODEL


def fill_spec(
    spec: Any, signature: str = "", model: str = MODEL, version: int | None = None, label: str | None = None
) -> None:
    spec.name, spec.signature_name = model, signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def predict(inputs: dict[str, Any], output_filter: tuple[str, ...] = (), **spec: Any) -> Any:
    """A PredictRequest; inputs are TensorProtos, or what converts to them."""
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    fill_spec(request.model_spec, **spec)
    for name, value in inputs.items():
        is_proto = isinstance(value, tensor_pb2.TensorProto)
        request.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return request


def example(**features: Any) -> Any:
    """A tf.Example: floats, ints or text by name, one value each."""
    made = tf.train.Example()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, float):
            feature.float_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode())
    return made


def examples(*rows: Any, context: Any = None) -> input_pb2.Input:
    """The input of a classification or a regression."""
    made = input_pb2.Input()
    if context is None:
        made.example_list.examples.extend(rows)
        return made
    made.example_list_with_context.context.CopyFrom(context)
    made.example_list_with_context.examples.extend(rows)
    return made


def refusal(call: Callable[[Any], Any], request: Any) -> tuple[str, str]:
    """Name of the code and message with which a request is refused."""
    with pytest.raises(grpc.RpcError) as error:
        call(request)
    return error.value.code().name, error.value.details()
