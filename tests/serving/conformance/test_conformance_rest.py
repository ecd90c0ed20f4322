"""The REST API: http_rest_api_handler.cc, http_rest_api_util.cc and json_tensor.cc."""

import base64
import math
import re

import pytest

pytestmark = pytest.mark.xdist_group("conformance")

COLUMNS = {"x": [0.5, 2.0], "n": [1, -3]}
ROWS = [{"x": 0.5, "n": 1}, {"x": 2.0, "n": -3}]


def b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def test_predict_rows(target):
    wanted = [{"product": 1.0, "count": 3}, {"product": 4.0, "count": -1}]
    assert target.post("predict", {"instances": ROWS}) == (200, {"predictions": wanted})


def test_predict_columns(target):
    wanted = {"product": [1.0, 4.0], "count": [3, -1]}
    assert target.post("predict", {"inputs": COLUMNS}) == (200, {"outputs": wanted})


def test_one_input_and_one_output_need_no_name(target):
    for instances in ([0.5, 2.0], [{"x": 0.5}, {"x": 2.0}]):
        body = {"signature_name": "one", "instances": instances}
        assert target.post("predict", body) == (200, {"predictions": [1.0, 4.0]})
    for inputs in ([0.5, 2.0], {"x": [0.5, 2.0]}):
        body = {"signature_name": "one", "inputs": inputs}
        assert target.post("predict", body) == (200, {"outputs": [1.0, 4.0]})


def test_predict_lists(target):
    body = {"signature_name": "lists", "instances": [[1.5, 2], [0.1, 0.2]]}
    status, answer = target.post("predict", body)
    assert status == 200
    first, second = answer["predictions"]
    assert first == {"sums": 7.0, "lists": [1.5, 2.0]}
    assert second["lists"] == [0.1, 0.2] and math.isclose(second["sums"], 0.6)


def test_bytes_go_and_come_in_base64(target):
    rows = [{"text": "é", "flag": True}, {"text": b64(b"plain"), "flag": False}]
    wanted = [
        {"text": "é", "raw_bytes": b64("é".encode()), "flag": False},
        {"text": "plain", "raw_bytes": b64(b"plain"), "flag": True},
    ]
    body = {"signature_name": "texts", "instances": rows}
    assert target.post("predict", body) == (200, {"predictions": wanted})


def test_numbers_that_are_not_finite_have_words(target):
    status, answer = target.post(
        "predict", b'{"signature_name": "one", "inputs": [NaN, Infinity, -Infinity]}'
    )
    nothing, *infinite = answer["outputs"]
    assert status == 200 and math.isnan(nothing) and infinite == [math.inf, -math.inf]


def test_single_precision_prints_short(target):
    body = {"signature_name": "one", "inputs": [0.1, 1e-10, 3e20]}
    assert target.post("predict", body) == (200, {"outputs": [0.2, 2e-10, 6e20]})


@pytest.mark.parametrize(
    ("where", "factor"),
    [("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/labels/previous", 1), ("/labels/stable", 2)],
)
def test_a_version_or_a_label(target, where, factor):
    body = {"signature_name": "one", "inputs": [1.5]}
    assert target.post("predict", body, where) == (200, {"outputs": [1.5 * factor]})
    body = {"signature_name": "regress", "examples": [{"x": 1.5}]}
    assert target.post("regress", body, where) == (200, {"results": [1.5 * factor]})
    body = {"signature_name": "classify", "examples": [{"x": 1.5}]}
    wanted = [[["low", -1.5 * factor], ["high", 1.5 * factor]]]
    assert target.post("classify", body, where) == (200, {"results": wanted})


def test_examples_by_feature(target):
    rows = [{"x": 1.5, "plus": [2]}, {"x": [-0.1], "name": b64(b"abc")}, {"x": 0.0, "plus": True}]
    body = {"signature_name": "regress", "examples": rows}
    assert target.post("regress", body) == (200, {"results": [5.0, 2.8, 1.0]})


def test_a_context_goes_to_every_example(target):
    body = {"signature_name": "regress", "context": {"x": 10.0, "name": "ab"}, "examples": [{}, {"x": 1.0}]}
    assert target.post("regress", body) == (200, {"results": [22.0, 4.0]})


