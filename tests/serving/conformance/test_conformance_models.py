"""Status, metadata, what is served: server_core.cc, get_model_status_impl.cc, get_model_metadata_impl.cc."""

import time

import pytest
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

from tests.serving.conformance.calc_models import MODEL, SERVED
from tests.serving.conformance.calc_requests import fill_spec, predict, refusal

pytestmark = pytest.mark.xdist_group("conformance")

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
GONE = {
    get_model_status_pb2.ModelVersionStatus.UNLOADING,
    get_model_status_pb2.ModelVersionStatus.END,
}


def status_request(**spec):
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, **spec)
    return request


def states(target):
    statuses = target.models.GetModelStatus(status_request()).model_version_status
    return {status.version: status.state for status in statuses}


def metadata_request(*fields, **spec):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    fill_spec(request.model_spec, **spec)
    return request


def test_status_over_grpc(target):
    assert {version: state for version, state in states(target).items() if version < 3} == dict.fromkeys(
        SERVED.values(), AVAILABLE
    )
    (status,) = target.models.GetModelStatus(status_request(version=1)).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, AVAILABLE, 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"version": 9}, "Could not find version 9 of model calc"),
        ({"model": "nope"}, "Could not find any versions of model nope"),
    ],
)
def test_status_of_what_is_not_there(target, spec, message):
    assert refusal(target.models.GetModelStatus, status_request(**spec)) == ("NOT_FOUND", message)
    where = f"/versions/{spec['version']}" if "version" in spec else ""
    path = f"/v1/models/{spec.get('model', MODEL)}{where}"
    assert target.http(path) == (404, {"error": message})


def test_status_without_a_model_spec(target):
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refusal(target.models.GetModelStatus, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_status_over_rest(target):
    entry = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    status, answer = target.http(f"/v1/models/{MODEL}")
    assert status == 200
    entries = [one for one in answer["model_version_status"] if one["version"] != "3"]
    assert entries == [{"version": "2", **entry}, {"version": "1", **entry}]
    for where in ("/versions/1", "/labels/previous"):
        status, answer = target.http(f"/v1/models/{MODEL}{where}")
        assert (status, answer["model_version_status"][-1]) == (200, {"version": "1", **entry})


@pytest.mark.parametrize(
    ("spec", "version"), [({}, 2), ({"version": 1}, 1), ({"label": "previous"}, 1), ({"label": "stable"}, 2)]
)
def test_metadata_over_grpc(target, spec, version):
    response = target.predictions.GetModelMetadata(metadata_request("signature_def", **spec))
    assert (response.model_spec.name, response.model_spec.version.value) == (MODEL, version)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    methods = {name: one.method_name for name, one in signatures.signature_def.items() if one.method_name}
    assert methods.items() >= {
        ("serving_default", "tensorflow/serving/predict"),
        ("classify", "tensorflow/serving/classify"),
        ("regress", "tensorflow/serving/regress"),
    }
    inputs = signatures.signature_def["serving_default"].inputs
    assert {name: one.dtype for name, one in inputs.items()} == {"x": 1, "n": 9}


def test_metadata_over_rest(target):
    for where, version in (("", "2"), ("/versions/1", "1"), ("/labels/previous", "1")):
        status, answer = target.http(f"/v1/models/{MODEL}{where}/metadata")
        assert status == 200
        assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": version}
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        assert signatures["regress"]["method_name"] == "tensorflow/serving/regress"
        assert signatures["one"]["inputs"]["x"] == {
            "name": "one_x:0",
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        }


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (metadata_request(), "INVALID_ARGUMENT",
         "GetModelMetadataRequest must specify at least one metadata_field"),
        (metadata_request("signature_def", version=9), "NOT_FOUND",
         "Servable not found for request: Specific(calc, 9)"),
        (metadata_request("signature_def", label="x"), "INVALID_ARGUMENT",
         "Unrecognized servable version label: x"),
        (get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]),
         "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)  # fmt: skip
