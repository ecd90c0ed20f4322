"""Predict over gRPC: tensorflow_serving/servables/tensorflow/predict_util.cc."""

import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.serving.conformance.calc_requests import predict, refusal

pytestmark = pytest.mark.xdist_group("conformance")

X = np.array([0.5, 2.0], np.float32)
N = np.array([1, -3], np.int64)
COLUMNS = {"x": X, "n": N}


def outputs(response):
    return {name: tf.make_ndarray(value).tolist() for name, value in response.outputs.items()}


def test_the_default_signature(target):
    response = target.predictions.Predict(predict(COLUMNS))
    assert outputs(response) == {"product": [1.0, 4.0], "count": [3, -1]}
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("calc", 2, "serving_default")
    assert list(response.outputs["product"].float_val) == [1.0, 4.0]  # Clients read the typed field.
    assert list(response.outputs["count"].int64_val) == [3, -1]


@pytest.mark.parametrize(
    ("spec", "version"),
    [({"version": 1}, 1), ({"version": 2}, 2), ({"label": "previous"}, 1), ({"label": "stable"}, 2)],
)
def test_a_version_or_a_label(target, spec, version):
    response = target.predictions.Predict(predict({"x": X}, signature="one", **spec))
    assert response.model_spec.version.value == version
    assert outputs(response) == {"product": (X * version).tolist()}


def test_a_predict_of_a_signature_for_classification(target):
    serialized = tf.train.Example()
    serialized.features.feature["x"].float_list.value.append(1.5)
    response = target.predictions.Predict(
        predict({"inputs": [serialized.SerializeToString()]}, signature="classify")
    )
    assert outputs(response) == {"classes": [[b"low", b"high"]], "scores": [[-3.0, 3.0]]}


def test_an_output_filter(target):
    response = target.predictions.Predict(predict(COLUMNS, output_filter=("count",)))
    assert outputs(response) == {"count": [3, -1]}


def test_bytes_and_truths(target):
    inputs = {"text": [b"\xff\x00", "é".encode()], "flag": [True, False]}
    response = target.predictions.Predict(predict(inputs, signature="texts"))
    assert outputs(response) == {
        "text": inputs["text"],
        "raw_bytes": inputs["text"],
        "flag": [False, True],
    }


def test_two_dimensions_and_numbers_that_are_not_finite(target):
    lists = np.array([[1.0, 2.0], [np.inf, 1.0], [np.nan, 0.0]])
    response = target.predictions.Predict(predict({"x": lists}, signature="lists"))
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["sums"]), [6.0, np.inf, np.nan])
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["lists"]), lists)


def test_no_rows(target):
    response = target.predictions.Predict(predict({"x": np.zeros(0, np.float32)}, signature="one"))
    assert outputs(response) == {"product": []}


def test_typed_values_bytes_and_one_value_for_all(target):
    typed = tensor_pb2.TensorProto(dtype=1, float_val=[1, 2])
    as_bytes = tensor_pb2.TensorProto(dtype=1, tensor_content=np.array([1, 2], np.float32).tobytes())
    for_all = tensor_pb2.TensorProto(dtype=1, float_val=[3])
    for proto, wanted in ((typed, [2.0, 4.0]), (as_bytes, [2.0, 4.0]), (for_all, [6.0, 6.0])):
        proto.tensor_shape.dim.add(size=2)
        assert outputs(target.predictions.Predict(predict({"x": proto}, signature="one"))) == {
            "product": wanted
        }


@pytest.mark.parametrize(
    ("inputs", "spec", "code", "message"),
    [
        (COLUMNS, {"model": "nope"}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (COLUMNS, {"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(calc, 9)"),
        (COLUMNS, {"label": "x"}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (COLUMNS, {"model": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (COLUMNS, {"signature": "x"}, "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        ({"x": X}, {}, "INVALID_ARGUMENT",
         "input size does not match signature: 1!=2 len({x}) != len({n,x}). Sent extra: {}. "
         "Missing but required: {n}."),
        ({**COLUMNS, "z": X}, {}, "INVALID_ARGUMENT",
         "input size does not match signature: 3!=2 len({n,x,z}) != len({n,x}). Sent extra: {z}. "
         "Missing but required: {}."),
        (COLUMNS, {"output_filter": ("nope",)}, "INVALID_ARGUMENT",
         "output tensor alias not found in signature: nope "
         "Outputs expected to be in the set {count,product}."),
        (COLUMNS, {"output_filter": ("count", "count")}, "INVALID_ARGUMENT",
         "duplicate output tensor alias: count"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said(target, inputs, spec, code, message):
    assert refusal(target.predictions.Predict, predict(inputs, **spec)) == (code, message)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X, "z": N},  # As many as there should be, and not those.
        {"x": X.astype(np.float64), "n": N},
        {"x": X, "n": N.astype(np.int32)},
        {"x": np.array(["1"]), "n": N},
        {"x": X[np.newaxis], "n": N},
        {"x": np.float32(1), "n": N},
    ],
)
def test_inputs_that_do_not_fit_are_refused(target, inputs):
    code, _ = refusal(target.predictions.Predict, predict(inputs))
    assert code == "INVALID_ARGUMENT"


def test_values_that_do_not_fill_their_shape_are_refused(target):
    x = tf.make_tensor_proto(X)
    x.tensor_content = x.tensor_content[:5]
    code, message = refusal(target.predictions.Predict, predict({"x": x}, signature="one"))
    assert code == "INVALID_ARGUMENT" and re.match("tensor parsing error: x", message)


def test_a_request_without_a_model_spec_is_refused(target):
    request = predict_pb2.PredictRequest()
    assert refusal(target.predictions.Predict, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
