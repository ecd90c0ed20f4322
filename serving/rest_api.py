"""TF Serving's REST API: what its paths answer."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, regression_pb2

from serving import example_json, inference
from serving.errors import Code, RequestError, invalid
from serving.inference import Run
from serving.models import DEFAULT_SIGNATURE, LoadedModel, Signature
from serving.predict_json import format_predictions, parse_predict
from serving.queries import SIGNATURE_DEF, metadata, model_status
from serving.service import Service, Spec

_log = logging.getLogger(__name__)

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII)
_GET = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)
_LARGEST_VERSION = 2**63 - 1

HTTP_CODES = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}  # The others are 500.


def respond(service: Service, verb: str, path: str, body: bytes, key: str | None) -> tuple[int, bytes]:
    """Returns status and JSON of the answer to a request below /v1/.

    Args:
      service: answers.
      verb: GET, POST, ...
      path: percent-decoded, without a query.
      body: of a POST.
      key: of the request, for the log.
    """
    try:
        return HTTP_CODES[Code.OK], _answer(service, verb, path, body, key)
    except RequestError as error:
        return HTTP_CODES.get(error.code, 500), dump({"error": error.message})
    except Exception as error:
        _log.exception("%s %s failed", verb, path)
        return 500, dump({"error": f"{type(error).__name__}: {error}"})


def dump(document: dict[str, Any]) -> bytes:
    """Returns JSON as bytes."""
    return json.dumps(document).encode()


def _answer(service: Service, verb: str, path: str, body: bytes, key: str | None) -> bytes:
    if verb == "POST" and (match := _POST.fullmatch(path)):
        method = match["method"].lower()
        with service.use(_spec(match), method, "REST") as model:
            answer, run = _ASK[method](model, body)
            service.answered(model, method, run, key)
        return answer
    if verb == "GET" and path.lower().rstrip("/") == "/v1/models":
        raise invalid("Missing model name in request.")
    if verb == "GET" and (match := _GET.fullmatch(path)):
        if match["metadata"]:
            return dump(_metadata(metadata(service.catalog, *_spec(match))))
        return dump(_to_dict(model_status(service.catalog, *_spec(match))))
    raise invalid(f"Malformed request: {verb} {path[:1000]}")


def _predict(model: LoadedModel, body: bytes) -> tuple[bytes, Run]:
    def find(name: str) -> Signature:
        signature = model.signature(name)
        if signature is None:
            raise invalid(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
        return signature

    parsed = parse_predict(body, lambda name: find(name).inputs)
    run = inference.run(find(parsed.signature_name), parsed.inputs)
    return format_predictions(run.outputs, parsed.by_row), run


def _classify(model: LoadedModel, body: bytes) -> tuple[bytes, Run]:
    parsed = example_json.parse_examples(body)
    request = classification_pb2.ClassificationRequest(input=parsed.input)
    request.model_spec.signature_name = parsed.signature_name
    response, run = inference.classify(model, request)
    return example_json.format_classification(response.result), run


def _regress(model: LoadedModel, body: bytes) -> tuple[bytes, Run]:
    parsed = example_json.parse_examples(body)
    request = regression_pb2.RegressionRequest(input=parsed.input)
    request.model_spec.signature_name = parsed.signature_name
    response, run = inference.regress(model, request)
    return example_json.format_regression(response.result), run


_ASK = {"predict": _predict, "classify": _classify, "regress": _regress}


def _spec(match: re.Match[str]) -> Spec:
    version = None if match["version"] is None else int(match["version"][:20])
    if version is not None and version > _LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {match['version']} to numeric.")
    return match["name"], version, match["label"]


def _metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> dict[str, Any]:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    return {"model_spec": _to_dict(response.model_spec), "metadata": {SIGNATURE_DEF: _to_dict(signatures)}}


def _to_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