def test_metadata_says_what_it_refuses(target, request_, code, message):
    assert refusal(target.predictions.GetModelMetadata, request_) == (code, message)


def test_unknown_metadata_is_refused(target):
    code, message = refusal(target.predictions.GetModelMetadata, metadata_request("weights"))
    assert code == "INVALID_ARGUMENT" and message.startswith("Metadata field ")


# What is served is told over gRPC. These tests leave it as they found it.


class Told:
    """Tells the server what to serve."""

    def __init__(self, target):
        self._target = target

    def request(self, *versions, **labels):
        request = model_management_pb2.ReloadConfigRequest()
        entry = request.config.model_config_list.config.add(
            name=MODEL, base_path=f"{self._target.folder}/{MODEL}", model_platform="tensorflow"
        )
        entry.model_version_policy.specific.versions.extend(versions)
        entry.version_labels.update(labels)
        return request

    def tell(self, *versions, **labels):
        self._target.models.HandleReloadConfigRequest(self.request(*versions, **labels))

    def wait(self, wanted):
        deadline = time.monotonic() + 60
        while (now := {v for v, state in states(self._target).items() if state == AVAILABLE}) != wanted:
            assert time.monotonic() < deadline, f"{now} are available, and not {wanted}"
            time.sleep(0.05)


@pytest.fixture
def told(target):
    if target.folder is None:
        pytest.skip("SERVING_FOLDER, the folder of the models as the server sees it, is not set")
    told = Told(target)
    yield told
    told.tell(1, 2)
    told.wait({1, 2})
    told.tell(1, 2, **SERVED)


def answers(target, **spec):
    response = target.predictions.Predict(predict({"x": [1.0]}, signature="one", **spec))
    assert response.outputs["product"].float_val[0] == response.model_spec.version.value
    return response.model_spec.version.value


def test_a_promotion_in_two_steps(target, told):
    told.tell(1, 2, 3, **SERVED)
    assert answers(target, label="stable") == 2
    told.wait({1, 2, 3})
    assert (answers(target), answers(target, label="stable")) == (3, 2)
    told.tell(3, stable=3)
    assert answers(target, label="stable") == 3
    told.wait({3})
    assert states(target)[2] in GONE
    assert refusal(target.predictions.Predict, predict({"x": [1.0]}, signature="one", version=2)) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(calc, 2)",
    )
    assert refusal(target.predictions.Predict, predict({"x": [1.0]}, signature="one", label="previous")) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: previous",
    )


def test_a_label_on_a_version_that_is_not_loaded_is_refused(target, told):
    request = told.request(1, 2, 3, **{**SERVED, "stable": 3})
    code, message = refusal(target.models.HandleReloadConfigRequest, request)
    assert (code, message) == (
        "FAILED_PRECONDITION",
        "Request to assign label to version 3 of model calc, which is not currently available for inference",
    )
    assert answers(target, label="stable") == 2


def test_what_cannot_be_served_is_refused(target, told):
    twice = told.request(1, 2)
    twice.config.model_config_list.config.add().CopyFrom(twice.config.model_config_list.config[0])
    relative = told.request(1, 2)
    relative.config.model_config_list.config[0].base_path = MODEL
    platform = told.request(1, 2)
    platform.config.model_config_list.config[0].model_platform = "caffe"
    for request, message in (
        (twice, "Illegal to list model calc multiple times in config list"),
        (relative, "Expected model calc to have an absolute path or URI; got base_path()=calc"),
        (platform, "Illegal to change a model's platform. For model calc platform was tensorflow and new "
         "platform requested is caffe"),
        (model_management_pb2.ReloadConfigRequest(),
         "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
         "currently supported"),
    ):  # fmt: skip
        assert refusal(target.models.HandleReloadConfigRequest, request) == ("INVALID_ARGUMENT", message)
    assert answers(target, label="previous") == 1
