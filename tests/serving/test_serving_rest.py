import base64
import http.client
import json

import pytest

RAW = {"signature_name": "serving_raw"}


def predict(served, body, where="", status=200):
    got, answer = served.http(f"/v1/models/taxi{where}:predict", body)
    assert got == status, answer
    return answer


def test_rows(served, example):
    examples = [{"b64": base64.b64encode(example(x)).decode()} for x in (1.0, 0.1)]
    assert predict(served, {"instances": examples}) == {"predictions": [2.0, 0.2]}
    named = [{"examples": value} for value in examples]
    assert predict(served, {"instances": named}) == {"predictions": [2.0, 0.2]}


def test_columns(served, example):
    examples = [{"b64": base64.b64encode(example(1.0)).decode()}]
    assert predict(served, {"inputs": examples}) == {"outputs": [2.0]}
    assert predict(served, {"inputs": {"examples": examples}}) == {"outputs": [2.0]}


def test_several_outputs(served):
    rows = RAW | {"instances": [{"x": [0.1], "company": ["é"]}]}
    row = {"score": [0.2], "company": ["é"], "company_bytes": [{"b64": "w6k="}]}
    assert predict(served, rows) == {"predictions": [row]}
    columns = RAW | {"inputs": {"x": [[0.1]], "company": [["é"]]}}
    assert predict(served, columns) == {"outputs": {name: [value] for name, value in row.items()}}


def test_numbers_that_are_not_finite(served):
    body = (
        b'{"signature_name": "serving_raw", "inputs": {"x": [[NaN], [-Infinity]], "company": [["a"], ["b"]]}}'
    )
    nan, infinite = predict(served, body)["outputs"]["score"]
    assert nan[0] != nan[0] and infinite == [float("-inf")]


@pytest.mark.parametrize(
    ("where", "version"),
    [("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/labels/champi%6Fn", 2), ("/labels/previous", 1)],
)
def test_version_and_label_choose(served, where, version):
    body = RAW | {"inputs": {"x": [[1.0]], "company": [["a"]]}}
    assert predict(served, body, where)["outputs"]["score"] == [[float(version)]]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/nope:predict", {}, 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/taxi/versions/9:predict", {}, 404, "Servable not found for request: Specific(taxi, 9)"),
        ("/v1/models/taxi/labels/x:predict", {}, 400, "Unrecognized servable version label: x"),
        (f"/v1/models/taxi/versions/{'9' * 40}:predict", {}, 400,
         f"Failed to convert version: {'9' * 40} to numeric."),
        ("/v1/models/taxi:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/taxi:predict", {"signature_name": "x"}, 400,
         'Serving signature name: "x" not found in signature def'),
        ("/v1/models/taxi:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/taxi:predict", RAW | {"instances": [{"x": 1.0, "company": "a"}]}, 400,
         "input company: expected string [-1,1], got string [1]"),
        ("/v1/models/taxi:predict",
         RAW | {"instances": [{"x": [1.0], "company": ["a"]}, {"x": ["b"], "company": ["a"]}]}, 400,
         "Failed to process element: 1 key: x of 'instances' list."),
        ("/v1/models/taxi:predict", {"instances": ["not an example"]}, 400, "example"),
        ("/v1/models/taxi:classify", {}, 400, "key 'examples' is expected and was not found"),
        ("/v2/models/taxi", None, 404, "Not Found: /v2/models/taxi"),
        ("/v1/models/taxi:explain", {}, 400, "Malformed request: POST /v1/models/taxi:explain"),
        ("/v1/models/taxi", {}, 400, "Malformed request: POST /v1/models/taxi"),
        ("/v1/models/taxi:predict", None, 400, "Malformed request: GET /v1/models/taxi:predict"),
        ("/v1/models/nope", None, 404, "Could not find any versions of model nope"),
        ("/v1/models/taxi/versions/9", None, 404, "Could not find version 9 of model taxi"),
        ("/v1/models/nope/metadata", None, 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models", None, 400, "Missing model name in request."),
        ("/v1/elsewhere", None, 400, "Malformed request: GET /v1/elsewhere"),
    ],
)  # fmt: skip
def test_errors(served, path, body, status, message):
    got, answer = served.http(path, body)
    assert (got, answer.keys()) == (status, {"error"})
    assert message in answer["error"]


def test_other_http_methods_are_malformed(served):
    assert served.http("/v1/models/taxi:predict", {}, method="PUT")[0] == 400


def test_status(served):
    def entry(version):
        status = {"error_code": "OK", "error_message": ""}
        return {"version": version, "state": "AVAILABLE", "status": status}

    assert served.http("/v1/models/taxi") == (200, {"model_version_status": [entry("2"), entry("1")]})
    for path in ("/versions/1", "/labels/previous"):
        assert served.http("/v1/models/taxi" + path) == (200, {"model_version_status": [entry("1")]})


@pytest.mark.parametrize(("where", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/previous", "1")])
def test_metadata(served, where, version):
    status, body = served.http(f"/v1/models/taxi{where}/metadata")
    assert status == 200
    assert body["model_spec"] == {"name": "taxi", "signature_name": "", "version": version}
    examples = body["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["examples"]
    assert examples == {
        "name": "serving_default_examples:0",
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }


def test_readiness(served):
    assert served.http("/healthz") == (200, {"status": "ok"})


def test_a_connection_serves_many_requests(served):
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)
    for x in range(3):
        body = json.dumps(RAW | {"instances": [{"x": [x], "company": ["a"]}]})
        connection.request("POST", "/v1/models/taxi:predict", body)
        response = connection.getresponse()
        assert json.loads(response.read())["predictions"][0]["score"] == [2.0 * x]
        assert response.headers["Content-Type"] == "application/json"
    connection.close()
