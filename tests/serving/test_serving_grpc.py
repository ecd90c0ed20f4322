import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

RAW = {"x": np.array([[0.5], [2]], np.float32), "company": [["a"], ["é"]]}
ECHO = {
    "float32": np.array([[1.5, -np.inf]], np.float32),
    "float64": np.array([0.1, 1e300]),
    "float16": np.array([0.1], np.float16),
    "int8": np.array([-128, 127], np.int8),
    "int16": np.array([-(2**15)], np.int16),
    "int32": np.array([-(2**31)], np.int32),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint8": np.array([255], np.uint8),
    "uint16": np.array([2**16 - 1], np.uint16),
    "uint32": np.array([2**32 - 1], np.uint32),
    "uint64": np.array([2**64 - 1], np.uint64),
    "bool": np.array([[True], [False]]),
    "string": np.array([b"\xff\x00", b""], np.object_),
    "bfloat16": np.array([1.5], tf.bfloat16.as_numpy_dtype),
    "complex64": np.array([1 + 2j], np.complex64),
}


def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def test_predict_with_the_default_signature(served, example):
    response = served.predict({"examples": [example(1.0), example(0.5)]})
    assert (response.model_spec.name, response.model_spec.version.value) == ("taxi", 2)
    assert response.model_spec.signature_name == "serving_default"
    assert list(response.outputs["score"].float_val) == [2.0, 1.0]  # The field that clients read.
    assert tf.make_ndarray(response.outputs["score"]).tolist() == [2.0, 1.0]


def test_predict_with_another_signature(served):
    response = served.predict(RAW, signature="serving_raw")
    assert tf.make_ndarray(response.outputs["score"]).tolist() == [[1.0], [4.0]]
    assert tf.make_ndarray(response.outputs["company"]).tolist() == [[b"a"], ["é".encode()]]
    assert response.model_spec.signature_name == "serving_raw"


def test_output_filter(served):
    response = served.predict(RAW, signature="serving_raw", output_filter=("score",))
    assert list(response.outputs) == ["score"]
    code, details = refusal(lambda: served.predict(RAW, signature="serving_raw", output_filter=("nope",)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("output tensor alias not found in signature: nope")


@pytest.mark.parametrize("scalars", [False, True])
def test_every_dtype_goes_through(served, scalars):
    sent = {name: value.ravel()[0] if scalars else value for name, value in ECHO.items()}
    protos = {name: tf.make_tensor_proto(value, tf.as_dtype(name)) for name, value in sent.items()}
    response = served.predict(protos, signature="echo")
    for name, value in sent.items():
        back = tf.make_ndarray(response.outputs[name])
        assert response.outputs[name].dtype == protos[name].dtype
        assert back.tolist() == (value if scalars and name == "string" else value.tolist()), name


def test_values_may_come_in_typed_fields_or_as_bytes(served):
    typed = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[1, 2])
    typed.tensor_shape.dim.add(size=2)
    typed.tensor_shape.dim.add(size=1)
    as_bytes = tf.make_tensor_proto(np.array([[1], [2]], np.float32))
    assert as_bytes.tensor_content and not typed.tensor_content
    for x in (typed, as_bytes):
        response = served.predict({"x": x, "company": [["a"], ["b"]]}, signature="serving_raw")
        assert tf.make_ndarray(response.outputs["score"]).tolist() == [[2.0], [4.0]]


def test_large_arrays_go_through(served):
    x = np.arange(300_000, dtype=np.float32).reshape(-1, 1)
    company = np.full(x.shape, b"a", np.object_)
    response = served.predict({"x": x, "company": company}, signature="serving_raw", output_filter=("score",))
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["score"]), x * 2)


def test_an_empty_batch_goes_through(served):
    inputs = {"x": np.empty((0, 1), np.float32), "company": tf.make_tensor_proto([], tf.string, (0, 1))}
    response = served.predict(inputs, signature="serving_raw")
    assert tf.make_ndarray(response.outputs["score"]).shape == (0, 1)


def test_version_and_label_choose(served):
    assert served.score(version=1) == 1
    assert served.score(version=2) == 2
    assert served.score(label="previous") == 1
    assert served.score(label="champion") == 2


@pytest.mark.parametrize(
    ("choice", "code", "message"),
    [
        ({"model": "nope"}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(taxi, 9)"),
        ({"label": "x"}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        ({"model": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"signature": "x"}, "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
    ],
)
def test_what_is_not_there(served, choice, code, message):
    assert refusal(lambda: served.score(**choice)) == (grpc.StatusCode[code], message)


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"x": RAW["x"]}, ["1!=2", "Sent extra: {}", "Missing but required: {company}"]),
        ({**RAW, "z": [1]}, ["3!=2", "Sent extra: {z}", "Missing but required: {}"]),
        ({"x": RAW["x"], "z": [1]}, ["Sent extra: {z}", "Missing but required: {company}"]),
        ({**RAW, "x": [[1]]}, ["input x: expected float [-1,1], got int32 [1,1]"]),
        ({**RAW, "x": [1.0]}, ["input x: expected float [-1,1], got float [1]"]),
        ({**RAW, "x": np.ones((2, 3), np.float32)}, ["input x: expected float [-1,1], got float [2,3]"]),
        ({**RAW, "x": tensor_pb2.TensorProto()}, ["input x: expected float [-1,1], got 0 []"]),
    ],
)
def test_wrong_inputs_are_named(served, inputs, parts):
    code, details = refusal(lambda: served.predict(inputs, signature="serving_raw"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert all(part in details for part in parts), details


def test_values_that_do_not_fill_the_shape_are_refused(served):
    x = tf.make_tensor_proto(np.ones((2, 1), np.float32))
    x.tensor_shape.dim[0].size = 3
    code, details = refusal(lambda: served.predict({**RAW, "x": x}, signature="serving_raw"))
    assert (code, details.split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error")


def test_what_tensorflow_says_comes_through(served):
    code, details = refusal(lambda: served.predict({"examples": [b"not an example"]}))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Could not parse example input") or "Feature: x" in details, details
    code, details = refusal(lambda: served.predict({"examples": [b"\xff" * 5000]}))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(details) <= 1024 + len("...TRUNCATED")


def test_metadata(served):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "taxi"
    request.model_spec.version_label = "previous"
    response = served.prediction.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("taxi", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_raw"].inputs["x"].dtype == tf.float32.as_datatype_enum

    del request.metadata_field[:]
    code, details = refusal(lambda: served.prediction.GetModelMetadata(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "at least one metadata_field" in details
    request.metadata_field.append("weights")
    code, details = refusal(lambda: served.prediction.GetModelMetadata(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "weights is not supported" in details


def test_status(served):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "taxi"
    statuses = served.models.GetModelStatus(request).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(s.version, s.state, s.status.error_code) for s in statuses] == [
        (2, available, 0),
        (1, available, 0),
    ]
    request.model_spec.version.value = 1
    assert [s.version for s in served.models.GetModelStatus(request).model_version_status] == [1]
    request.model_spec.version.value = 9
    assert refusal(lambda: served.models.GetModelStatus(request)) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 9 of model taxi",
    )


def test_requests_without_a_model_spec_are_refused(served):
    for call, request in [
        (served.models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()),
        (served.prediction.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest()),
    ]:
        assert refusal(lambda c=call, r=request: c(r)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Missing ModelSpec",
        )


def test_reload_config_without_a_list_is_refused(served):
    code, details = refusal(
        lambda: served.models.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest())
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "ModelConfigList" in details