PREDICT_REFUSALS = [
    (b"", "JSON Parse error: The document is empty"),
    (b"{", "JSON Parse error: "),
    (b"[1]", "JSON Value: .*Is not object"),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"instances": [1], "inputs": [1]},
     "Not formatted correctly expecting only one of 'inputs' or 'instances'"),
    ({"signature_name": 1}, "not formatted correctly. 'signature_name' key must be a string value."),
    ({"signature_name": "nope", "instances": [1]},
     'Serving signature name: "nope" not found in signature def'),
    ({"instances": {}}, "'instances' to be an? list/array"),
    ({"instances": []}, "No values in 'instances' array"),
    ({"instances": [1.0]},
     "instances is a plain list, but expecting list of objects as multiple input tensors"),
    ({"instances": [ROWS[0], 1.0]}, "Expecting object but got list at item 1 of input list"),
    ({"instances": [{**ROWS[0], "z": 1}]},
     "Failed to process element: 0 key: z of 'instances' list. Error: .*does not have named input: z"),
    ({"instances": [{"x": 1.0}]}, "Failed to process element: 0 of 'instances' list. JSON object: .*keys"),
    ({"instances": [{"x": "1", "n": 1}]},
     'element: 0 key: x .*JSON Value: "1" Type: String is not of expected type: float'),
    ({"instances": [{"x": None, "n": 1}]}, "element: 0 key: x .*Type: Null is not of expected type: float"),
    ({"instances": [{"x": 1.0, "n": 1.5}]},
     "element: 0 key: n .*1.5 Type: Number is not of expected type: int64"),
    ({"instances": [{"x": 1e39, "n": 1}]},
     "Cannot convert JSON value: .* to float without loss of precision"),
    ({"instances": [{"x": [1.0, 2.0], "n": 1}, {"x": [1.0], "n": 1}]},
     "element: 1 key: x .*Expecting (tensor size: 2|shape .2.) but got: (1|.1.)"),
    ({"inputs": [1.0]}, "inputs is a plain value/list, but expecting an object as multiple input tensors"),
    ({"inputs": {"x": [1.0]}}, "Missing named input: n in 'inputs' object."),
    ({"signature_name": "one", "instances": [1.0, {"x": 1.0}]},
     "Expecting value/list but got object at item 1 of input list"),
    ({"signature_name": "texts", "inputs": {"text": [{"b64": "?"}], "flag": [True]}},
     "Unable to base64 decode"),
    ({"signature_name": "texts", "inputs": {"text": [{"b46": ""}], "flag": [True]}},
     "not formatted correctly for base64 data"),
    ({"signature_name": "lists", "inputs": [[1.0], [1.0, 2.0]]},
     "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
]  # fmt: skip
EXAMPLES_REFUSALS = [
    (b"", "JSON Parse error: The document is empty"),
    ({}, "key 'examples' is expected and was not found"),
    ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
    ({"examples": []}, "'examples' value is an empty array"),
    ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
    ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    ({"examples": [{"x": {"a": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    ({"examples": [{"x": [1.0, "a"]}]}, "Unexpected element type in feature: x expecting type: float"),
    ({"examples": [{"x": [1, 1.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
    ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
    ({"examples": [{"x": 1e39}]}, "Cannot convert JSON value: .* to float without loss of precision"),
    ({"examples": [{"x": 1.0}], "signature_name": "nope"}, "No signature was found with the name: nope"),
    ({"examples": [{"x": 1.0}]}, "signature method_name to be tensorflow/serving/(classify|regress). Was: "
     "tensorflow/serving/predict"),
    ({"examples": [{}], "signature_name": "SAME"}, "Feature: x .*is required but could not be found"),
    ({"examples": [{"x": 1}], "signature_name": "SAME"}, "Data type: int64 but expected type: float"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), PREDICT_REFUSALS)
def test_predict_says_what_it_refuses(target, body, message):
    status, answer = target.post("predict", body)
    assert (status, answer.keys()) == (400, {"error"})
    assert re.search(message, answer["error"], re.DOTALL), answer["error"]


@pytest.mark.parametrize("method", ["classify", "regress"])
@pytest.mark.parametrize(("body", "message"), EXAMPLES_REFUSALS)
def test_classify_and_regress_say_what_they_refuse(target, method, body, message):
    if isinstance(body, dict) and body.get("signature_name") == "SAME":
        body = {**body, "signature_name": method}
    status, answer = target.post(method, body)
    assert (status, answer.keys()) == (400, {"error"})
    assert re.search(message, answer["error"], re.DOTALL), answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/calc/versions/9:predict", 404, "Servable not found for request: Specific(calc, 9)"),
        ("/v1/models/calc/versions/9:regress", 404, "Servable not found for request: Specific(calc, 9)"),
        ("/v1/models/calc/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("/v1/models/calc/labels/x:classify", 400, "Unrecognized servable version label: x"),
        (f"/v1/models/calc/versions/{'9' * 40}:predict", 400,
         f"Failed to convert version: {'9' * 40} to numeric."),
        ("/v1/models/calc:explain", 400, "Malformed request: POST /v1/models/calc:explain"),
        ("/v1/models/calc", 400, "Malformed request: POST /v1/models/calc"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere(target, path, status, message):
    body = {"signature_name": "one", "instances": [1.0], "examples": [{"x": 1.0}]}
    assert target.http(path, body) == (status, {"error": message})
