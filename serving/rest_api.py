"""TF Serving's REST API over a catalog."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Mapping
from concurrent import futures
from typing import Any

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2

from serving import grpc_api
from serving.catalog import Catalog
from serving.errors import Code, RequestError, ServerError, invalid
from serving.models import DEFAULT_SIGNATURE, LoadedModel
from serving.predict_json import format_predictions, parse_predict
from serving.protos import numpy
from serving.tensors import TensorSpec

_log = logging.getLogger(__name__)

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII)
_GET = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)
_LARGEST_VERSION = 2**63 - 1

_HTTP_CODES = {
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


def create_app(catalog: Catalog, threads: futures.ThreadPoolExecutor) -> Starlette:
    """Returns the ASGI application.

    Args:
      threads: run the requests, so that a long prediction does not keep others from being read.
    """

    async def models(request: Request) -> Response:
        body = await request.body()
        loop = asyncio.get_running_loop()
        path = request.scope["path"]  # Percent-decoded, unlike `request.url.path`.
        return await loop.run_in_executor(threads, _respond, catalog, request.method, path, body)

    async def healthz(request: Request) -> Response:
        waiting = catalog.unavailable()
        return _json({"error": "; ".join(waiting)}, 503) if waiting else _json({"status": "ok"})

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/healthz", healthz), Route("/v1/{rest:path}", models, methods=methods)])


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; port 0 picks a free one.

    Raises:
      ServerError: the port is taken or not allowed, or the host is unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServerError(
            f"REST: cannot listen on {host}:{port} ({error.strerror}); the port must be free and allowed: "
            "stop what listens there, or choose another port (0 picks a free one)"
        ) from error
    return listener


def _respond(catalog: Catalog, verb: str, path: str, body: bytes) -> Response:
    try:
        return _answer(catalog, verb, path, body)
    except RequestError as error:
        return _json({"error": error.message}, _HTTP_CODES.get(error.code, 500))
    except Exception as error:
        _log.exception("%s %s failed", verb, path)
        return _json({"error": f"{type(error).__name__}: {error}"}, 500)


def _answer(catalog: Catalog, verb: str, path: str, body: bytes) -> Response:
    if verb == "POST" and (match := _POST.fullmatch(path)):
        method = match["method"].lower()
        if method != "predict":
            raise RequestError(
                Code.UNIMPLEMENTED,
                f"{method} is not served by the embedded server: call predict, which runs any signature",
            )
        with catalog.use(*_spec(match)) as model:
            return Response(_predict(model, body), media_type="application/json")
    if verb == "GET" and path.lower().rstrip("/") == "/v1/models":
        raise invalid("Missing model name in request.")
    if verb == "GET" and (match := _GET.fullmatch(path)):
        if match["metadata"]:
            return _json(_metadata(grpc_api.metadata(catalog, *_spec(match))))
        return _json(_to_dict(grpc_api.model_status(catalog, *_spec(match))))
    raise invalid(f"Malformed request: {verb} {path}")


def _predict(model: LoadedModel, body: bytes) -> bytes:
    def inputs(name: str) -> Mapping[str, TensorSpec]:
        signature = model.signature(name)
        if signature is None:
            raise invalid(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
        return signature.inputs

    parsed = parse_predict(body, inputs)
    signature = model.signature(parsed.signature_name)
    assert signature is not None  # `inputs` has found it.
    outputs = signature.run(parsed.inputs)
    return format_predictions({name: numpy(tensor) for name, tensor in outputs.items()}, parsed.by_row)


def _spec(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    version = None if match["version"] is None else int(match["version"][:20])
    if version is not None and version > _LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {match['version']} to numeric.")
    return match["name"], version, match["label"]


def _metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> dict[str, Any]:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[grpc_api.SIGNATURE_DEF].Unpack(signatures)
    return {
        "model_spec": _to_dict(response.model_spec),
        "metadata": {grpc_api.SIGNATURE_DEF: _to_dict(signatures)},
    }


def _to_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(document: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(document), status, media_type="application/json")
